"""A run's spending over time, computed by hand."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from generation.config import GenerationConfig
from ray_jobs.cli.config import JobConfig
from ray_jobs.monitor.progress import RunProgress
from ray_jobs.monitor.spent import ZERO, Spent, SpentFile, SpentRow, read_spent, spent_at
from tests.support.progress import progress_at
from training.config import TrainingConfig

CONFIG = JobConfig(
    generation=GenerationConfig(gpus_per_actor=0.5),
    training=TrainingConfig(num_images=1024, num_epochs=1, num_workers=2, global_batch_size=256),
)

TOTAL_COLUMNS = "seconds,num_trained,num_generated,generation_device_seconds,training_device_seconds"


def run_at(seconds: float, num_trained: int, **training: Any) -> RunProgress:
    """Return a snapshot of a run with four actors running since second 0."""
    return progress_at(seconds, 4, num_trained=num_trained, **training)


def totals(path: Path) -> list[tuple[float, ...]]:
    """Return seconds, images trained on and generated, and device seconds of a file's rows."""
    return [dataclasses.astuple(row)[:5] for row in read_spent(path)]


def test_row_has_the_time_of_all_devices(tmp_path: Path):
    file = SpentFile(tmp_path / "spent.csv", CONFIG)
    for seconds, num_trained in ((0.0, 0), (10.0, 256), (10.5, 300), (20.0, 512)):  # the third is too early
        file.observe(run_at(seconds, num_trained))
    assert totals(tmp_path / "spent.csv") == [
        (10.0, 256, 0, 10 * 4 * 0.5, 10 * 2),
        (20.0, 512, 0, 20 * 4 * 0.5, 20 * 2),
    ]


def test_row_has_the_state_of_training(tmp_path: Path):
    file = SpentFile(tmp_path / "spent.csv", CONFIG)
    file.observe(progress_at(99.0))
    file.observe(run_at(110.0, 256, waiting_seconds=4.0, held_out_waiting_seconds=1.0, validation_seconds=2.0))
    file.observe(run_at(120.0, 512, waiting_seconds=4.0, held_out_waiting_seconds=1.0, epoch=1, held_out_top1=0.25))
    first, second = read_spent(tmp_path / "spent.csv")
    # training began at second 100: 10 s, without 1 s of waiting for held-out images and 2 s of validation
    assert (first.waiting_seconds, first.learning_seconds) == (3.0, 7.0)
    assert (first.epoch, first.num_actors, first.loss, first.held_out_top1) == (0, 4, 0.5, None)
    assert (second.epoch, second.held_out_top1) == (1, 0.25)


def test_restarted_training_adds_to_its_waiting(tmp_path: Path):
    file = SpentFile(tmp_path / "spent.csv", CONFIG)
    file.observe(run_at(110.0, 256, waiting_seconds=4.0))
    file.observe(run_at(130.0, 256, waiting_seconds=3.0, training_seconds=5.0, first_batch_at=5025.0))
    (row,) = read_spent(tmp_path / "spent.csv")
    assert (row.waiting_seconds, row.learning_seconds) == (7.0, 15.0)


def test_end_of_an_epoch_is_written_at_once(tmp_path: Path):
    file = SpentFile(tmp_path / "spent.csv", CONFIG)
    for seconds, num_trained, epoch in ((0.0, 0, 0), (10.0, 1024, 0), (10.5, 1024, 1), (12.0, 1024, 1)):
        file.observe(run_at(seconds, num_trained, epoch=epoch, held_out_top1=epoch / 4 or None))
    rows = read_spent(tmp_path / "spent.csv")
    assert [(row.seconds, row.held_out_top1) for row in rows] == [(10.0, None), (10.5, 0.25)]


def test_infinite_loss_is_left_empty(tmp_path: Path):
    file = SpentFile(tmp_path / "spent.csv", CONFIG)
    for seconds in (0.0, 10.0):
        file.observe(run_at(seconds, 256, loss=math.inf))
    assert [(row.seconds, row.loss) for row in read_spent(tmp_path / "spent.csv")] == [(10.0, None)]


def test_end_of_a_run_is_written_at_once_and_only_once(tmp_path: Path):
    file = SpentFile(tmp_path / "spent.csv", CONFIG)
    for seconds, num_trained in ((0.0, 0), (10.0, 800), (10.2, 1024), (12.0, 1024)):
        file.observe(run_at(seconds, num_trained))
    assert [(row.seconds, row.num_trained) for row in read_spent(tmp_path / "spent.csv")] == [(10, 800), (10.2, 1024)]


