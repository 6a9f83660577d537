"""Lightning callbacks: progress reports, early stopping, checkpoints and their metadata."""

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.distributed
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint

from generation.files import write_whole
from generation.recipes.recipe import Recipe
from generation.work_clock import WorkClock
from training.checkpoint import checkpoint_files, checkpoint_name
from training.data.consumption import merged
from training.data.loader import HeldOutLoader, MixedLoader, StreamLoader
from training.data.reservoir import Batch
from training.progress import TrainingProgress
from training.run_state import Journal, RunState, random_state, restore_random_state


class ProgressCallback(lightning.Callback):
    """Reports progress after a step, at most once per `interval_seconds`, and at the end of each epoch.

    During a longer step or wait, a thread repeats the last report with current times. If the report of an epoch's end
    returns True, the run ends there for all workers.
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
        self._validation = WorkClock(time.time)
        self._last: TrainingProgress | None = None
        self._lock = threading.Lock()
        self._is_over = threading.Event()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Record the number of images trained before this start, and start the reporting thread."""
        self.num_trained_before = trainer.global_step * pl_module.config.global_batch_size
        threading.Thread(target=self._repeat, daemon=True).start()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log reuse and batch variety; report if the interval has passed."""
        pl_module.log("train/reuse", self.loader.main.reuse)
        pl_module.log("train/drawn_from", float(len(self.loader.main.reservoir)))
        pl_module.log("train/batch_overlap", self.loader.main.variety.overlap)
        pl_module.log("train/classes_in_window", float(self.loader.main.variety.num_classes))
        if time.time() - self.reported_at >= self.interval_seconds:
            self._report(trainer, pl_module, epoch=trainer.current_epoch)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Start the validation clock; Lightning has already waited for the first held-out samples."""
        self._validation.__enter__()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Stop the validation clock."""
        self._validation.__exit__()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Report the epoch with its validation accuracy; end the run if the first worker's report returns True."""
        is_enough = self._report(trainer, pl_module, epoch=trainer.current_epoch + 1)
        trainer.should_stop |= trainer.strategy.reduce_boolean_decision(is_enough, all=False)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Stop reporting."""
        self._is_over.set()

    def on_exception(self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Stop reporting."""
        self._is_over.set()

    def _report(self, trainer: lightning.Trainer, classifier: Any, epoch: int) -> bool:
        if not trainer.is_global_zero or self.loader.main.first_batch_at is None:
            return False
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
            return self._send(progress)

    def _repeat(self) -> None:
        while not self._is_over.wait(self.interval_seconds):
            with self._lock:
                if self._last is not None and time.time() - self.reported_at >= 2 * self.interval_seconds:
                    self._send(self._last)

    def _send(self, progress: TrainingProgress) -> bool:
        """Report progress with current times; return whether the report returned True."""
        self.reported_at = time.time()
        self._last = dataclasses.replace(
            progress,
            training_seconds=self.reported_at - progress.first_batch_at,
            waiting_seconds=self.loader.waiting_seconds + self.held_out.waiting_seconds,
            pool_waiting_seconds=self.loader.main.waiting_seconds + self.held_out.waiting_seconds,
            held_out_waiting_seconds=self.held_out.waiting_seconds,
            validation_seconds=self._validation.seconds,
        )
        return self.report(self._last) is True


NUM_CHECKPOINTS_KEPT = 2
"""Checkpoints kept during a run; if the newest is damaged, the run resumes from the previous one."""


class StopEarly(EarlyStopping):
    """Stops a run after `num_epochs` epochs without improvement of the validation accuracy."""

    def __init__(self, num_epochs: int) -> None:
        super().__init__("held_out/top1", patience=num_epochs, mode="max")
        self.num_epochs = num_epochs

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the epoch counter, with the patience of the current settings."""
        super().load_state_dict(state_dict | {"patience": self.num_epochs})


class KeepBest(ModelCheckpoint):
    """Writes the checkpoint of the epoch with the best validation accuracy to `best.ckpt`."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir, "best", "held_out/top1", mode="max", enable_version_counter=False)
        self.run_dir = run_dir

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best accuracy, with paths of the current run folder, which may have moved."""
        best_path = str(self.run_dir / "best.ckpt")
        paths = {name: best_path for name in ("best_model_path", "kth_best_model_path") if state_dict[name]}
        scores = dict.fromkeys([best_path], state_dict["best_model_score"]) if paths else {}
        super().load_state_dict(state_dict | paths | {"dirpath": str(self.run_dir), "best_k_models": scores})


EVALUATION_ONLY = {"evaluation_only": True}
"""Storage option of checkpoints without optimizer state."""


class CheckpointFiles(TorchCheckpointIO):
    """Writes checkpoints atomically, with the temporary file in the target folder: Lightning would use TMPDIR."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a file; an OSError names it. With `EVALUATION_ONLY`, omit the optimizer state."""
        if storage_options == EVALUATION_ONLY:
            checkpoint = {name: value for name, value in checkpoint.items() if name != "optimizer_states"}
        write_whole(Path(path), lambda file: torch.save(checkpoint, file))


