"""Training on a real local cluster."""

import csv
import dataclasses
import json
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import ray.train
import torch
from ray.train.torch import TorchTrainer
from ray.util.queue import Queue

from generation.config import GenerationConfig, RecipeConfig
from generation.indices import Wanted
from generation.plan import FIRST_HELD_OUT_INDEX
from generation.recipe import Recipe, build_recipe
from generation.service import GenerationService, start_generation
from generation.stream import stream_samples
from training.checkpoint import read_checkpoint
from training.classifier import NonFiniteLossError, load_classifier
from training.config import TrainingConfig
from training.fit import fit
from training.job import FitJob, TrainingSamples
from training.progress import TrainingProgress
from training.run_state import RunState
from training.start import Start, open_loader

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

TWO_ACTORS = GenerationConfig(min_actors=2, max_actors=2, gpus_per_actor=0, cpus_per_actor=0.1, batch_size=16)


def three_epochs(num_workers: int, base_learning_rate: float = 0.4) -> TrainingConfig:
    """Return 3 logical epochs of 5 steps of 32 images of 16 px."""
    return TrainingConfig(
        architecture="resnet18",
        num_images=500,
        num_epochs=3,
        num_held_out=40,
        global_batch_size=32,
        base_learning_rate=base_learning_rate,
        augmentation="affine",
        gpus_per_worker=0,
        cpus_per_worker=0.5,
        num_workers=num_workers,
    )


def held_out_of(config: TrainingConfig) -> Wanted:
    return Wanted.all_of(range(FIRST_HELD_OUT_INDEX, FIRST_HELD_OUT_INDEX + config.num_held_out))


def run_fit(recipe: Recipe, config: TrainingConfig, run_dir: Path):
    """Return the checkpoint, all progress said, and the pool's counts."""
    queue = Queue(actor_options={"num_cpus": 0})
    with start_generation(recipe, TWO_ACTORS) as service:
        samples = TrainingSamples(config.num_samples, partial(stream_samples, service, recipe, TWO_ACTORS))
        checkpoint = fit(
            FitJob(config, recipe, run_dir, samples, None, queue.put),
            held_out=stream_samples(service, recipe, TWO_ACTORS, held_out_of(config)),
        )
        counts = service.counts()
    said: list[TrainingProgress] = queue.get_nowait_batch(queue.qsize())
    queue.shutdown()
    return checkpoint, said, counts


def test_three_logical_epochs_generate_each_image_once_and_load_each_model_once(painted: Recipe, tmp_path: Path):
    config = three_epochs(num_workers=2)
    checkpoint_file, said, counts = run_fit(painted, config, tmp_path)
    assert counts.num_images_made == 480 + 48  # 15 steps of 32, and the 40 held-out samples once, in whole batches
    assert len(counts.num_loads) == 2
    assert set(counts.num_loads.values()) == {1}
    assert (said[-1].num_trained, said[-1].epoch) == (480, 3)
    checkpoint = read_checkpoint(checkpoint_file)
    assert checkpoint["global_step"] == 15
    assert checkpoint["recipe"]["sha256"] == painted.sha256
    assert json.loads(checkpoint["recipe"]["json"]) == json.loads(painted.to_json())
    assert load_classifier(checkpoint).config == config
    with (tmp_path / "metrics.csv").open() as file:
        held_out = [row["held_out/top1"] for row in csv.DictReader(file) if row["held_out/top1"]]
    assert len(held_out) == 3
    assert any((tmp_path / "tensorboard").glob("events*"))


def take_slowly(settings: dict) -> None:
    """Take a training worker's share, resting after the first batch, and send the indices home."""
    indices = []
    job, context = settings["job"], ray.train.get_context()
    start = Start(0.0, None, 0, RunState({}, {"synthetic": job.samples.num_images}))
    for batch in open_loader(job, start):
        if not indices:
            time.sleep(settings["rest_seconds"])
            settings["queue"].put(None)
        indices += batch["serial"].tolist()
    settings["queue"].put((context.get_world_rank(), indices))


def start_taking(job: FitJob, rest_seconds: float) -> Queue:
    """Let workers take a job's samples as they would to train on them."""
    queue = Queue(actor_options={"num_cpus": 0})
    trainer = TorchTrainer(
        take_slowly,
        train_loop_config={"queue": queue, "rest_seconds": rest_seconds, "job": job},
        scaling_config=ray.train.ScalingConfig(num_workers=job.config.num_workers, resources_per_worker={"CPU": 0.1}),
        run_config=ray.train.RunConfig(name="take", storage_path=str(job.run_dir)),
    )
    threading.Thread(target=trainer.fit, daemon=True).start()
    return queue