def test_resumed_run_adds_to_earlier_totals(tmp_path: Path):
    first = SpentFile(tmp_path / "spent.csv", CONFIG)
    for seconds, num_trained in ((0.0, 0), (10.0, 512)):
        first.observe(run_at(seconds, num_trained))
    with (tmp_path / "spent.csv").open("a") as file:
        file.write("11,5")  # truncated by a full disk
    second = SpentFile(tmp_path / "spent.csv", CONFIG)
    for seconds, num_trained in ((0.0, 256), (6.0, 768)):
        second.observe(run_at(seconds, num_trained))
    assert totals(tmp_path / "spent.csv")[-1] == (16.0, 768, 0, 20 + 6 * 4 * 0.5, 20 + 6 * 2)


def test_file_with_the_totals_alone_is_continued(tmp_path: Path):
    path = tmp_path / "spent.csv"
    path.write_text(f"{TOTAL_COLUMNS}\n10,256,300,20,20\n")
    assert read_spent(path) == [SpentRow(10, 256, 300, 20, 20, 0.0, 0.0, 0.0, None, None, None)]
    file = SpentFile(path, CONFIG)
    for seconds, num_trained in ((100.0, 256), (106.0, 512)):
        file.observe(run_at(seconds, num_trained, waiting_seconds=1.5))
    first, second = read_spent(path)
    assert first == SpentRow(10, 256, 300, 20, 20)
    assert (second.seconds, second.learning_seconds, second.waiting_seconds) == (16, 6, 1.5)


def test_row_truncated_in_its_last_number_is_replaced(tmp_path: Path):
    path = tmp_path / "spent.csv"
    file = SpentFile(path, CONFIG)
    for seconds, num_trained in ((0.0, 0), (10.0, 256), (20.0, 512)):
        file.observe(run_at(seconds, num_trained, training_seconds=seconds))
    whole = path.read_text()
    (first, _), rows = read_spent(path), whole.splitlines(keepends=True)
    assert rows[-1].endswith(",0.5,\n")
    path.write_text(whole[:-3])  # ends with ",0."
    assert read_spent(path) == [first]
    again = SpentFile(path, CONFIG)
    for seconds, num_trained in ((0.0, 256), (10.0, 512)):
        again.observe(run_at(seconds, num_trained, training_seconds=seconds))
    assert path.read_text() == whole
    path.write_text("seconds,num_tr")
    assert read_spent(path) == [ZERO]
    SpentFile(path, CONFIG)._append(first)
    assert read_spent(path) == [first]


@pytest.mark.parametrize("damaged", ["11,5", "11,5,0,1,1,12,6,0,1,1", "\0\0\0"])
def test_damaged_row_in_the_middle_is_ignored(tmp_path: Path, damaged: str):
    path = tmp_path / "spent.csv"
    path.write_text(f"{TOTAL_COLUMNS}\n10,256,0,1,1\n{damaged}\n20,512,0,2,2\n")
    assert read_spent(path) == [SpentRow(10, 256, 0, 1, 1), SpentRow(20, 512, 0, 2, 2)]


def test_spending_is_interpolated_between_rows():
    rows = [Spent(10, 100, 400, 20, 10), Spent(20, 200, 600, 40, 20)]
    assert spent_at(rows, 50) == Spent(5, 50, 200, 10, 5)
    assert spent_at(rows, 150) == Spent(15, 150, 500, 30, 15)
    assert spent_at(rows, 200) == rows[1]
    assert spent_at(rows, 210) == Spent(20, 210, 600, 40, 20)
    row = SpentRow(10, 100, 400, 20, 10, num_actors=4, loss=0.5)
    assert spent_at([row], 50) == Spent(5, 50, 200, 10, 5)
    assert spent_at([row], 110) == Spent(10, 110, 400, 20, 10)


def test_repeated_steps_count():
    rows = [Spent(10, 100, 0, 0, 0), Spent(20, 300, 0, 0, 0), Spent(30, 200, 0, 0, 0), Spent(40, 400, 0, 0, 0)]
    assert spent_at(rows, 250).seconds == pytest.approx(32.5)
