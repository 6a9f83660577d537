"""Progress of a training run, reported by its first worker. Light to import: it crosses processes."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingProgress:
    """Snapshot of a training run, measured by its first worker."""

    num_trained: int
    """Images trained on, over all workers."""

    num_trained_before: int
    """Part of `num_trained` from before the last resume; 0 for an uninterrupted run."""

    epoch: int
    """Logical epochs finished."""

    requested_at: float
    """Unix time of the request for the first batch, in seconds."""

    first_batch_at: float
    """Unix time of the arrival of the first batch, in seconds."""

    training_seconds: float = 0.0
    """Seconds since the first batch arrived."""

    waiting_seconds: float = 0.0
    """Part of `training_seconds` in which the first worker waited for images, held-out ones and a wait in progress
    included.
    """

    pool_waiting_seconds: float = 0.0
    """Part of `waiting_seconds` without waits for mixed-in real images: what a larger generator pool could reduce."""

    held_out_waiting_seconds: float = 0.0
    """Part of `waiting_seconds` for held-out samples, at the end of epochs."""

    validation_seconds: float = 0.0
    """Part of `training_seconds` spent in validation, without waiting for held-out samples."""

    num_delivered: int = 0
    """Generated images delivered to all workers since then: the first worker's, times the number of workers."""

    reuse: float = 0.0
    """Mean number of uses per delivered image so far."""

    loss: float = math.nan
    held_out_top1: float | None = None
    """Accuracy on held-out samples at the end of the last epoch, 0..1; None before the first."""

    num_in_reservoir: int = 0
    """Images in the first worker's reservoir."""

    batch_overlap: float = 0.0
    """Fraction of a batch that was also in the previous one, 0..1: mean over the first worker's last eight batches."""

    mean_batch_overlap: float = 0.0
    """`batch_overlap` averaged over all batches so far."""

    num_window_classes: int = 0
    """Classes in the first worker's last eight batches."""

    @property
    def learning_seconds(self) -> float:
        """Training time without validation and without waiting for held-out samples."""
        return self.training_seconds - self.validation_seconds - self.held_out_waiting_seconds

    @property
    def starved_seconds(self) -> float:
        """Part of `learning_seconds` spent waiting for generated images."""
        return self.pool_waiting_seconds - self.held_out_waiting_seconds

    @property
    def waiting_fraction(self) -> float:
        """Fraction of `training_seconds` spent waiting for images, 0..1."""
        return self.waiting_seconds / max(self.training_seconds, 1e-9)

    @property
    def trained_per_second(self) -> float:
        """Images trained on per second since the first batch arrived."""
        return self.num_trained_since_resume / max(self.training_seconds, 1e-9)

    @property
    def num_trained_since_resume(self) -> int:
        """Images trained on since the start or the last resume."""
        return self.num_trained - self.num_trained_before
