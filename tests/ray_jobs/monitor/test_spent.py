"""A run's spending over time, computed by hand."""

from pathlib import Path

import pytest

from generation.config import GenerationConfig
from ray_jobs.cli.config import JobConfig
from ray_jobs.monitor.progress import RunProgress
from ray_jobs.monitor.spent import Spent, SpentFile, read_spent, spent_at
from tests.support.looks import looked
from training.config import TrainingConfig

CONFIG = JobConfig(
    generation=GenerationConfig(gpus_per_actor=0.5),
    training=TrainingConfig(num_images=1024, num_epochs=1, num_workers=2, global_batch_size=256),
)


def run_at(seconds: float, num_trained: int) -> RunProgress:
    """Return a snapshot of a run with four actors running since second 0."""
    return looked(seconds, 4, num_trained=num_trained)


def test_row_has_the_time_of_all_devices(tmp_path: Path):
    file = SpentFile(tmp_path / "spent.csv", CONFIG)
    for seconds, num_trained in ((0.0, 0), (10.0, 256), (10.5, 300), (20.0, 512)):  # the third is too early
        file.observe(run_at(seconds, num_trained))
    assert read_spent(tmp_path / "spent.csv") == [
        Spent(10.0, 256, 0, 10 * 4 * 0.5, 10 * 2),
        Spent(20.0, 512, 0, 20 * 4 * 0.5, 20 * 2),
    ]


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
    assert read_spent(tmp_path / "spent.csv")[-1] == Spent(16.0, 768, 0, 20 + 6 * 4 * 0.5, 20 + 6 * 2)


def test_row_truncated_in_its_last_number_is_replaced(tmp_path: Path):
    path = tmp_path / "spent.csv"
    file = SpentFile(path, CONFIG)
    for seconds, num_trained in ((0.0, 0), (10.0, 256), (20.0, 512)):
        file.observe(run_at(seconds, num_trained))
    whole = path.read_text()
    path.write_text(whole.removesuffix("0\n"))  # 20,512,0,40,4
    first = Spent(10.0, 256, 0, 20, 20)
    assert read_spent(path) == [first]
    again = SpentFile(path, CONFIG)
    for seconds, num_trained in ((0.0, 256), (10.0, 512)):
        again.observe(run_at(seconds, num_trained))
    assert path.read_text() == whole
    path.write_text("seconds,num_tr")
    assert read_spent(path) == [Spent(0, 0, 0, 0, 0)]
    SpentFile(path, CONFIG)._append(first)
    assert read_spent(path) == [first]


@pytest.mark.parametrize("damaged", ["11,5", "11,5,0,1,1,12,6,0,1,1", "\0\0\0"])
def test_damaged_row_in_the_middle_is_ignored(tmp_path: Path, damaged: str):
    path = tmp_path / "spent.csv"
    names = "seconds,num_trained,num_generated,generation_device_seconds,training_device_seconds"
    path.write_text(f"{names}\n10,256,0,1,1\n{damaged}\n20,512,0,2,2\n")
    assert read_spent(path) == [Spent(10, 256, 0, 1, 1), Spent(20, 512, 0, 2, 2)]


def test_spending_is_interpolated_between_rows():
    rows = [Spent(10, 100, 400, 20, 10), Spent(20, 200, 600, 40, 20)]
    assert spent_at(rows, 50) == Spent(5, 50, 200, 10, 5)
    assert spent_at(rows, 150) == Spent(15, 150, 500, 30, 15)
    assert spent_at(rows, 200) == rows[1]
    assert spent_at(rows, 210) == Spent(20, 210, 600, 40, 20)


def test_repeated_steps_count():
    rows = [Spent(10, 100, 0, 0, 0), Spent(20, 300, 0, 0, 0), Spent(30, 200, 0, 0, 0), Spent(40, 400, 0, 0, 0)]
    assert spent_at(rows, 250).seconds == pytest.approx(32.5)
