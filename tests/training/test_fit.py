"""Training on a local Ray cluster: the images it uses, the files it writes, and how it ends."""

import csv
import dataclasses
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ray.train
import torch
from ray.train.torch import TorchTrainer
from ray.util.queue import Queue

from generation.indices import SampleRequest
from generation.pool.service import GenerationService, start_generation
from generation.recipes.config import RecipeConfig
from generation.recipes.recipe import Recipe, build_recipe
from generation.stream.stream import stream_samples
from tests.support.fits import streamed, train, train_by, train_here
from tests.support.settings import TWO_ACTORS
from training.config import TrainingConfig
from training.fit import fit
from training.job import FitJob
from training.model.classifier import NonFiniteLossError, load_classifier
from training.progress import TrainingProgress
from training.resume import ResumePoint, open_loader
from training.run_state import RunState

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

FIFTEEN_STEPS = TrainingConfig(
    architecture="resnet18",
    num_images=500,  # 15 steps of 32
    num_epochs=3,
    num_held_out=40,
    global_batch_size=32,
    base_learning_rate=0.4,
    augmentation="affine",
    gpus_per_worker=0,
    cpus_per_worker=0.5,
)


@pytest.fixture
def reports(ray_cluster):
    """A queue for progress reports."""
    queue = Queue(actor_options={"num_cpus": 0})
    yield queue
    queue.shutdown()


def taken_from(reports: Queue) -> list[TrainingProgress]:
    return reports.get_nowait_batch(reports.qsize())


@pytest.mark.nightly
@pytest.mark.parametrize("num_workers", [1, 2])
def test_three_epochs_generate_each_image_once(
    num_workers: int, painted: Recipe, painted_pool: GenerationService, reports: Queue, tmp_path: Path
):
    config = dataclasses.replace(FIFTEEN_STEPS, num_workers=num_workers)
    before = painted_pool.counts()
    checkpoint = train_by(num_workers)(painted_pool, painted, config, tmp_path, listeners=(reports.put,))
    after, progress = painted_pool.counts(), taken_from(reports)[-1]
    assert after.num_images_made - before.num_images_made == 480 + 48  # 40 held-out samples once, in whole batches
    assert after.num_loads == before.num_loads
    assert set(after.num_loads.values()) == {1}
    assert (progress.num_trained, progress.epoch) == (480, 3)
    assert checkpoint["global_step"] == 15
    assert checkpoint["recipe"]["sha256"] == painted.sha256
    assert json.loads(checkpoint["recipe"]["json"]) == json.loads(painted.to_json())
    assert load_classifier(checkpoint).config == config
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name in ("held_out/top1", "held_out/loss"):
        assert len([row for row in rows if row[name]]) == 3
    for name in ("train/loss", "train/top1", "train/gradient_norm", "train/learning_rate"):
        assert any(row[name] for row in rows)
    assert any((tmp_path / "tensorboard").glob("events*"))


def take_slowly(settings: dict) -> None:
    """Read a training worker's share, pausing after the first batch, and send the indices to the queue."""
    indices = []
    job, context = settings["job"], ray.train.get_context()
    start = ResumePoint(0.0, None, 0, RunState({}, {"synthetic": job.samples.num_images}))
    for batch in open_loader(job, start):
        if not indices:
            time.sleep(settings["rest_seconds"])
            settings["queue"].put(None)
        indices += batch["serial"].tolist()
    settings["queue"].put((context.get_world_rank(), indices))


def start_taking(job: FitJob, rest_seconds: float) -> Queue:
    """Start workers that read a job's samples as in training."""
    queue = Queue(actor_options={"num_cpus": 0})
    trainer = TorchTrainer(
        take_slowly,
        train_loop_config={"queue": queue, "rest_seconds": rest_seconds, "job": job},
        scaling_config=ray.train.ScalingConfig(num_workers=job.config.num_workers, resources_per_worker={"CPU": 0.1}),
        run_config=ray.train.RunConfig(name="take", storage_path=str(job.run_dir)),
    )
    threading.Thread(target=trainer.fit, daemon=True).start()
    return queue


