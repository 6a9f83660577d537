"""What Lightning's loop does beside its steps: say how it goes, sign and save checkpoints."""

import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint

from generation.files import write_whole
from generation.recipes.recipe import Recipe
from generation.work_clock import WorkClock
from training.checkpoint import checkpoint_files, checkpoint_name
from training.data.loader import HeldOutLoader, MixedLoader
from training.progress import TrainingProgress


class ProgressCallback(lightning.Callback):
    """Says how the run goes after a step, at most once in `interval_seconds`, and at each epoch's end.

    While a step takes longer, or waits for images, it says so often how long that has been.
    """

    def __init__(
        self,
        loader: MixedLoader,
        held_out: HeldOutLoader,
        report: Callable[[TrainingProgress], Any],
        interval_seconds: float,
    ) -> None:
        self.loader = loader
        self.held_out = held_out
        self.report = report
        self.interval_seconds = interval_seconds
        self.reported_at = 0.0
        self.num_trained_before = 0
        self._judging = WorkClock(time.time)
        self._last: TrainingProgress | None = None
        self._lock = threading.Lock()
        self._is_over = threading.Event()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Note where the run goes on."""
        self.num_trained_before = trainer.global_step * pl_module.config.global_batch_size
        threading.Thread(target=self._repeat, daemon=True).start()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report if it is time to."""
        pl_module.log("train/reuse", self.loader.main.reuse)
        pl_module.log("train/drawn_from", float(len(self.loader.main.reservoir)))
        pl_module.log("train/batch_overlap", self.loader.main.variety.overlap)
        pl_module.log("train/classes_in_window", float(self.loader.main.variety.num_classes))
        if time.time() - self.reported_at >= self.interval_seconds:
            self._report(trainer, pl_module, epoch=trainer.current_epoch)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Begin to count: Lightning has fetched the first held-out samples by now, and waited for them if need be."""
        self._judging.__enter__()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """End."""
        self._judging.__exit__()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Report the epoch, its held-out accuracy known by now."""
        self._report(trainer, pl_module, epoch=trainer.current_epoch + 1)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Say no more."""
        self._is_over.set()

    def on_exception(self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Say no more."""
        self._is_over.set()

    def _report(self, trainer: lightning.Trainer, classifier: Any, epoch: int) -> None:
        if not trainer.is_global_zero or self.loader.main.first_batch_at is None:
            return
        top1 = trainer.callback_metrics.get("held_out/top1")
        progress = TrainingProgress(
            num_trained=trainer.global_step * classifier.config.global_batch_size,
            num_trained_before=self.num_trained_before,
            epoch=epoch,
            requested_at=self.loader.main.requested_at,
            first_batch_at=self.loader.main.first_batch_at,
            num_delivered=self.loader.main.num_taken * trainer.world_size,
            reuse=self.loader.main.reuse,
            num_in_reservoir=len(self.loader.main.reservoir),
            batch_overlap=self.loader.main.variety.overlap,
            mean_batch_overlap=self.loader.main.variety.mean_overlap,
            num_window_classes=self.loader.main.variety.num_classes,
            loss=float(trainer.callback_metrics["train/loss"]),
            held_out_top1=None if top1 is None else float(top1),
        )
        with self._lock:
            self._tell(progress)

    def _repeat(self) -> None:
        while not self._is_over.wait(self.interval_seconds):
            with self._lock:
                if self._last is not None and time.time() - self.reported_at >= 2 * self.interval_seconds:
                    self._tell(self._last)

    def _tell(self, progress: TrainingProgress) -> None:
        """Report with the times of now."""
        self.reported_at = time.time()
        self._last = dataclasses.replace(
            progress,
            training_seconds=self.reported_at - progress.first_batch_at,
            waiting_seconds=self.loader.waiting_seconds + self.held_out.waiting_seconds,
            pool_waiting_seconds=self.loader.main.waiting_seconds + self.held_out.waiting_seconds,
            held_out_waiting_seconds=self.held_out.waiting_seconds,
            validation_seconds=self._judging.seconds,
        )
        self.report(self._last)


