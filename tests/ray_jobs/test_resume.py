"""Runs that resume after their driver was killed, called as a user would."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from generation.recipes.model_files import PROJECT_ROOT
from ray_jobs import train
from ray_jobs.cli.config import JobConfig, load_config
from tests.support.commands import error_line, prepared
from tests.support.journals import expected_uses, steps_in, uses_of
from tests.support.settings import EIGHTY_STEPS, PAINTED
from tests.support.trained_run import DEMO, SHORTENED, TrainedRun, interrupted_copy
from training.checkpoint import checkpoint_files, read_checkpoint


def start(run_dir: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "ray_jobs.train", PAINTED, *EIGHTY_STEPS, f"output={run_dir}", *arguments]
    return subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def kill_at(job: subprocess.Popen, run_dir: Path, step: int) -> None:
    """Kill only the driver once a step is done; wait until the processes that it started have ended."""
    started = psutil.Process(job.pid)
    while not any(done >= step for done in steps_in(run_dir / "journal")):
        assert job.poll() is None, job.communicate()[0]
        time.sleep(0.05)
    processes = started.children(recursive=True)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    _, alive = psutil.wait_procs(processes, timeout=90)
    assert not alive


@pytest.mark.ray
@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(3))
def test_run_with_a_killed_driver_resumes_with_other_workers_and_actors(seed: int, tmp_path: Path):
    random = np.random.default_rng(seed)
    run_dir = tmp_path / "run"
    workers = [1, 2, 1] if seed % 2 else [2, 1, 2]
    job = start(run_dir, f"training.num_workers={workers[0]}", "generation.batch_size=8")
    kill_at(job, run_dir, int(random.integers(7, 36)))
    first = max(steps_in(run_dir / "journal"))
    actors = int(random.integers(1, 4))
    resumed = start(
        run_dir,
        "resume=true",
        f"training.num_workers={workers[1]}",
        f"generation.min_actors={actors}",
        f"generation.max_actors={actors}",
        "generation.cpus_per_actor=0.1",
        "generation.batch_size=16",
    )
    log = resumed.communicate(timeout=240)[0]
    assert resumed.returncode == 0, log
    assert "resuming from step-" in log
    config = load_config(JobConfig, [PAINTED, *EIGHTY_STEPS]).training
    assert uses_of(run_dir / "journal") == expected_uses(config)
    starts = steps_in(run_dir / "journal")
    assert len(starts[1]) == 1  # not from the beginning
    # every sixth step, and the fortieth as the epoch's last, was saved before the next one began
    saved = max(step for step in [*range(0, first, 6), 40] if step < first)
    done_again = [step for step, each in sorted(starts.items()) if len(each) == 2]
    was_saved = not done_again and (first % 6 == 0 or first == 40)  # its last step was saved before it was killed
    assert was_saved or done_again == list(range(saved + 1, first + 1))
    assert read_checkpoint(run_dir / "checkpoint.ckpt")["global_step"] == 80
    assert {"config.yaml", "config-2.yaml", "metrics.csv", "resumed-2"} <= {path.name for path in run_dir.iterdir()}


@pytest.mark.ray
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("recipe.seed=5", "has another recipe: seed was 0, is now 5"),
        ("training.architecture=resnet34", "training.architecture was 'resnet18', is 'resnet34'"),
        ("training.reuse=2", "training.reuse was 1, is 2"),
    ],
)
def test_run_does_not_resume_with_other_settings(
    change: str, message: str, trained_run: TrainedRun, tmp_path: Path, capsys
):
    run_dir = interrupted_copy(trained_run, tmp_path / "run")
    before = sorted(run_dir.rglob("*"))
    assert message in error_line(train, capsys, DEMO, *SHORTENED, f"output={run_dir}", "resume=true", change)
    assert sorted(run_dir.rglob("*")) == before


@pytest.mark.ray
def test_run_resumes_from_the_checkpoint_before_a_truncated_one(trained_run: TrainedRun, tmp_path: Path):
    run_dir = interrupted_copy(trained_run, tmp_path / "run")
    newest, before = checkpoint_files(run_dir / "checkpoints")
    newest.write_bytes(newest.read_bytes()[:100_000])
    notes = prepared(train, DEMO, *SHORTENED, f"output={run_dir}", "resume=true").notes
    assert f"'{newest}' cannot be read" in notes[0]
    assert notes[1] == f"resuming from {before.name}"
    before.write_bytes(b"")
    with pytest.raises(ValueError, match=r"No checkpoint in .* can be read"):
        prepared(train, DEMO, *SHORTENED, f"output={run_dir}", "resume=true")


def test_resume_needs_an_unfinished_run(tmp_path: Path, capsys):
    assert "contains no run to resume" in error_line(
        train, capsys, PAINTED, *EIGHTY_STEPS, f"output={tmp_path}", "resume=true"
    )
    (tmp_path / "config.yaml").write_text("")
    (tmp_path / "checkpoint.ckpt").write_text("")
    assert "is finished" in error_line(train, capsys, PAINTED, *EIGHTY_STEPS, f"output={tmp_path}", "resume=true")


def test_real_folder_with_unknown_classes_is_one_line(tmp_path: Path, capsys):
    (tmp_path / "real" / "aardvark").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "real" / "aardvark" / "0.png")
    real = [f"training.real_images={tmp_path / 'real'}", "training.real_fraction=0.5"]
    assert "aardvark" in error_line(train, capsys, PAINTED, *EIGHTY_STEPS, f"output={tmp_path / 'run'}", *real)
    assert not (tmp_path / "run").exists()
