"""Training on a running pool, as in `ray_jobs.train` without its cluster, display and evaluation."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray.train
import torch.distributed
from ray.data import Dataset

from generation.config import GenerationConfig
from generation.indices import SampleRequest
from generation.pool.service import GenerationService
from generation.recipes.plan import FIRST_HELD_OUT_INDEX
from generation.recipes.recipe import Recipe
from generation.stream.stream import stream_samples
from tests.support.s3 import free_port
from tests.support.settings import TWO_ACTORS
from training.checkpoint import read_checkpoint
from training.config import TrainingConfig
from training.fit import fit
from training.job import FitJob, TrainingSamples
from training.progress import TrainingProgress

FORTY_STEPS = TrainingConfig(
    architecture="timm/resnet10t",
    num_images=1280,  # 40 steps of 32
    reuse=3,
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


def held_out_of(config: TrainingConfig) -> SampleRequest:
    """Return the held-out indices of a run."""
    return SampleRequest.all_of(range(FIRST_HELD_OUT_INDEX, FIRST_HELD_OUT_INDEX + config.num_held_out))


def streamed(
    service: GenerationService, recipe: Recipe, config: TrainingConfig, pool: GenerationConfig = TWO_ACTORS
) -> TrainingSamples:
    """Return a run's samples, streamed from a pool."""
    return TrainingSamples(config.num_samples, partial(stream_samples, service, recipe, pool))


def train(  # noqa: PLR0913
    service: GenerationService,
    recipe: Recipe,
    config: TrainingConfig,
    run_dir: Path,
    *,
    samples: TrainingSamples | None = None,
    real: TrainingSamples | None = None,
    listeners: tuple[Callable[[TrainingProgress], Any], ...] = (),
) -> dict[str, Any]:
    """Train or resume in a folder and return the last checkpoint; samples are streamed unless given."""
    run_dir.mkdir(exist_ok=True)
    job = FitJob(config, recipe, run_dir, samples or streamed(service, recipe, config), real, listeners)
    held_out: Dataset = stream_samples(service, recipe, TWO_ACTORS, held_out_of(config))
    return read_checkpoint(fit(job, held_out))


def train_here(
    service: GenerationService, recipe: Recipe, config: TrainingConfig, run_dir: Path, **others: Any
) -> dict[str, Any]:
    """Train with one worker in this process; takes the same arguments as `train`."""
    assert config.num_workers == 1
    with in_this_process():
        return train(service, recipe, config, run_dir, **others)


def train_by(num_workers: int) -> Callable[..., dict[str, Any]]:
    """Return `train_here` for one worker; for several `train`, whose processes take half a minute to start."""
    return train_here if num_workers == 1 else train


@contextmanager
def in_this_process() -> Iterator[None]:
    """Make `fit` run the worker's function in this process with Ray Train's local mode, so that no process starts.

    Data still comes through Ray; Ray Train's controller, restarts and data coordinator are not used.
    """
    alone = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": free_port()}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in alone.items():
            patch.setenv(name, str(value))
        patch.setenv("MASTER_ADDR", "127.0.0.1")
        patch.setenv("OMP_NUM_THREADS", "1")  # as Ray sets it for its workers; without it Lightning uses all cores
        patch.setattr("training.fit.worker_group", lambda _: ray.train.ScalingConfig(num_workers=0))
        try:
            yield
        finally:
            if torch.distributed.is_initialized():  # left by a failed run
                torch.distributed.destroy_process_group()
