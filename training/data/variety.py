"""Overlap of successive batches, the cost of uniform draws from few images. Works on serials and labels only."""

from collections import deque

import numpy as np

from generation.sample import NO_LABEL

WINDOW_BATCHES = 8
"""Number of latest batches over which overlap and classes are computed."""


class Variety:
    """Overlap of successive batches of one worker, and their number of classes."""

    def __init__(self, num_images: int | None = None) -> None:
        """Start without batches. Serials repeat the same images every `num_images`; None if they never do."""
        self.num_images = num_images
        self.overlap = 0.0
        """Fraction of a batch that was also in the previous one, 0..1: mean of the last `WINDOW_BATCHES`."""

        self.mean_overlap = 0.0
        """`overlap` averaged over all batches so far."""

        self.num_classes = 0
        """Number of classes in the last `WINDOW_BATCHES` batches."""

        self._num_pairs = 0
        self._overlaps: deque[float] = deque(maxlen=WINDOW_BATCHES)
        self._labels: deque[np.ndarray] = deque(maxlen=WINDOW_BATCHES)
        self._last: np.ndarray | None = None

    def add(self, serials: np.ndarray, labels: np.ndarray) -> None:
        """Add a batch: serials int64 [B], labels int64 [B]."""
        indices = serials if self.num_images is None else serials % self.num_images
        if self._last is not None:
            overlap = float(np.isin(indices, self._last).mean())
            self._overlaps.append(overlap)
            self._num_pairs += 1
            self.overlap = sum(self._overlaps) / len(self._overlaps)
            self.mean_overlap += (overlap - self.mean_overlap) / self._num_pairs
        self._last = indices
        self._labels.append(labels[labels != NO_LABEL])
        self.num_classes = len(np.unique(np.concatenate(self._labels)))