class SaveCallback(Checkpoint):
    """Writes a checkpoint at the end of each epoch, and every `every_steps` steps; 0 writes none in between.

    Lightning runs `Checkpoint` callbacks last, so the checkpoint includes the state of early stopping and best epoch.
    """

    def __init__(self, folder: Path, every_steps: int) -> None:
        self.folder = folder
        self.every_steps = every_steps

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save at multiples of `every_steps`, except after an epoch's last step."""
        is_inside = ends_step(trainer, batch_idx) and batch_idx + 1 != trainer.num_training_batches
        if self.every_steps and is_inside and trainer.global_step % self.every_steps == 0:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Save after the epoch's validation."""
        self._save(trainer)

    def _save(self, trainer: lightning.Trainer) -> None:
        trainer.save_checkpoint(self.folder / checkpoint_name(trainer.global_step), weights_only=False)
        if trainer.is_global_zero:
            for old in checkpoint_files(self.folder)[NUM_CHECKPOINTS_KEPT:]:
                old.unlink()


class KeepCallback(Checkpoint):
    """Keeps a checkpoint for evaluation every `every_images` trained images; 0 keeps none."""

    def __init__(self, folder: Path, every_images: int) -> None:
        self.folder = folder
        self.every_images = every_images

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save after the first step that reaches a multiple of `every_images`."""
        if not (self.every_images and ends_step(trainer, batch_idx)):
            return
        size = pl_module.config.global_batch_size
        if is_reached(trainer.global_step * size, size, self.every_images):
            path = self.folder / checkpoint_name(trainer.global_step)
            trainer.save_checkpoint(path, weights_only=False, storage_options=EVALUATION_ONLY)


def ends_step(trainer: lightning.Trainer, batch_idx: int) -> bool:
    """Return whether this batch completes an optimization step."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


def is_reached(num_trained: int, num_in_step: int, every_images: int) -> bool:
    """Return whether the last step reached a multiple of `every_images`."""
    return num_trained // every_images > (num_trained - num_in_step) // every_images


class RecipeCallback(lightning.Callback):
    """Writes the recipe and the kind of training images into every checkpoint."""

    def __init__(self, recipe: Recipe, trained_on: str) -> None:
        self.recipe = recipe
        self.trained_on = trained_on

    def on_save_checkpoint(self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Add the recipe's JSON and its hash."""
        checkpoint["recipe"] = {"json": self.recipe.to_json(), "sha256": self.recipe.sha256}
        checkpoint["trained_on"] = self.trained_on


class CommitCallback(lightning.Callback):
    """Counts samples as used after each optimizer step, and writes the run's state into checkpoints."""

    def __init__(self, loaders: Mapping[str, StreamLoader], before: RunState, journal: Journal | None) -> None:
        self.loaders = loaders
        """Loaders by domain."""

        self.before = before
        """State of the run when all workers started."""

        self.journal = journal
        self.pending: list[Batch] = []
        self.step = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Restore the random state, unless the number of workers has changed."""
        self.step = trainer.global_step
        if len(self.before.random) == trainer.world_size:
            restore_random_state(self.before.random[trainer.global_rank])

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Commit all batches of a step after its optimizer step."""
        self.pending.append(batch)
        if trainer.global_step == self.step:
            return
        self.step = trainer.global_step
        for each in self.pending:
            serials, uses, is_real = (each[name].numpy() for name in ("serial", "use", "is_real"))
            for domain, loader in self.loaders.items():
                rows = is_real if domain == "real" else ~is_real
                loader.commit(serials[rows])
                if self.journal:
                    self.journal.write(self.step, domain, serials[rows], uses[rows])
        self.pending = []

    def on_save_checkpoint(self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Add the used samples of all workers; each of them calls this at the same step."""
        mine = ({domain: loader.state() for domain, loader in self.loaders.items()}, random_state())
        of_workers = [mine] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(of_workers, mine)
        consumption = {
            domain: merged(self.before.of(domain), [state[domain] for state, _ in of_workers])
            for domain in self.loaders
        }
        random = tuple(random for _, random in of_workers)
        state = RunState(consumption, self.before.sets, random, trainer.should_stop)
        checkpoint["run"] = state.to_checkpoint()
