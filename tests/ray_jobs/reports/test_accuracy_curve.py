"""Accuracy over a run, from its kept checkpoints."""

import csv
import errno
import fcntl
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from evaluation.inference.trained_model import EvaluatedModel
from generation.recipes.recipe import Recipe
from ray_jobs import compare, train
from ray_jobs.cli.run_folder import lock_run_folder
from ray_jobs.reports import accuracy_curve
from ray_jobs.reports.accuracy_curve import first_kept, follow
from tests.support.commands import error_line
from tests.support.settings import PAINTED
from training.checkpoint import checkpoint_name
from training.config import TrainingConfig
from training.data.consumption import EMPTY_CONSUMPTION
from training.job import SET_SIZE

CONFIG = TrainingConfig(num_images=640, num_epochs=1, global_batch_size=64, gpus_per_worker=0)
SPENT = """seconds,num_trained,num_generated,generation_device_seconds,training_device_seconds
10,320,200,20,10
20,640,300,40,20
"""


def keep(path: Path, recipe: Recipe, step: int) -> None:
    """Write a checkpoint of a run with 64 images per step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "classifier": {"config": vars(CONFIG), "num_classes": 10, "image_size": 32},
        "recipe": {"json": recipe.to_json(), "sha256": recipe.sha256},
        "run": {"consumption": {"synthetic": EMPTY_CONSUMPTION.to_checkpoint()}, "sets": {SET_SIZE: 640}},
        "global_step": step,
        "state_dict": {},
    }
    torch.save(content, path)


def sets_by_step(model: EvaluatedModel) -> dict[str, Any]:
    """Return a top-1 of a hundredth of the checkpoint's step."""
    top1 = model.facts["num_trained"] / 64 / 100
    return {"digits": {"top1": top1, "top1_interval": [top1 - 0.01, top1 + 0.01], "num_images": 540}}


def rows_in(folder: Path) -> list[tuple[float, ...]]:
    with (folder / "accuracy.csv").open() as file:
        columns = ("num_trained", "num_generated", "device_seconds", "top1")
        return [tuple(float(row[name]) for name in columns) for row in csv.DictReader(file)]


def test_each_checkpoint_is_a_point_and_the_last_counts_once(tmp_path: Path, painted: Recipe):
    for step in (4, 10):
        keep(tmp_path / "run" / "kept" / checkpoint_name(step), painted, step)
    keep(tmp_path / "run" / "checkpoint.ckpt", painted, 10)
    (tmp_path / "run" / "spent.csv").write_text(SPENT)
    evaluated: list[Path] = []

    def sets_of(model: EvaluatedModel) -> dict[str, Any]:
        evaluated.append(Path(model.facts["checkpoint"]))
        return sets_by_step(model)

    folder = follow(tmp_path / "run", sets_of, print)
    assert folder == tmp_path / "run" / "curve"
    np.testing.assert_allclose(rows_in(folder), [(256, 160, 16 + 8, 0.04), (640, 300, 40 + 20, 0.1)])
    assert [path.name for path in evaluated] == [checkpoint_name(4), checkpoint_name(10)]
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 4
    assert "640" in page


def test_active_run_is_followed_to_its_end(tmp_path: Path, painted: Recipe, monkeypatch):
    keep(tmp_path / "run" / "kept" / checkpoint_name(4), painted, 4)
    (tmp_path / "run" / "spent.csv").write_text(SPENT)
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            keep(tmp_path / "run" / "checkpoint.ckpt", painted, 10)

    monkeypatch.setattr(accuracy_curve.time, "sleep", nap)
    monkeypatch.setattr(accuracy_curve, "is_in_use", lambda *_: not (tmp_path / "run" / "checkpoint.ckpt").exists())
    folder = follow(tmp_path / "run", sets_by_step, print)
    assert [row[0] for row in rows_in(folder)] == [256, 640]
    assert len(naps) == 2


def test_rewritten_checkpoint_is_evaluated_again(tmp_path: Path, painted: Recipe, monkeypatch):
    kept = tmp_path / "run" / "kept" / checkpoint_name(4)
    keep(kept, painted, 4)
    accuracies = iter([0.1, 0.2])

    def sets_of(_: EvaluatedModel) -> dict[str, Any]:
        top1 = next(accuracies)
        return {"digits": {"top1": top1, "top1_interval": [0.0, 1.0], "num_images": 540}}

    at_work = iter([True, True, False, False])
    monkeypatch.setattr(accuracy_curve, "is_in_use", lambda *_: next(at_work))
    monkeypatch.setattr(accuracy_curve.time, "sleep", lambda _: keep(kept, painted, 4))
    folder = follow(tmp_path / "run", sets_of, print)
    assert [row[3] for row in rows_in(folder)] == [0.2]


def test_run_without_checkpoints_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"has no checkpoints to evaluate\. Train with evaluation\.every_images=N"):
        first_kept(tmp_path)


def test_run_that_ends_during_the_poll_is_evaluated(tmp_path: Path, painted: Recipe, monkeypatch):
    last = tmp_path / "run" / "checkpoint.ckpt"

    def ends(*_: object) -> bool:
        keep(last, painted, 10)
        return False

    monkeypatch.setattr(accuracy_curve, "is_in_use", ends)
    assert first_kept(tmp_path / "run") == last


def test_run_without_file_locks_is_evaluated_with_one_warning(tmp_path: Path, painted: Recipe, monkeypatch, caplog):
    def lacking(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    run_dir = tmp_path / "run"
    lock_run_folder(run_dir, "config")
    keep(run_dir / "kept" / checkpoint_name(4), painted, 4)
    monkeypatch.setattr(fcntl, "flock", lacking)
    assert first_kept(run_dir).name == checkpoint_name(4)
    assert [row[0] for row in rows_in(follow(run_dir, sets_by_step, print))] == [256]
    (warning,) = caplog.messages
    assert str(run_dir) in warning
    assert "an active run cannot be detected. Kept checkpoints are evaluated now" in warning


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (train, "every_images is 63, smaller than a step (training.global_batch_size); use 64 or more"),
        (compare, "every_images is 63, but a comparison"),
    ],
)
def test_every_images_is_checked_and_refused_by_compare(command: ModuleType, message: str, tmp_path: Path, capsys):
    assert message in error_line(command, capsys, PAINTED, f"output={tmp_path / 'out'}", "evaluation.every_images=63")
