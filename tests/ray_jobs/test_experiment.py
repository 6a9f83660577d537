"""Experiments on a real local cluster: painted generators and a tiny classifier."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from generation.recipes.model_files import PROJECT_ROOT
from ray_jobs import experiment
from ray_jobs.cli.config import load_config
from ray_jobs.cli.experiment_config import ExperimentConfig, Learner
from tests.support.commands import call
from tests.support.processes import in_own_group
from tests.support.settings import PAINTED
from tests.support.waits import wait_until

CONFIG = f"""
base: {PAINTED}
recipe: {{image_size: 16}}
generation: {{batch_size: 16, cpus_per_actor: 0.1}}
training:
  architecture: timm/resnet10t
  num_images: 128
  num_epochs: 2
  num_held_out: 16
  global_batch_size: 32
  cpus_per_worker: 0.25
evaluation: {{sets: []}}
"""
TWO_ARMS = """
arms:
  plain: []
  mixed: ["training.real_images={folder}", training.real_fraction=0.25]
seeds: [0]
"""


def results(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Return the learners in results.json by folder."""
    return {each["folder"]: each for each in json.loads((run_dir / "results.json").read_text())["learners"]}


def write_images(folder: Path) -> Path:
    """Write two real images, of which the second cannot be read, and return that one."""
    for name in ("zero", "one"):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (16, 16), "white").save(folder / name / "a.png")
    (folder / "one" / "a.png").write_bytes(b"damaged")
    return folder / "one" / "a.png"


def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[experiment.Experiment, list[str]]:
    """Return an experiment in `out`, and the names of its runs that are prepared from here on."""
    config = tmp_path / "arms.yaml"
    config.write_text(CONFIG + "arms: {one: [], other: [training.reuse=2]}\nseeds: [0]\n")
    (tmp_path / "out").mkdir()
    prepared: list[str] = []
    monkeypatch.setattr(experiment.Experiment, "_prepare", lambda self, names: prepared.extend(names))
    settings = load_config(ExperimentConfig, [str(config), f"output={tmp_path / 'out'}", *arguments])
    return experiment.Experiment(settings, tmp_path / "out"), prepared


def test_status_is_stopped_early_only_if_tune_stopped_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    runs, _ = begun(tmp_path, monkeypatch)
    for name, is_stopped in (("one, seed 0", True), ("other, seed 0", False)):
        runs.folder(name).mkdir(parents=True)
        summary = json.dumps({"num_trained": 64, "stopped_early": is_stopped})
        (runs.folder(name) / "summary.json").write_text(summary)
    assert [record.status for record in runs.records()] == ["stopped early", "finished"]


def test_error_of_any_kind_fails_only_runs_that_are_not_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    runs, _ = begun(tmp_path, monkeypatch)
    runs.jobs = dict.fromkeys(runs.learners)  # pyright: ignore[reportAttributeAccessIssue]
    evaluated: list[str] = []

    def train(names: list[str]) -> None:
        runs.folder(names[0]).mkdir(parents=True)
        (runs.folder(names[0]) / "trained.json").touch()
        raise RuntimeError("the sharing actor died")

    monkeypatch.setattr(runs, "_train", train)
    monkeypatch.setattr(runs, "_evaluate", lambda job, name: evaluated.append(name))
    runs.run_group(list(runs.learners))
    assert evaluated == ["one, seed 0"]
    assert list(runs.errors) == ["other, seed 0"]