@pytest.mark.nightly
def test_two_workers_get_disjoint_shares(painted: Recipe, painted_pool: GenerationService, tmp_path: Path):
    config = dataclasses.replace(FIFTEEN_STEPS, num_workers=2, num_images=640, num_epochs=1)
    samples = streamed(painted_pool, painted, config)
    queue = start_taking(FitJob(config, painted, tmp_path, samples, None), rest_seconds=0.0)
    messages = [queue.get(timeout=120) for _ in range(4)]
    shares = dict(share for share in messages if share is not None)
    assert sorted(shares[0]) == list(range(320))
    assert sorted(shares[1]) == list(range(320, 640))


@pytest.mark.nightly
def test_generation_pauses_at_its_buffer_limit(tmp_path: Path):
    recipe = build_recipe(RecipeConfig(generator="painted", image_size=64))
    pool = dataclasses.replace(TWO_ACTORS, max_buffered_bytes=2_000_000)  # 163 images of 12,288 bytes
    config = dataclasses.replace(FIFTEEN_STEPS, num_images=4000, num_epochs=1)
    with start_generation(recipe, pool) as service:
        samples = streamed(service, recipe, config, pool)
        queue = start_taking(FitJob(config, recipe, tmp_path, samples, None), rest_seconds=10)
        assert queue.get(timeout=120) is None  # the pause is over
        assert service.counts().num_images_made < 1500
        rank, indices = queue.get(timeout=120)
        assert (rank, sorted(indices)) == (0, list(range(4000)))


@pytest.mark.nightly
@pytest.mark.parametrize("num_workers", [1, 2])
def test_reuse_crops_accumulation_and_ema_work_together(
    num_workers: int, painted: Recipe, painted_pool: GenerationService, reports: Queue, tmp_path: Path
):
    config = dataclasses.replace(
        FIFTEEN_STEPS,
        num_workers=num_workers,
        reuse=3,
        augmentation="multi_crop",
        num_local_crops=2,
        local_crop_size=8,
        head="cosine",
        accumulate_batches=2,
        ema_decay=0.9,
        channels_last=True,
    )
    made_before = painted_pool.counts().num_images_made
    checkpoint = train_by(num_workers)(painted_pool, painted, config, tmp_path, listeners=(reports.put,))
    progress = taken_from(reports)[-1]
    assert painted_pool.counts().num_images_made - made_before == 160 + 48  # 480 uses; 40 held-out samples once
    assert (progress.num_trained, progress.num_delivered, progress.reuse) == (480, 160, 3.0)
    averaged = load_classifier(checkpoint).state_dict()
    last = checkpoint["current_model_state"]
    assert averaged.keys() == last.keys()
    assert not torch.equal(averaged["network.conv1.weight"], last["network.conv1.weight"])
    assert all(bool(torch.isfinite(weights).all()) for weights in averaged.values())


@pytest.mark.nightly
def test_auto_reuse_completes_run_with_fewer_images(painted: Recipe, reports: Queue, tmp_path: Path):
    slow = dataclasses.replace(TWO_ACTORS, painted_batch_seconds=4.0)  # 8 images a second: 2 minutes for 960
    config = dataclasses.replace(FIFTEEN_STEPS, num_workers=2, num_images=960, reuse="auto", max_reuse=1000)
    slowly, others = dataclasses.replace(painted, seed=1), dataclasses.replace(painted, seed=2)
    with start_generation(slowly, slow) as service, start_generation(others, TWO_ACTORS) as fast:
        samples = streamed(service, slowly, config, slow)
        fit(
            FitJob(config, slowly, tmp_path, samples, None, (reports.put,)),
            held_out=stream_samples(fast, others, TWO_ACTORS, SampleRequest.all_of(range(40))),
        )
        num_made = service.counts().num_images_made
    progress = taken_from(reports)[-1]
    assert progress.num_trained == 960
    assert num_made < 960
    assert progress.reuse > 1


@pytest.mark.parametrize("fit_once", [train_here, pytest.param(train, marks=pytest.mark.nightly)])
def test_diverging_run_names_step_and_samples(
    fit_once: Callable[..., object], painted: Recipe, painted_pool: GenerationService, tmp_path: Path
):
    config = dataclasses.replace(FIFTEEN_STEPS, base_learning_rate=1e20)
    with pytest.raises(NonFiniteLossError, match=r"step \d+, on samples \[\d+, \d+"):
        fit_once(painted_pool, painted, config, tmp_path)
