import shutil
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from training.callbacks import KeepBest, SaveCallback, StopEarly
from training.checkpoint import checkpoint_files, checkpoint_name

BATCHES = DataLoader(TensorDataset(torch.zeros(4, 1)), batch_size=2)


class Scripted(lightning.LightningModule):
    """Has a given held-out accuracy after each epoch."""

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


def train(run_dir: Path, scores: list[float], patience: int, num_epochs: int, ckpt_path: Path | None = None):
    trainer = lightning.Trainer(
        max_epochs=num_epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[StopEarly(patience), KeepBest(run_dir), SaveCallback(run_dir / "checkpoints", every_steps=0)],
    )
    trainer.fit(Scripted(scores), BATCHES, BATCHES, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def best_epoch(run_dir: Path) -> int:
    return torch.load(run_dir / "best.ckpt", weights_only=True)["epoch"]


def test_a_run_that_goes_on_elsewhere_remembers_its_best_epoch_and_how_long_ago_that_was(tmp_path: Path):
    scores = [0.5, 0.9, 0.7, 0.7, 0.8, 0.8]
    train(tmp_path / "here", scores, patience=9, num_epochs=3)  # and then it is killed
    (newest, _) = checkpoint_files(tmp_path / "here" / "checkpoints")
    assert newest.name == checkpoint_name(6)
    shutil.move(tmp_path / "here", tmp_path / "there")
    newest = tmp_path / "there" / "checkpoints" / newest.name
    trainer = train(tmp_path / "there", scores, patience=3, num_epochs=6, ckpt_path=newest)
    assert best_epoch(tmp_path / "there") == 1
    assert trainer.should_stop
    assert trainer.global_step == 10  # after epoch 4, the third that was not better


@pytest.mark.parametrize("num_epochs", [1, 4])
def test_the_newest_two_checkpoints_are_kept_and_nothing_unfinished(num_epochs: int, tmp_path: Path):
    train(tmp_path, [0.1, 0.2, 0.3, 0.4], patience=9, num_epochs=num_epochs)
    steps = [2 * epoch for epoch in range(1, num_epochs + 1)][-2:]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        checkpoint_name(step) for step in steps
    ]