@pytest.mark.parametrize(("seconds", "failed"), [(8.0, []), (1.0, ["one, seed 0"])])
def test_new_arm_takes_the_known_rate_of_its_group(
    seconds: float, failed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """At 40 images/s, 1 s buys 40 images: one step of two epochs, or two with reuse."""
    runs, prepared = begun(tmp_path, monkeypatch, f"budget.generator_device_seconds={seconds:g}")
    runs.rates = {"finished": 40.0}
    group = [Learner("finished", 0, (), runs.learners["one, seed 0"].config), *runs.learners.values()]
    monkeypatch.setattr(runs, "_group", lambda name: group)
    pool: Any = None
    runs._set_budget(list(runs.learners), pool)
    assert list(runs.errors) == failed
    assert prepared == [name for name in ("one, seed 0", "other, seed 0") if name not in failed]
    saved = json.loads((tmp_path / "out" / "rates.json").read_text())
    assert saved == {"finished": 40.0} | {name.partition(",")[0]: 40.0 for name in prepared}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_failed_run_ends_no_other_and_is_resumed_alone(tmp_path: Path, capsys):
    damaged = write_images(tmp_path / "real")
    config, run_dir = tmp_path / "two.yaml", tmp_path / "out"
    config.write_text(CONFIG + TWO_ARMS.format(folder=tmp_path / "real"))
    with pytest.raises(SystemExit) as ended:
        call(experiment, str(config), f"output={run_dir}")
    assert ended.value.code == 1
    printed = capsys.readouterr().out
    (failed,) = [line for line in printed.splitlines() if "mixed, seed 0 failed: " in line]
    assert "one/a.png" in failed
    assert "plain, seed 0: epoch 2 of 2, held-out top-1" in printed
    assert "images made per distinct image: 1.000" in printed
    found = results(run_dir)
    assert {name: each["status"] for name, each in found.items()} == {
        "plain/seed-0": "finished",
        "mixed/seed-0": "failed",
    }
    assert found["plain/seed-0"]["summary"]["num_trained"] == 128

    Image.new("RGB", (16, 16), "white").save(damaged)
    summary = run_dir / "plain" / "seed-0" / "summary.json"
    written_at = summary.stat().st_mtime_ns
    call(experiment, str(config), f"output={run_dir}", "resume=true")
    assert summary.stat().st_mtime_ns == written_at
    found = results(run_dir)
    assert [each["status"] for each in found.values()] == ["finished", "finished"]
    assert found["mixed/seed-0"]["overrides"] == [
        f"training.real_images={tmp_path / 'real'}",
        "training.real_fraction=0.25",
    ]
    assert sorted(path.name for path in run_dir.iterdir()) == [
        *("arms.csv", "config-2.yaml", "config.yaml", "figures", "mixed", "plain"),
        *("report.html", "results.csv", "results.json"),
    ]
    assert {path.name for path in (run_dir / "mixed" / "seed-0").iterdir()} >= {
        *("checkpoint.ckpt", "config.yaml", "recipe.json", "report.html", "samples.png", "spent.csv", "summary.json")
    }


@pytest.mark.ray
@pytest.mark.nightly
@pytest.mark.usefixtures("ray_cluster")
def test_worse_runs_stop_early_and_are_evaluated(tmp_path: Path):
    config, run_dir = tmp_path / "halved.yaml", tmp_path / "out"
    rates = "arms: {learns: [], does not: [training.base_learning_rate=1e-12]}\nseeds: [0, 1]\n"
    config.write_text(CONFIG + rates + "stopping: {reduction: 2, first_images: 256}\n")
    images = ["training.num_images=1024", "training.num_epochs=4", "evaluation.sets=[digits]"]
    call(experiment, str(config), f"output={run_dir}", *images)
    found = results(run_dir)
    num_trained = [each["summary"]["num_trained"] for each in found.values()]
    assert max(num_trained) == 1024
    assert min(num_trained) in (256, 512)
    for each in found.values():
        is_whole = each["summary"]["num_trained"] == 1024
        assert each["status"] == ("finished" if is_whole else "stopped early")
        assert each["summary"]["num_real_images"] == 540


@pytest.mark.ray
@pytest.mark.nightly
@pytest.mark.usefixtures("ray_cluster")
def test_device_seconds_buy_images_at_the_measured_rate(tmp_path: Path):
    config, run_dir = tmp_path / "seconds.yaml", tmp_path / "out"
    slow = "arms: {slow: [generation.painted_batch_seconds=0.4], fast: [generation.painted_batch_seconds=0.2]}\n"
    config.write_text(CONFIG + slow + "seeds: [0]\nbudget: {generator_device_seconds: 8}\n")
    call(experiment, str(config), f"output={run_dir}")
    rates = json.loads((run_dir / "rates.json").read_text())
    assert rates == {"slow": pytest.approx(16 / 0.4, rel=0.1), "fast": pytest.approx(16 / 0.2, rel=0.1)}
    trained = {name: each["summary"]["num_trained"] for name, each in results(run_dir).items()}
    assert trained == {f"{arm}/seed-0": int(8 * rate) // 64 * 64 for arm, rate in rates.items()}


@pytest.mark.ray
@pytest.mark.nightly
def test_experiment_goes_on_where_its_driver_was_killed(tmp_path: Path):
    """Killed when the first run is trained: it is finished by then or only evaluated, and the other is resumed."""
    config, run_dir = tmp_path / "two.yaml", tmp_path / "out"
    config.write_text(CONFIG + "arms: {one: [], other: [training.reuse=2]}\nseeds: [0]\n")
    command = [sys.executable, "-m", "ray_jobs.experiment", str(config), f"output={run_dir}"]
    own_ray = os.environ | {"RAY_ADDRESS": "local"}
    with in_own_group(*command, **own_ray) as driver:
        wait_until(lambda: list(run_dir.glob("*/seed-0/trained.json")), 200)
        os.kill(driver.pid, signal.SIGKILL)
    resumed = [*command, "resume=true"]
    ended = subprocess.run(
        resumed, cwd=PROJECT_ROOT, env=own_ray, capture_output=True, text=True, check=False, timeout=280
    )
    assert ended.returncode == 0, ended.stderr
    assert [each["status"] for each in results(run_dir).values()] == ["finished", "finished"]
    assert {each["summary"]["num_trained"] for each in results(run_dir).values()} == {128}
