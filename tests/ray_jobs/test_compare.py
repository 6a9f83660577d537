"""The comparison of ways to train on the same images."""

import json
from pathlib import Path

import pytest

from ray_jobs import compare
from ray_jobs.cli.config import Prices
from ray_jobs.reports.comparison import ArmRun, EpochPoint, mean_and_spread, results_table
from tests.support.commands import call
from tests.support.settings import KEEPING, PAINTED

RUN = ArmRun(
    arm="stream",
    seed=0,
    top1=0.5,
    moments=[EpochPoint(10.0, 64, 64, 0.25), EpochPoint(20.0, 128, 128, 0.5)],
    waited_seconds=2.0,
    first_step_seconds=9.0,
    total_seconds=30.0,
    generation_device_seconds=7200.0,
    training_device_seconds=1800.0,
    waiting_fraction=0.1,
    num_generated=128,
    num_trained=128,
    stored_bytes=2_000_000_000,
)


def test_cost_includes_devices_and_storage():
    prices = Prices(generation_device_hour=3.0, training_device_hour=8.0, stored_gb=0.5)
    assert RUN.cost(prices) == 2 * 3.0 + 0.5 * 8.0 + 2 * 0.5


def test_table_shows_mean_and_standard_deviation_over_seeds():
    assert mean_and_spread([0.9, 1.0, 1.1], ".2f") == "1.00 ± 0.10"
    assert mean_and_spread([0.9], ".2f") == "0.90"
    head, row = results_table([RUN], Prices())
    assert head[:2] == ["arm", "top-1 on real images"]
    assert row[:2] == ["stream", "0.5000"]
    assert len(head) == len(row) == len(results_table([RUN], Prices(stored_gb=1.0))[0]) - 1  # no costs without prices


@pytest.mark.ray
@pytest.mark.nightly
@pytest.mark.usefixtures("ray_cluster")
def test_all_arms_have_the_same_budget_and_one_report(tmp_path: Path):
    folder = tmp_path / "compared"
    settings = [*KEEPING, "training.num_images=256", "seeds=[0]", "prices.generation_device_hour=1"]
    call(compare, PAINTED, *settings, f"output={folder}")
    runs = {run["arm"]: run for run in json.loads((folder / "results.json").read_text())["runs"]}
    assert list(runs) == ["stream", "generate_then_train", "tee_then_replay", "real"]
    assert {run["num_trained"] for run in runs.values()} == {256}
    assert {arm: run["num_generated"] for arm, run in runs.items()} == {
        "stream": 256,
        "generate_then_train": 256,
        "tee_then_replay": 128,
        "real": 0,
    }
    for run in runs.values():
        assert [moment["num_trained"] for moment in run["moments"]] == [128, 256]
        seconds = [moment["seconds"] for moment in run["moments"]]
        assert 0 < run["waited_seconds"] < run["first_step_seconds"] < seconds[0] < seconds[1] < run["total_seconds"]
        assert run["top1"] == run["moments"][-1]["top1"]
    assert runs["generate_then_train"]["stored_bytes"] > runs["tee_then_replay"]["stored_bytes"] > 0
    assert runs["stream"]["stored_bytes"] == 0
    stored = json.loads((folder / "tee_then_replay-0" / "result.json").read_text())
    assert stored == runs["tee_then_replay"]  # survives if a later run fails
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 2
    assert "cost, USD" in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
