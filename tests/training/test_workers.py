"""Training with several workers on a local Ray cluster: order, losses, determinism and real images."""

import csv
import dataclasses
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.data import Dataset

from evaluation.images.training_images import real_training_images
from generation.indices import IndexSet, SampleRequest
from generation.pool.service import GenerationService
from generation.recipes.recipe import Recipe
from generation.shards.config import DataConfig
from generation.shards.datasets import read_shards, write_shards
from generation.shards.shard_set import new_shard_set
from generation.shards.storage import Storage
from generation.stream.stream import stream_samples
from tests.support.fits import FORTY_STEPS, train, train_by, train_here
from tests.support.journals import expected_uses, steps_in, uses_of
from tests.support.settings import TWO_ACTORS
from training.checkpoint import read_checkpoint
from training.config import TrainingConfig
from training.job import TrainingSamples
from training.model.classifier import load_classifier
from training.run_state import RunState

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

IN_ORDER = dataclasses.replace(
    FORTY_STEPS,
    num_images=640,  # 20 steps of 32
    reuse=1,
    cpus_per_worker=0.25,
    checkpoint_every_steps=0,
    deterministic=True,
    log_every_steps=1,
)
TEN_STEPS = dataclasses.replace(IN_ORDER, num_images=320, num_epochs=1, base_learning_rate=0.02)


def losses(run_dir: Path) -> np.ndarray:
    """Return the logged losses, one per step."""
    with (run_dir / "metrics.csv").open() as file:
        return np.array([float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]])


def order(run_dir: Path) -> list[list[int]]:
    """Return the serials of each step in order, those of the first worker first."""
    steps = steps_in(run_dir / "journal")
    return [[int(row[3]) for row in next(iter(steps[step].values()))] for step in sorted(steps)]


def assert_same_weights(one: dict, other: dict) -> None:
    assert one["state_dict"].keys() == other["state_dict"].keys()
    for name, weights in one["state_dict"].items():
        assert torch.equal(weights, other["state_dict"][name]), name


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    checkpoint: dict[str, Any]


