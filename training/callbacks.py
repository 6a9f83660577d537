"""What Lightning's loop does beside its steps: read ahead, say how it goes, sign checkpoints."""

import time
from collections.abc import Callable
from typing import Any

import lightning

from generation.recipe import Recipe
from training.loader import HeldOutLoader, StreamLoader
from training.progress import TrainingProgress


class ProgressCallback(lightning.Callback):
    """Says how the run goes after a step, at most once in `interval_seconds`, and at each epoch's end."""

    def __init__(
        self,
        loader: StreamLoader,
        held_out: HeldOutLoader,
        report: Callable[[TrainingProgress], Any],
        interval_seconds: float,
    ) -> None:
        """Take the loaders, which know the waiting time, and what to call."""
        self.loader = loader
        self.held_out = held_out
        self.report = report
        self.interval_seconds = interval_seconds
        self.reported_at = 0.0

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report if it is time to."""
        pl_module.log("train/reuse", self.loader.reuse)
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
                asked_at=self.loader.asked_at,
                first_batch_at=self.loader.first_batch_at,
                training_seconds=self.reported_at - self.loader.first_batch_at,
                waiting_seconds=self.loader.waiting_seconds + self.held_out.waiting_seconds,
                reuse=self.loader.reuse,
                loss=float(trainer.callback_metrics["train/loss"]),
                held_out_top1=None if top1 is None else float(top1),
            )
        )


class ReadAheadCallback(lightning.Callback):
    """Has the held-out samples generated while the first epoch trains, once the stream is under way."""

    def __init__(self, held_out: HeldOutLoader) -> None:
        """Take the loader to start."""
        self.held_out = held_out

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Start it with the first batch; later calls change nothing."""
        self.held_out.start()


class RecipeCallback(lightning.Callback):
    """Writes the recipe into every checkpoint: what the classifier was taught, and how to make it again."""

    def __init__(self, recipe: Recipe) -> None:
        """Take the recipe of the stream."""
        self.recipe = recipe

    def on_save_checkpoint(self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Add the recipe's JSON and its hash."""
        checkpoint["recipe"] = {"json": self.recipe.to_json(), "sha256": self.recipe.sha256}
