"""Jobs started by `ray job submit`, on a separate head that requires a token."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from generation.recipes.model_files import PROJECT_ROOT
from ray_jobs import train
from ray_jobs.cli.config import JobConfig, load_config
from tests.support.commands import error_line, error_lines, printed
from tests.support.fits import in_this_process
from tests.support.head import RAY, Head, started_head
from tests.support.journals import expected_uses, has_done, steps_by_start, steps_in, uses_of
from tests.support.processes import processes_of
from tests.support.settings import EIGHTY_STEPS, PAINTED
from tests.support.waits import wait_until
from training.checkpoint import checkpoint_files, read_checkpoint

TOKEN = "0123456789abcdef" * 4
CONFIG = "ray_jobs/configs/painted.yaml"
STOPPED_WITHIN_SECONDS = 60.0

OUTPUT = "output={out}"
ONE_ARM = ["arms=[stream]", "seeds=[0]", OUTPUT]
SMALL_SCALE = [
    *("num_local_nodes=0", "generation.gpus_per_actor=0", "generation.painted_batch_seconds=0.2", "sweep.actors=[1]"),
    *("sweep.seconds=5", "sweep.trainer_images_per_second=20", "step.few_actors=1", "step.many_actors=1"),
    OUTPUT,
]
"""With a speed limit for the trainer, so that no target for the pool's speed applies."""

SMALL_MINIATURE = [
    *("training.num_images=64", "images_per_class=2", "multiples=[1,2]", "recipe.generator=painted", "recipe.model=''"),
    *("recipe.num_inference_steps=1", "evaluation.sets=[digits,digits/noisy]", OUTPUT),
]