NUM_CHECKPOINTS_KEPT = 2
"""If the newest is damaged, a run goes on from the one before."""


class StopEarly(EarlyStopping):
    """Ends a run after some epochs without a better held-out accuracy."""

    def __init__(self, num_epochs: int) -> None:
        super().__init__("held_out/top1", patience=num_epochs, mode="max")
        self.num_epochs = num_epochs

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting, up to the number that is set today."""
        super().load_state_dict(state_dict | {"patience": self.num_epochs})


class KeepBest(ModelCheckpoint):
    """Keeps the checkpoint of the epoch with the best held-out accuracy as `best.ckpt`."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir, "best", "held_out/top1", mode="max", enable_version_counter=False)
        self.run_dir = run_dir

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the best accuracy, though the run's folder may have moved."""
        here = str(self.run_dir / "best.ckpt")
        paths = {name: here for name in ("best_model_path", "kth_best_model_path") if state_dict[name]}
        scores = dict.fromkeys([here], state_dict["best_model_score"]) if paths else {}
        super().load_state_dict(state_dict | paths | {"dirpath": str(self.run_dir), "best_k_models": scores})


EVALUATION_ONLY = {"only_to_evaluate": True}


class CheckpointFiles(TorchCheckpointIO):
    """Writes checkpoints whole or not at all, beside their place: Lightning would stage them in TMPDIR."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a file; OSError names it. Of `EVALUATION_ONLY` what only training needs is left out."""
        if storage_options == EVALUATION_ONLY:
            checkpoint = {name: value for name, value in checkpoint.items() if name != "optimizer_states"}
        write_whole(Path(path), lambda file: torch.save(checkpoint, file))


class SaveCallback(Checkpoint):
    """Writes a checkpoint at each epoch's end, and in between after so many steps, if not 0.

    As a `Checkpoint` it comes after all that judges an epoch, whose state is to be saved.
    """

    def __init__(self, folder: Path, every_steps: int) -> None:
        self.folder = folder
        self.every_steps = every_steps

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time to, but after an epoch's last step."""
        is_inside = ends_step(trainer, batch_idx) and batch_idx + 1 != trainer.num_training_batches
        if self.every_steps and is_inside and trainer.global_step % self.every_steps == 0:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Save; the epoch has been judged."""
        self._save(trainer)

    def _save(self, trainer: lightning.Trainer) -> None:
        trainer.save_checkpoint(self.folder / checkpoint_name(trainer.global_step), weights_only=False)
        if trainer.is_global_zero:
            for old in checkpoint_files(self.folder)[NUM_CHECKPOINTS_KEPT:]:
                old.unlink()


class KeepCallback(Checkpoint):
    """Keeps weights each time that training has gone through so many more images, if not 0, for another job."""

    def __init__(self, folder: Path, every_images: int) -> None:
        self.folder = folder
        self.every_images = every_images

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep them after the first step that reaches a multiple."""
        if not (self.every_images and ends_step(trainer, batch_idx)):
            return
        size = pl_module.config.global_batch_size
        if is_reached(trainer.global_step * size, size, self.every_images):
            path = self.folder / checkpoint_name(trainer.global_step)
            trainer.save_checkpoint(path, weights_only=False, storage_options=EVALUATION_ONLY)


def ends_step(trainer: lightning.Trainer, batch_idx: int) -> bool:
    """Return whether all parts of a step are done."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


def is_reached(num_trained: int, num_in_step: int, every_images: int) -> bool:
    """Return whether the last step reached a multiple."""
    return num_trained // every_images > (num_trained - num_in_step) // every_images


class RecipeCallback(lightning.Callback):
    """Writes the recipe into every checkpoint: what the classifier was taught, and how to make it again."""

    def __init__(self, recipe: Recipe, trained_on: str) -> None:
        self.recipe = recipe
        self.trained_on = trained_on

    def on_save_checkpoint(self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Add the recipe's JSON and its hash."""
        checkpoint["recipe"] = {"json": self.recipe.to_json(), "sha256": self.recipe.sha256}
        checkpoint["trained_on"] = self.trained_on
