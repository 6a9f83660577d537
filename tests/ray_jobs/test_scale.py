"""Scale experiments in miniature, on a real local cluster."""

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from generation.engine.generator import GenerationFailedError
from generation.recipes.model_files import PROJECT_ROOT
from ray_jobs import scale
from tests.support.commands import call
from tests.support.processes import command_of
from tests.support.settings import CONFIGS

CONFIG = str(CONFIGS / "scale.yaml")
SMALL = [
    "num_local_nodes=0",
    "generation.gpus_per_actor=0",
    "generation.batch_size=4",
    "generation.painted_batch_seconds=0.2",
    "training.global_batch_size=4",
    "recipe.image_size=16",
]
pytestmark = [pytest.mark.ray, pytest.mark.nightly, pytest.mark.usefixtures("ray_cluster")]

NO_STEP = ["step.few_actors=1", "step.many_actors=1"]


def status_of(*arguments: str) -> object:
    """Run the command in this process and on its cluster; return its exit status."""
    with pytest.raises(SystemExit) as ended:
        call(scale, CONFIG, *arguments)
    return ended.value.code


def test_sweep_measures_each_pool(tmp_path: Path):
    small = [*SMALL, *NO_STEP, "sweep.actors=[1,2]", "sweep.seconds=2", "prices.generation_device_hour=2"]
    status_of(*small, f"output={tmp_path / 'run'}")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.yaml", "scale.json", "report.html"}
    result = json.loads((tmp_path / "run" / "scale.json").read_text())
    assert (result["step"], result["faults"], result["is_complete"]) == (None, None, True)
    assert [point["nominal_per_second"] for point in result["sweep"]] == [20.0, 40.0]
    for point, num_images in zip(result["sweep"], (40, 80), strict=True):
        assert point["exactness"] == {"num_images": num_images, "num_lost": 0, "num_doubled": 0}
        rate = point["delivered_per_second"]
        assert rate > 0
        assert point["delivered_fraction"] == pytest.approx(rate / point["nominal_per_second"])
        assert point["device_seconds_per_image"] == pytest.approx(point["num_actors"] / rate)
        assert point["cost_per_thousand"] == pytest.approx(point["device_seconds_per_image"] * 1000 * 2 / 3600)
        assert point["pool_start_seconds"] < point["time_to_first_batch_seconds"]
        assert point["driver_bytes"] > 10_000_000
    assert "<svg" in (tmp_path / "run" / "report.html").read_text()


def test_pool_follows_a_step_and_results_survive_a_failed_experiment(tmp_path: Path, monkeypatch):
    def fail(*_: object) -> None:
        raise GenerationFailedError("the pool has ended")

    monkeypatch.setattr(scale, "faults_load", fail)
    sizes = ["sweep.actors=[1]", "sweep.seconds=2", "step.few_actors=1", "step.many_actors=3"]
    times = ["step.few_seconds=10", "step.many_seconds=30", "step.last_seconds=20", "generation.idle_seconds=5"]
    faults = "faults.actor_kills_per_minute=1"
    assert status_of(*SMALL, *sizes, *times, faults, f"output={tmp_path / 'run'}") == 2
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.yaml", "scale.json", "report.html"}
    result = json.loads((tmp_path / "run" / "scale.json").read_text())
    assert (len(result["sweep"]), result["faults"], result["is_complete"]) == (1, None, False)
    assert "Not complete." in (tmp_path / "run" / "report.html").read_text()
    step = result["step"]
    assert step["exactness"] == {"num_images": 2040, "num_lost": 0, "num_doubled": 0}  # 17 per second, then 51, then 17
    assert step["most_actors"] == 3
    assert 0 < step["start_seconds"] <= step["reaction_seconds"] < 30
    assert 5 <= step["release_seconds"] < 20


def test_no_sample_is_lost_or_doubled_by_killed_actors_and_trainers(tmp_path: Path):
    faults = [
        "faults.num_actors=2",
        "faults.seconds=8",
        "faults.actor_kills_per_minute=3.75",  # per actor, of two: one in 8 s, after 4 s, like the trainer's
        "faults.trainer_kills_per_minute=7.5",
    ]
    status_of(*SMALL, *NO_STEP, "sweep.actors=[]", *faults, f"output={tmp_path / 'run'}")
    result = json.loads((tmp_path / "run" / "scale.json").read_text())["faults"]
    assert result["num_struck"] == {"actor_kill": 1, "trainer_kill": 1}
    assert result["exactness"] == {"num_images": 320, "num_lost": 0, "num_doubled": 0}
    assert 0 < result["lost_actor_fraction"] <= result["lost_fraction"] <= 1


def test_no_sample_is_lost_or_doubled_by_paused_and_lost_nodes(tmp_path: Path):
    faults = [
        "num_local_nodes=2",  # one GPU each, so each holds one of the two actors
        "generation.gpus_per_actor=1",
        "generation.cpus_per_actor=0",
        "faults.num_actors=2",
        "faults.seconds=16",
        "faults.node_drops_per_minute=3.75",  # one in 16 s, after 8 s
        "faults.node_delays_per_minute=7.5",  # two, after 4 s and 12 s
        "faults.delay_seconds=2",
        "faults.node_return_seconds=1",
    ]
    status_of(*SMALL, *NO_STEP, "sweep.actors=[]", *faults, f"output={tmp_path / 'run'}")
    result = json.loads((tmp_path / "run" / "scale.json").read_text())["faults"]
    assert result["num_struck"] == {"node_delay": 2, "node_drop": 1}
    assert [(fault["kind"], fault["num_actors"]) for fault in result["struck"][:2]] == [
        ("node_delay", 1),
        ("node_drop", 1),
    ]
    assert result["exactness"] == {"num_images": 640, "num_lost": 0, "num_doubled": 0}
    assert 0 < result["lost_actor_fraction"] <= 1


def test_terminated_job_leaves_no_nodes(tmp_path: Path):
    arguments = [CONFIG, *NO_STEP, "sweep.actors=[1]", "sweep.seconds=600", "num_local_nodes=1"]
    command = [sys.executable, "-m", "ray_jobs.scale", *arguments, f"output={tmp_path / 'run'}"]
    job = subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        while not any("ServeReplica" in command_of(process) for process in psutil.Process(job.pid).children(True)):
            assert job.poll() is None, job.communicate()[0]
            time.sleep(0.2)
        processes = psutil.Process(job.pid).children(recursive=True)
        assert (
            sum("raylet" in command_of(process).split(" ")[0] for process in processes) >= 2
        )  # the head's and the node's
    finally:
        job.terminate()
    assert job.wait(60) == 128 + 15
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert not alive