def saved_steps(run_dir: Path) -> list[int]:
    """Return the steps of a run's checkpoints; all must be readable and multiples of six."""
    steps = [read_checkpoint(path)["global_step"] for path in checkpoint_files(run_dir / "checkpoints")]
    assert all(step % 6 == 0 or step == 40 for step in steps)  # the fortieth is the epoch's last
    return steps


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head for all jobs of this module."""
    with started_head(TOKEN, num_cpus=4) as head:
        yield head


def ray_job(head: Head, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `ray job` like a user."""
    command = [RAY, "job", arguments[0], "--address", head.jobs_url, *arguments[1:]]
    return subprocess.run(
        command,
        cwd=PROJECT_ROOT,
        env=os.environ | head.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def submit(
    head: Head, module: str, name: str, *settings: str, waits: bool = True, config: str = CONFIG
) -> subprocess.CompletedProcess[str]:
    """Submit a command under a name; wait for it and return its log if `waits`. The upload excludes tests."""
    paths = json.dumps({"env_vars": {"PYTHONPATH": str(PROJECT_ROOT)}} if module.startswith("tests.") else {})
    options = ["--submission-id", name, "--working-dir", ".", "--runtime-env-json", paths]
    no_wait = [] if waits else ["--no-wait"]
    return ray_job(head, "submit", *options, *no_wait, "--", sys.executable, "-m", module, config, *settings)


def state_of(head: Head, name: str) -> str:
    return head.request(f"jobs/{name}")["status"]


def log_of(head: Head, name: str) -> str:
    return head.request(f"jobs/{name}/logs")["logs"]


def left_over(head: Head) -> list[str]:
    """Return what still occupies the cluster: placement groups, generators, workers."""
    groups, actors = (
        head.request(f"v0/{kind}?limit=1000")["data"]["result"]["result"] for kind in ("placement_groups", "actors")
    )
    busy = ("ServeReplica", "RayTrainWorker", "TrainController", "MapWorker", "SplitCoordinator", "JobSupervisor")
    alive = [actor["class_name"] for actor in actors if actor["state"] != "DEAD"]
    return [
        *(group["placement_group_id"] for group in groups if group["state"] != "REMOVED"),
        *(name for name in alive if name.startswith(busy)),
    ]


SLOWLY = ["generation.painted_batch_seconds=2", "generation.batch_size=32"]
"""27 batches of 32 by two actors take 27 s, enough for a test to disturb the run."""


def kill_driver_after_seven_steps(run_dir: Path, *settings: str) -> None:
    """Train in a separate process, on the session's cluster in Ray Train's local mode, and kill it after 7 steps."""
    command = [sys.executable, "-m", "tests.support.train_in_one_process", CONFIG, *settings]
    address = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    driver = subprocess.Popen(command, cwd=PROJECT_ROOT, env=os.environ | address, stdout=subprocess.DEVNULL)
    try:
        wait_until(has_done(run_dir / "journal", 7), 120)
    finally:
        driver.kill()
        driver.wait()


@pytest.mark.ray
@pytest.mark.timeout(600)  # three starts of a job; each wait has its own limit
@pytest.mark.usefixtures("ray_cluster")
def test_run_survives_a_killed_driver_a_lost_worker_and_a_stop(head: Head, tmp_path: Path, capsys):
    """A driver is killed; a job with two workers resumes, loses one and is stopped; a third job finishes the run."""
    run_dir = tmp_path / "run"
    journal, settings = run_dir / "journal", [*EIGHTY_STEPS, f"output={run_dir}"]
    kill_driver_after_seven_steps(run_dir, *settings, *SLOWLY)
    assert saved_steps(run_dir)

    resumed = [*settings, *SLOWLY, "training.num_workers=2", "resume=true"]
    assert submit(head, "ray_jobs.train", "stopped", *resumed, waits=False).returncode == 0
    wait_until(lambda: len(steps_by_start(journal)) == 2, 180)
    processes_of("RayTrainWorker")[0].kill()
    wait_until(lambda: len(steps_by_start(journal)) == 3, 120)
    assert error_line(train, capsys, PAINTED, *settings).startswith(f"Another job is using '{run_dir}'. Stop it")
    stop = ray_job(head, "stop", "stopped")
    assert (stop.returncode, state_of(head, "stopped")) == (0, "STOPPED")
    wait_until(lambda: left_over(head) == [], STOPPED_WITHIN_SECONDS)
    assert max(steps_in(journal)) < 80
    assert saved_steps(run_dir)

    actors = ["generation.min_actors=3", "generation.max_actors=3", "generation.batch_size=16"]
    with in_this_process():
        log = printed(train, capsys, PAINTED, *settings, "resume=true", *actors)
    for line in ("resuming from step-", "3 generator actors up, batches of 16", "2,560/2,560 trained"):
        assert line in log
    assert json.loads((run_dir / "summary.json").read_text())["num_trained"] == 2560
    assert len(steps_by_start(journal)) == 4
    assert len(steps_in(journal)[1]) == 1  # only the first start began at the beginning
    assert uses_of(journal) == expected_uses(load_config(JobConfig, [PAINTED, *EIGHTY_STEPS]).training)
    assert not {"lock", "checkpoints"}.intersection(path.name for path in run_dir.iterdir())


@pytest.mark.ray
@pytest.mark.nightly
def test_stopped_job_leaves_nothing_running_and_another_job_resumes_it(head: Head, tmp_path: Path):
    run_dir = tmp_path / "run"
    journal, settings = run_dir / "journal", [*EIGHTY_STEPS, f"output={run_dir}"]
    assert submit(head, "ray_jobs.train", "first", *settings, *SLOWLY, waits=False).returncode == 0
    wait_until((run_dir / "config.yaml").exists, 120)
    again = submit(head, "ray_jobs.train", "again", *settings)
    (line,) = error_lines(log_of(head, "again"))
    assert line.startswith(f"error: Another job is using '{run_dir}'. Stop it first, or choose another folder.")
    assert (again.returncode, state_of(head, "again")) == (1, "FAILED")
    wait_until(has_done(journal, 7), 180)
    stop = ray_job(head, "stop", "first")
    assert (stop.returncode, state_of(head, "first")) == (0, "STOPPED")
    wait_until(lambda: left_over(head) == [], STOPPED_WITHIN_SECONDS)
    first, saved = max(steps_in(journal)), max(saved_steps(run_dir))
    assert first < 80
    log = submit(head, "ray_jobs.train", "second", *settings, "resume=true").stdout
    assert state_of(head, "second") == "SUCCEEDED", log
    for line in (
        "resuming from step-",
        "connected to Ray; its logs are in /",
        "2 generator actors up, batches of 64",
        "2,560/2,560 trained",
        "time_to_first_batch_seconds",
        f"Everything is in {run_dir}",
    ):
        assert line in log
    assert uses_of(journal) == expected_uses(load_config(JobConfig, [PAINTED, *EIGHTY_STEPS]).training)
    assert json.loads((run_dir / "summary.json").read_text())["num_trained"] == 2560
    # steps since the last checkpoint: the stop may come between a sixth step and its checkpoint
    done_again = [step for step, starts in sorted(steps_in(journal).items()) if len(starts) == 2]
    assert done_again == list(range(saved + 1, first + 1))
    assert not {"lock", "checkpoints"}.intersection(path.name for path in run_dir.iterdir())
    assert left_over(head) == []


@pytest.fixture(scope="module")
def trained_on_real(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on real digits by a submitted job."""
    run_dir = tmp_path_factory.mktemp("submitted") / "run"
    small = ["training.num_images=128", "training.num_epochs=1", "training.num_held_out=20", "evaluation.sets=[]"]
    log = submit(
        head, "ray_jobs.train", "real", "data.source=real", "data.real=digits", *small, f"output={run_dir}"
    ).stdout
    assert state_of(head, "real") == "SUCCEEDED", log
    return run_dir


@pytest.mark.ray
@pytest.mark.nightly
@pytest.mark.parametrize(
    "arguments",
    [
        ["{run}/evaluation/evaluation.json", "evaluate", CONFIG, "checkpoint={run}/checkpoint.ckpt"],
        ["{out}/judgement.json", "judge", CONFIG, "checkpoint={run}/checkpoint.ckpt", "num_generated=100", OUTPUT],
        ["{out}/gallery.html", "gallery", CONFIG, "--classes=zero", "--images=1", "--out={out}"],
        ["{out}/7.png", "regenerate", CONFIG, "--index=7", "--out={out}"],
        ["{out}/results.json", "compare", CONFIG, "training.num_images=128", "training.num_epochs=2", *ONE_ARM],
        ["{out}/scale.json", "scale", "ray_jobs/configs/scale.yaml", *SMALL_SCALE],
        ["{out}/results.json", "miniature", "ray_jobs/configs/miniature.yaml", *SMALL_MINIATURE],
    ],
    ids=lambda arguments: arguments[1],
)
def test_submitted_job_writes_its_result(arguments: list[str], head: Head, tmp_path: Path, trained_on_real: Path):
    formatted = (each.format(run=trained_on_real, out=tmp_path / "out") for each in arguments)
    written, job, config, *settings = formatted
    log = submit(head, f"ray_jobs.{job}", f"small-{job}", *settings, config=config).stdout
    assert state_of(head, f"small-{job}") == "SUCCEEDED", log
    assert Path(written).is_file()
    assert left_over(head) == []


@pytest.mark.ray
@pytest.mark.nightly
def test_jobs_share_a_cluster_and_an_impossible_one_fails_in_one_line(head: Head, tmp_path: Path):
    small = ["recipe.image_size=16", "training.num_images=64", "training.num_held_out=16", "training.num_epochs=1"]
    keeping = ["data.shard_size=16", "generation.batch_size=16", f"output={tmp_path / 'set'}"]
    submit(head, "ray_jobs.train", "wrong", "recipe.image_size=30", f"output={tmp_path / 'wrong'}", waits=False)
    submit(head, "ray_jobs.plan", "planned", *small, waits=False)
    log = submit(head, "ray_jobs.generate", "generated", *small, *keeping).stdout
    wait_until(lambda: state_of(head, "planned") == "SUCCEEDED" and state_of(head, "wrong") == "FAILED", 60)
    assert state_of(head, "generated") == "SUCCEEDED", log
    assert f"all 80 images are in {tmp_path / 'set'}" in log
    assert len(list((tmp_path / "set").glob("*.tar"))) == 4

    log = log_of(head, "wrong")
    (line,) = error_lines(log)
    assert "Try 24" in line
    assert "Traceback" not in log
    assert head.request("jobs/wrong")["driver_exit_code"] == 2
    assert not (tmp_path / "wrong").exists()
    assert left_over(head) == []


@pytest.mark.ray
@pytest.mark.nightly
def test_wrong_or_missing_token_is_one_line_with_the_remedy(head: Head, tmp_path: Path):
    home = os.environ | {"HOME": str(tmp_path), "RAY_ADDRESS": head.address, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64}
    drivers = [
        subprocess.Popen(
            [sys.executable, "-m", "ray_jobs.train", CONFIG, f"output={tmp_path / f'run{number}'}"],
            cwd=PROJECT_ROOT,
            env=home | given,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, given in enumerate([wrong, {"RAY_AUTH_MODE": "token"}, {"RAY_AUTH_MODE": "disabled"}])
    ]
    for driver in drivers:
        try:
            log = driver.communicate(timeout=120)[1]
        finally:
            driver.kill()
        (line,) = error_lines(log)
        assert f"The Ray cluster at {head.address} requires a token; this process has none or a different one." in line
        assert "Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN" in line
        assert "Traceback" not in log
        assert driver.returncode == 2
    assert not list(tmp_path.glob("run*"))