@pytest.fixture(scope="module")
def alone(painted: Recipe, painted_pool: GenerationService, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Ten deterministic steps by one worker, from the stream."""
    folder = tmp_path_factory.mktemp("alone")
    return Run(folder, train_here(painted_pool, painted, TEN_STEPS, folder))


def shards_of(service: GenerationService, recipe: Recipe, config: TrainingConfig, folder: Path) -> TrainingSamples:
    """Write the samples of a run as shards, and return them for training."""
    shards = new_shard_set(
        Storage(str(folder)), recipe, range(config.num_samples), TWO_ACTORS.batch_size, DataConfig(shard_size=64)
    )
    shards.write_manifest(None)
    write_shards(service, TWO_ACTORS, shards, shards.missing()).materialize()
    return TrainingSamples(config.num_samples, partial(read_shards, shards, 0, 2))


def test_deterministic_stream_and_shards_give_equal_weights(
    painted: Recipe, painted_pool: GenerationService, alone: Run, tmp_path: Path
):
    assert order(alone.folder) == np.arange(320).reshape(10, 32).tolist()
    samples = shards_of(painted_pool, painted, TEN_STEPS, tmp_path / "set")
    again = train_here(painted_pool, painted, TEN_STEPS, tmp_path / "again", samples=samples)
    assert_same_weights(alone.checkpoint, again)


@pytest.mark.nightly
def test_two_deterministic_runs_give_equal_weights(painted: Recipe, painted_pool: GenerationService, tmp_path: Path):
    first, second = (train(painted_pool, painted, IN_ORDER, tmp_path / name) for name in ("first", "second"))
    assert order(tmp_path / "first") == np.arange(640).reshape(20, 32).tolist()
    assert_same_weights(first, second)
    samples = shards_of(painted_pool, painted, IN_ORDER, tmp_path / "set")
    assert_same_weights(first, train(painted_pool, painted, IN_ORDER, tmp_path / "third", samples=samples))


@pytest.mark.nightly
@pytest.mark.parametrize("num_workers", [2, 4])
def test_several_workers_learn_like_one(
    num_workers: int, painted: Recipe, painted_pool: GenerationService, alone: Run, tmp_path: Path
):
    config = dataclasses.replace(TEN_STEPS, num_workers=num_workers, cpus_per_worker=0.1)
    train(painted_pool, painted, config, tmp_path)
    assert [sorted(step) for step in order(tmp_path)] == np.arange(320).reshape(10, 32).tolist()
    assert len(losses(alone.folder)) == 10
    np.testing.assert_allclose(losses(tmp_path), losses(alone.folder), rtol=1e-3)


def open_late(open_all: Callable[[SampleRequest], Dataset], first_late: int, wanted: SampleRequest) -> Dataset:
    """Return the requested samples, delayed for a worker without any of the first serials."""
    dataset = open_all(wanted)
    if wanted.serials.starts[0] < first_late:
        return dataset
    return dataset.map_batches(delayed, batch_size=8)


def delayed(batch: Any) -> Any:
    time.sleep(0.2)
    return batch


@pytest.mark.nightly
def test_workers_wait_for_late_images(painted: Recipe, painted_pool: GenerationService, tmp_path: Path):
    config = dataclasses.replace(IN_ORDER, deterministic=False, num_workers=2, reuse=3)
    stream = partial(stream_samples, painted_pool, painted, TWO_ACTORS)
    samples = TrainingSamples(
        config.num_samples, partial(open_late, stream, 100)
    )  # 214 samples, 107 for the first worker
    assert train(painted_pool, painted, config, tmp_path, samples=samples)["global_step"] == 20
    assert uses_of(tmp_path / "journal") == expected_uses(config)  # 640 of 642 uses: an uneven rest is dropped


@pytest.mark.nightly
@pytest.mark.parametrize("fit_once", [train_here, train])
def test_training_stops_early_and_keeps_the_best_epoch(
    fit_once: Callable[..., dict[str, Any]], painted: Recipe, painted_pool: GenerationService, tmp_path: Path
):
    config = dataclasses.replace(
        IN_ORDER, num_epochs=10, base_learning_rate=1e-9, early_stop_epochs=2, keep_best=True, ema_decay=0.9
    )
    last = fit_once(painted_pool, painted, config, tmp_path)
    assert last["epoch"] < 9
    assert last["global_step"] == 2 * (last["epoch"] + 1)  # whole epochs of 2 steps
    best = read_checkpoint(tmp_path / "best.ckpt")
    assert best["global_step"] == last["global_step"] - 4  # two epochs before
    assert load_classifier(best).config == config
    assert RunState.from_checkpoint(best["run"]).of("synthetic").taken


@pytest.mark.nightly
@pytest.mark.parametrize("num_workers", [1, 2])
def test_real_images_have_their_share_and_own_statistics(
    num_workers: int, painted: Recipe, painted_pool: GenerationService, tmp_path: Path
):
    config = dataclasses.replace(
        IN_ORDER,
        deterministic=False,
        num_workers=num_workers,
        real_images="digits",
        real_fraction=0.25,
        separate_batch_norm=True,
        reuse=2,
    )
    real = real_training_images("digits", painted.label_space, painted.image_size, seed=0)
    samples = TrainingSamples(real.num_images, real.open)
    checkpoint = train_by(num_workers)(painted_pool, painted, config, tmp_path, real=samples)
    steps = steps_in(tmp_path / "journal")
    rows = [[(row[2], int(row[3])) for row in next(iter(starts.values()))] for starts in steps.values()]
    assert [sum(domain == "real" for domain, _ in step) for step in rows] == [8] * 20
    real_serials = sorted(serial for step in rows for domain, serial in step if domain == "real")
    assert real_serials == list(range(160))  # each once
    state = RunState.from_checkpoint(checkpoint["run"])
    assert state.of("real").taken == IndexSet.of_ranges([range(160)])
    assert state.of("synthetic").taken == IndexSet.of_ranges([range(240)])  # 480 uses
    classifier = load_classifier(checkpoint)
    weights = classifier.state_dict()
    means = [name for name in weights if name.endswith("real.running_mean")]
    assert means
    assert not any(torch.equal(weights[name], weights[name.replace("real", "synthetic")]) for name in means)
