"""Runs that are killed, moved and resized on a real local cluster lose no use of a sample and repeat none."""

import csv
import dataclasses
import os
import signal
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from generation.config import GenerationConfig
from generation.recipe import Recipe
from generation.service import start_generation
from generation.stream import stream_samples
from tests.training.test_fit import held_out_of
from training.checkpoint import read_checkpoint
from training.config import TrainingConfig
from training.fit import fit
from training.job import FitJob, TrainingSamples
from training.run_state import RunState

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

REUSE = 3

TWO_EPOCHS = TrainingConfig(
    architecture="timm/resnet10t",
    num_images=1280,  # 40 steps of 32
    reuse=REUSE,
    num_epochs=2,
    num_held_out=16,
    global_batch_size=32,
    base_learning_rate=0.1,
    augmentation="affine",
    gpus_per_worker=0,
    cpus_per_worker=0.5,
    checkpoint_every_steps=6,
    journal=True,
)


def pool_of(num_actors: int) -> GenerationConfig:
    return GenerationConfig(
        min_actors=num_actors, max_actors=num_actors, gpus_per_actor=0, cpus_per_actor=0.1, batch_size=8
    )


def say_nothing(_: object) -> None:
    pass


def train(
    recipe: Recipe, config: TrainingConfig, run_dir: Path, num_actors: int, real: TrainingSamples | None = None
) -> dict[str, Any]:
    """Train, or go on, with a pool of that many actors; return the last checkpoint."""
    run_dir.mkdir(exist_ok=True)
    with start_generation(recipe, pool_of(num_actors)) as service:
        samples = TrainingSamples(config.num_samples, partial(stream_samples, service, recipe, pool_of(num_actors)))
        job = FitJob(config, recipe, run_dir, samples, real, say_nothing)
        return read_checkpoint(fit(job, stream_samples(service, recipe, pool_of(num_actors), held_out_of(config))))


def steps_in(journal: Path) -> dict[int, dict[float, list[list[str]]]]:
    """Return the rows of each step of each start of a run, by step and start, the starts as they came."""
    steps: dict[int, dict[float, list[list[str]]]] = defaultdict(lambda: defaultdict(list))
    for path in journal.glob("rank-*.csv"):
        with path.open(newline="") as file:
            for row in list(csv.reader(file))[1:]:
                if len(row) == 5:  # not cut short by a kill
                    steps[int(row[1])][float(row[0])].append(row)
    return {step: dict(sorted(starts.items())) for step, starts in steps.items()}


def uses_of(journal: Path) -> Counter[int]:
    """Return how often each sample was used by the steps that count: each step as it was done the last time."""
    return Counter(int(row[3]) for starts in steps_in(journal).values() for row in list(starts.values())[-1])


def expected(config: TrainingConfig) -> Counter[int]:
    """Return how often each sample is used in an undisturbed run: the last one less often, where steps end before."""
    uses = Counter(dict.fromkeys(range(config.num_samples), REUSE))
    uses[config.num_samples - 1] -= config.num_samples * REUSE - config.num_trained
    return uses


def processes_of(name: str) -> list[psutil.Process]:
    return [process for process in psutil.Process().children(recursive=True) if name in command_of(process)]


def command_of(process: psutil.Process) -> str:
    """Return what a process is, empty for one that has just ended, or that another test left unwaited for."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


@contextmanager
def killing(process_name: str, at: Callable[[], bool]) -> Iterator[list[int]]:
    """Kill a process of that name once a moment has come; yield the pids that were killed."""
    killed: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            if at() and (found := processes_of(process_name)):
                killed.append(found[-1].pid)
                os.kill(found[-1].pid, signal.SIGKILL)
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def has_done(journal: Path, step: int) -> Callable[[], bool]:
    return lambda: any(done >= step for done in steps_in(journal))


@pytest.mark.parametrize("seed", range(7))
def test_after_the_loss_of_a_trainer_or_a_generator_each_sample_is_used_as_often_as_without(
    seed: int, painted: Recipe, tmp_path: Path
):
    random = np.random.default_rng(seed)
    config = dataclasses.replace(TWO_EPOCHS, num_workers=int(random.choice([1, 2])))
    name = ("RayTrainWorker", "GeneratorActor")[seed % 2]
    with killing(name, has_done(tmp_path / "journal", int(random.integers(2, 36)))) as killed:
        last = train(painted, config, tmp_path, num_actors=int(random.choice([1, 2])))
    assert len(killed) == 1
    assert last["global_step"] == 40
    assert uses_of(tmp_path / "journal") == expected(config)
    num_starts = {len(starts) for starts in steps_in(tmp_path / "journal").values()}
    assert num_starts <= ({1, 2} if name == "RayTrainWorker" else {1})
    state = RunState.from_checkpoint(last["run"]).of("synthetic")
    assert len(state.taken) == config.num_samples
    assert len(state.begun) == 0