def taking(recipe: Recipe, pool: GenerationConfig, service: GenerationService, config: TrainingConfig, scratch: Path):
    samples = TrainingSamples(config.num_samples, partial(stream_samples, service, recipe, pool))
    return FitJob(config, recipe, scratch, samples, None, print)


def test_while_the_trainer_rests_generation_stops_at_its_bound(tmp_path: Path):
    recipe = build_recipe(RecipeConfig(generator="painted", image_size=64))
    pool = dataclasses.replace(TWO_ACTORS, max_buffered_bytes=2_000_000)  # 163 images of 12,288 bytes
    config = dataclasses.replace(three_epochs(num_workers=1), num_images=4000, num_epochs=1)
    with start_generation(recipe, pool) as service:
        queue = start_taking(taking(recipe, pool, service, config, tmp_path), rest_seconds=10)
        assert queue.get(timeout=120) is None  # the rest is over
        assert service.counts().num_images_made < 1500
        rank, indices = queue.get(timeout=120)
        assert (rank, sorted(indices)) == (0, list(range(4000)))


def test_two_workers_share_the_stream_without_overlap(painted: Recipe, tmp_path: Path):
    config = dataclasses.replace(three_epochs(num_workers=2), num_images=640, num_epochs=1)
    with start_generation(painted, TWO_ACTORS) as service:
        queue = start_taking(taking(painted, TWO_ACTORS, service, config, tmp_path), rest_seconds=0.0)
        said = [queue.get(timeout=120) for _ in range(4)]
    shares = dict(share for share in said if share is not None)
    assert sorted(shares[0]) == list(range(320))
    assert sorted(shares[1]) == list(range(320, 640))


def test_images_are_used_again_in_many_crops_by_steps_in_parts_and_weights_are_averaged(
    painted: Recipe, tmp_path: Path
):
    config = dataclasses.replace(
        three_epochs(num_workers=2),
        reuse=3,
        augmentation="multi_crop",
        num_local_crops=2,
        local_crop_size=8,
        head="cosine",
        accumulate_batches=2,
        ema_decay=0.9,
        channels_last=True,
    )
    checkpoint_file, said, counts = run_fit(painted, config, tmp_path)
    assert counts.num_images_made == 160 + 48  # 480 uses, and the 40 held-out samples once
    assert (said[-1].num_trained, said[-1].num_delivered, said[-1].reuse) == (480, 160, 3.0)
    checkpoint = read_checkpoint(checkpoint_file)
    averaged = load_classifier(checkpoint).state_dict()
    last = checkpoint["current_model_state"]
    assert averaged.keys() == last.keys()
    assert not torch.equal(averaged["network.conv1.weight"], last["network.conv1.weight"])
    assert all(bool(torch.isfinite(weights).all()) for weights in averaged.values())


def test_with_auto_training_goes_on_and_ends_though_generators_cannot_make_an_image_for_each_use(
    painted: Recipe, tmp_path: Path
):
    slow = dataclasses.replace(TWO_ACTORS, painted_batch_seconds=4.0)  # 8 images a second: 2 minutes for 960
    config = dataclasses.replace(three_epochs(num_workers=2), num_images=960, reuse="auto", max_reuse=1000)
    others = dataclasses.replace(painted, seed=1)
    queue = Queue(actor_options={"num_cpus": 0})
    with start_generation(painted, slow) as service, start_generation(others, TWO_ACTORS) as fast:
        samples = TrainingSamples(config.num_samples, partial(stream_samples, service, painted, slow))
        fit(
            FitJob(config, painted, tmp_path, samples, None, queue.put),
            held_out=stream_samples(fast, others, TWO_ACTORS, Wanted.all_of(range(40))),
        )
        num_made = service.counts().num_images_made
    said: list[TrainingProgress] = queue.get_nowait_batch(queue.qsize())
    assert said[-1].num_trained == 960
    assert num_made < 960
    assert said[-1].reuse > 1


def test_a_diverging_run_stops_with_the_step_and_the_samples(painted: Recipe, tmp_path: Path):
    with pytest.raises(NonFiniteLossError, match=r"step \d+, on samples \[\d+, \d+"):
        run_fit(painted, three_epochs(1, base_learning_rate=1e20), tmp_path)
