"""How alike successive batches are: what a uniform draw from few images costs. Knows numbers, and no images."""

from collections import deque

import numpy as np

from generation.sample import NO_LABEL

WINDOW_BATCHES = 8
"""Batches over which overlap and classes are counted."""


class Variety:
    """Overlap of neighbouring batches of one worker, and how many classes they have."""

    def __init__(self, num_images: int | None = None) -> None:
        """Begin without batches, of images that come again after so many serials, if they do."""
        self.num_images = num_images
        self.overlap = 0.0
        """Share of a batch whose images were in the one before too, 0..1, in the mean of the last `WINDOW_BATCHES`."""

        self.mean_overlap = 0.0
        """The same of all batches so far."""

        self.num_classes = 0
        """Classes in the last `WINDOW_BATCHES` batches."""

        self._num_pairs = 0
        self._overlaps: deque[float] = deque(maxlen=WINDOW_BATCHES)
        self._labels: deque[np.ndarray] = deque(maxlen=WINDOW_BATCHES)
        self._last: np.ndarray | None = None

    def add(self, serials: np.ndarray, labels: np.ndarray) -> None:
        """Count a batch: int64 [B], int64 [B]."""
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
