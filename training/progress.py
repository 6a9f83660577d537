"""How a run goes, said about once a second by the first worker to whoever watches."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning

from training.loader import StreamLoader


@dataclass(frozen=True)
class TrainingProgress:
    """A training run at one moment, as its first worker sees it."""

    num_trained: int
    """Images trained on, over all workers."""

    epoch: int
    """Logical epochs finished."""

    first_batch_at: float
    """Seconds of `time.time()`."""

    training_seconds: float
    """Since the first batch came."""

    waiting_seconds: float
    """How much of `training_seconds` went by waiting for images."""

    loss: float
    held_out_top1: float | None
    """Accuracy on held-out generated samples at the end of the last epoch, 0..1."""

    @property
    def waiting_fraction(self) -> float:
        """Share of time spent waiting for images, 0..1."""
        return self.waiting_seconds / max(self.training_seconds, 1e-9)

    @property
    def trained_per_second(self) -> float:
        """Images trained on a second, since the first batch came."""
        return self.num_trained / max(self.training_seconds, 1e-9)


class ProgressCallback(lightning.Callback):
    """Says how the run goes after a step, at most once in `interval_seconds`, and at each epoch's end."""

    def __init__(
        self, loader: StreamLoader, report: Callable[[TrainingProgress], Any], interval_seconds: float
    ) -> None:
        """Take the loader that knows the waiting time, and what to call."""
        self.loader = loader
        self.report = report
        self.interval_seconds = interval_seconds
        self.reported_at = 0.0

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report if it is time to."""
        if time.time() - self.reported_at >= self.interval_seconds:
            self._report(trainer, pl_module, epoch=trainer.current_epoch)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Report the epoch, its held-out accuracy known by now."""
        self._report(trainer, pl_module, epoch=trainer.current_epoch + 1)

    def _report(self, trainer: lightning.Trainer, classifier: Any, epoch: int) -> None:
        if not trainer.is_global_zero or self.loader.first_batch_at is None:
            return
        self.reported_at = time.time()
        top1 = trainer.callback_metrics.get("held_out/top1")
        self.report(
            TrainingProgress(
                num_trained=trainer.global_step * classifier.config.global_batch_size,
                epoch=epoch,
                first_batch_at=self.loader.first_batch_at,
                training_seconds=self.reported_at - self.loader.first_batch_at,
                waiting_seconds=self.loader.waiting_seconds,
                loss=float(trainer.callback_metrics["train/loss"]),
                held_out_top1=None if top1 is None else float(top1),
            )
        )
