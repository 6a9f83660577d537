"""How a run goes, as its first worker says it to whoever watches. Light to import: it crosses processes."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingProgress:
    """A training run at one moment, as its first worker sees it."""

    num_trained: int
    """Images trained on, over all workers."""

    num_trained_before: int
    """How many of them before the run was last taken up; 0 for one that was not interrupted."""

    epoch: int
    """Logical epochs finished."""

    requested_at: float
    """When the first batch was asked for, in seconds of `time.time()`."""

    first_batch_at: float
    """When it came."""

    training_seconds: float = 0.0
    """Since the first batch came."""

    waiting_seconds: float = 0.0
    """How much of `training_seconds` the first worker waited for images, held-out ones included, and a wait that is not
    over.
    """

    pool_waiting_seconds: float = 0.0
    """The same without waiting for real images: what a pool of generators may do something about."""

    held_out_waiting_seconds: float = 0.0
    """How much of `waiting_seconds` went by at the end of epochs, until held-out samples were there."""

    validation_seconds: float = 0.0
    """How much of `training_seconds` the held-out accuracy took, waiting for its samples aside."""

    num_delivered: int = 0
    """Generated images that have come to the workers since then: those of the first worker, times their number."""

    reuse: float = 0.0
    """How often an image was used so far, in the mean."""

    loss: float = math.nan
    held_out_top1: float | None = None
    """Accuracy on held-out generated samples at the end of the last epoch, 0..1."""

    num_in_reservoir: int = 0
    """Images that the first worker's next batch is drawn from."""

    batch_overlap: float = 0.0
    """Share of a batch of the first worker's whose images were in the one before too, 0..1: mean of the last eight."""

    mean_batch_overlap: float = 0.0
    """The same of all batches so far."""

    num_window_classes: int = 0
    """Classes in the first worker's last eight batches."""

    @property
    def learning_seconds(self) -> float:
        """How long it learnt, or waited for images to learn from: neither judged nor waited for held-out ones."""
        return self.training_seconds - self.validation_seconds - self.held_out_waiting_seconds

    @property
    def starved_seconds(self) -> float:
        """How much of that it waited for generated images, real ones that are mixed in aside."""
        return self.pool_waiting_seconds - self.held_out_waiting_seconds

    @property
    def waiting_fraction(self) -> float:
        """Share of time spent waiting for images, 0..1."""
        return self.waiting_seconds / max(self.training_seconds, 1e-9)

    @property
    def trained_per_second(self) -> float:
        """Images trained on a second, since the first batch came."""
        return self.num_trained_since_resume / max(self.training_seconds, 1e-9)

    @property
    def num_trained_since_resume(self) -> int:
        """Images trained on since the run was last taken up."""
        return self.num_trained - self.num_trained_before
