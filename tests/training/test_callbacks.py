import errno
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from training.callbacks import (
    CheckpointFiles,
    KeepBest,
    KeepCallback,
    ProgressCallback,
    SaveCallback,
    StopEarly,
    is_reached,
)
from training.checkpoint import checkpoint_files, checkpoint_name
from training.data.variety import Variety
from training.progress import TrainingProgress

BATCHES = DataLoader(TensorDataset(torch.zeros(4, 1)), batch_size=2)


class Scripted(lightning.LightningModule):
    """Module with given held-out accuracies, one per epoch."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.scores = scores
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.weight.sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("held_out/top1", self.scores[self.current_epoch])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(
    run_dir: Path,
    scores: list[float],
    patience: int,
    num_epochs: int,
    ckpt_path: Path | None = None,
    callbacks: Sequence[lightning.Callback] = (),
):
    trainer = lightning.Trainer(
        max_epochs=num_epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        plugins=[CheckpointFiles()],
        callbacks=[
            StopEarly(patience),
            KeepBest(run_dir),
            SaveCallback(run_dir / "checkpoints", every_steps=0),
            *callbacks,
        ],
    )
    trainer.fit(Scripted(scores), BATCHES, BATCHES, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def best_epoch(run_dir: Path) -> int:
    return torch.load(run_dir / "best.ckpt", weights_only=True)["epoch"]


def test_moved_run_restores_best_epoch_and_patience(tmp_path: Path):
    scores = [0.5, 0.9, 0.7, 0.7, 0.8, 0.8]
    train(tmp_path / "here", scores, patience=9, num_epochs=3)  # then it is killed
    (newest, _) = checkpoint_files(tmp_path / "here" / "checkpoints")
    assert newest.name == checkpoint_name(6)
    shutil.move(tmp_path / "here", tmp_path / "there")
    newest = tmp_path / "there" / "checkpoints" / newest.name
    trainer = train(tmp_path / "there", scores, patience=3, num_epochs=6, ckpt_path=newest)
    assert best_epoch(tmp_path / "there") == 1
    assert trainer.should_stop
    assert trainer.global_step == 10  # after epoch 4, the third without improvement


def test_each_multiple_is_reached_once():
    reached = [step for step in range(1, 13) if is_reached(step * 32, 32, every_images=100)]
    assert reached == [4, 7, 10]  # 128, 224 and 320 images: the first step at or beyond 100, 200 and 300


def test_kept_checkpoints_have_no_optimizer_state(tmp_path: Path):
    class FourAtOnce(Scripted):
        config = SimpleNamespace(global_batch_size=4)

    trainer = lightning.Trainer(
        max_epochs=5,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accumulate_grad_batches=2,
        plugins=[CheckpointFiles()],
        callbacks=[KeepCallback(tmp_path / "kept", every_images=8)],
    )
    trainer.fit(FourAtOnce([0.0] * 5), BATCHES)
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [checkpoint_name(2), checkpoint_name(4)]
    kept = torch.load(tmp_path / "kept" / checkpoint_name(4), weights_only=True)
    assert kept["state_dict"]["weight"].item() == pytest.approx(-0.4)  # four steps of 0.1 times a gradient of 1
    assert "optimizer_states" not in kept


class TimedValidation(Scripted):
    """Module whose validation takes one second of a fake clock per batch."""

    def __init__(self, clock: list[float]) -> None:
        super().__init__([0.5, 0.5, 0.5])
        self.clock = clock
        self.config: Any = SimpleNamespace(global_batch_size=2)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.log("train/loss", 0.5)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.clock[0] += 1.0
        super().validation_step(batch, batch_idx)


class SlowHeldOut:
    """Held-out batches that arrive after 50 seconds of a fake clock, once."""

    def __init__(self, clock: list[float]) -> None:
        self.clock = clock
        self.waiting_seconds = 0.0

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        if not self.waiting_seconds:
            self.clock[0] += 50.0
            self.waiting_seconds = 50.0
        yield from BATCHES


def test_validation_time_excludes_waiting_for_samples(monkeypatch):
    clock, reports = [1000.0], []
    monkeypatch.setattr("training.callbacks.time.time", lambda: clock[0])
    held_out = SlowHeldOut(clock)
    main = fake_loader(waiting_seconds=0.0)
    loader = SimpleNamespace(main=main, waiting_seconds=0.0)
    trainer = progress_trainer(
        ProgressCallback(cast(Any, loader), cast(Any, held_out), reports.append, interval_seconds=1e9)
    )
    trainer.fit(TimedValidation(clock), BATCHES, held_out)
    ends = [(each.training_seconds, each.waiting_seconds, each.validation_seconds) for each in reports if each.epoch]
    assert ends == [(57.0, 50.0, 2.0), (59.0, 50.0, 4.0), (61.0, 50.0, 6.0)]


class WaitsAtStep(TimedValidation):
    """Module that ends no step except the first before there are four reports."""

    def __init__(self, reports: list[Any]) -> None:
        super().__init__([0.0])
        self.reports = reports

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        give_up_at = time.monotonic() + 30
        while self.trainer.global_step and len(self.reports) < 4 and time.monotonic() < give_up_at:
            time.sleep(0.01)
        return super().training_step(batch, batch_idx)


def test_wait_is_reported_while_it_lasts():
    reports: list[Any] = []
    main = fake_loader(waiting_seconds=7.0)
    loader, held_out = SimpleNamespace(main=main, waiting_seconds=9.0), SimpleNamespace(waiting_seconds=1.0)
    callback = ProgressCallback(cast(Any, loader), cast(Any, held_out), reports.append, interval_seconds=0.05)
    progress_trainer(callback).fit(WaitsAtStep(reports), BATCHES, BATCHES)
    during = reports[:4]
    assert [each.num_trained for each in during] == [2, 2, 2, 2]  # reports of the first step and during the second
    assert [each.training_seconds for each in during] == sorted({each.training_seconds for each in during})
    waits = {(each.waiting_seconds, each.pool_waiting_seconds, each.held_out_waiting_seconds) for each in during}
    assert waits == {(10.0, 8.0, 1.0)}
    num_reports = len(reports)
    time.sleep(0.2)
    assert len(reports) == num_reports  # no reports after the end


@pytest.mark.parametrize(("answers_at", "num_epochs"), [("end", 2), ("steps", 3)])
def test_report_at_an_epochs_end_may_end_the_run(answers_at: str, num_epochs: int):
    ends: list[int] = []

    def report(progress: TrainingProgress) -> bool:
        is_end = progress.num_trained == 4 * progress.epoch  # two steps of two images
        ends.extend([progress.epoch] if is_end and progress.epoch else [])
        return (answers_at == "end") == is_end and progress.epoch == 2

    loader = SimpleNamespace(main=fake_loader(waiting_seconds=0.0), waiting_seconds=0.0)
    held_out = SimpleNamespace(waiting_seconds=0.0)
    callback = ProgressCallback(cast(Any, loader), cast(Any, held_out), report, interval_seconds=0.0)
    progress_trainer(callback).fit(TimedValidation([0.0]), BATCHES, BATCHES)
    assert max(ends) == num_epochs


def fake_loader(waiting_seconds: float) -> SimpleNamespace:
    """Return a fake loader of generated images."""
    times = {"requested_at": 990.0, "first_batch_at": 995.0, "waiting_seconds": waiting_seconds}
    return SimpleNamespace(num_taken=8, reuse=1.0, reservoir=[], variety=Variety(), **times)


def progress_trainer(callback: ProgressCallback) -> lightning.Trainer:
    """Return a trainer of three epochs with only this callback."""
    return lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        callbacks=[callback],
    )


@pytest.mark.parametrize("num_epochs", [1, 4])
def test_only_newest_two_checkpoints_are_kept(num_epochs: int, tmp_path: Path):
    train(tmp_path, [0.1, 0.2, 0.3, 0.4], patience=9, num_epochs=num_epochs)
    steps = [2 * epoch for epoch in range(1, num_epochs + 1)][-2:]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        checkpoint_name(step) for step in steps
    ]


def test_checkpoints_are_not_staged_in_tmpdir(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "full"))  # not writable
    train(tmp_path, [0.1], patience=9, num_epochs=1)
    assert best_epoch(tmp_path) == 0


class FullDisk(lightning.Callback):
    """Makes writes fail from an epoch on, by a file size limit."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if trainer.current_epoch == self.epoch:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))


def test_full_disk_error_names_file_and_run_resumes(tmp_path: Path):
    scores = [0.1, 0.2, 0.3]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OSError, match="File too large") as error:
            train(tmp_path, scores, 9, 3, callbacks=[FullDisk(epoch=1)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (error.value.errno, error.value.filename) == (errno.EFBIG, str(tmp_path / "best.ckpt"))
    assert sorted(path.name for path in tmp_path.rglob("*.ckpt*")) == ["best.ckpt", checkpoint_name(2)]
    assert best_epoch(tmp_path) == 0  # the previous one, complete
    trainer = train(tmp_path, scores, 9, 3, ckpt_path=tmp_path / "checkpoints" / checkpoint_name(2))
    assert trainer.global_step == 6
    assert best_epoch(tmp_path) == 2
