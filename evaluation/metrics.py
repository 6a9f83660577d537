"""Counts that add up over batches, actors and hosts; accuracies divide once, at the very end."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class HitCounts:
    """Hits by class: images seen, and how many had the right class first or among the first five."""

    num_images: np.ndarray
    """int64 [num_classes]."""

    num_top1: np.ndarray
    """int64 [num_classes]."""

    num_top5: np.ndarray
    """int64 [num_classes]."""

    @classmethod
    def none(cls, num_classes: int) -> "HitCounts":
        """Return zeros."""
        return cls(*(np.zeros(num_classes, dtype=np.int64) for _ in range(3)))

    @classmethod
    def of(cls, labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> "HitCounts":
        """Count a batch: `labels` int [N], `predictions` int [N, 5 or fewer], the best guess first."""
        hits = predictions == labels[:, None]
        return cls(
            num_images=np.bincount(labels, minlength=num_classes),
            num_top1=np.bincount(labels[hits[:, 0]], minlength=num_classes),
            num_top5=np.bincount(labels[hits[:, :5].any(axis=1)], minlength=num_classes),
        )

    def __add__(self, other: "HitCounts") -> "HitCounts":
        """Return the counts of both."""
        return HitCounts(
            self.num_images + other.num_images, self.num_top1 + other.num_top1, self.num_top5 + other.num_top5
        )

    @property
    def top1(self) -> float:
        """Share of all images whose first guess is right, 0..1; ValueError if there is no image."""
        return self._fraction(self.num_top1)

    @property
    def top5(self) -> float:
        """Share of all images with the right class among the first five guesses, 0..1."""
        return self._fraction(self.num_top5)

    def _fraction(self, hits: np.ndarray) -> float:
        if not self.num_images.sum():
            raise ValueError("There are no images to evaluate.")
        return float(hits.sum() / self.num_images.sum())
