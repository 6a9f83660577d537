"""Where a training run's samples come from: a pool that generates them meanwhile, or shards that are there."""

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

from ray.data import Dataset

from evaluation.images.training_images import RealTrainingImages, real_training_images, without_images
from evaluation.images.unreadable import Unreadable
from generation.config import GenerationConfig
from generation.files import new_path
from generation.indices import Wanted
from generation.pool.service import GenerationService, start_generation
from generation.pool.sizing import TrainerTimes
from generation.recipes.recipe import Recipe
from generation.sample import SampleBatch
from generation.shards.datasets import first_samples, read_shards, tee_samples
from generation.shards.shard_set import ShardSet
from generation.stream.stream import fetch_samples, stream_samples
from ray_jobs.cli.config import JobConfig
from ray_jobs.cluster.placement import Demand, check_awaited
from ray_jobs.cluster.room import generation_demand, nodes_alive, room_kept, training_demand, wait_for_room
from ray_jobs.job.data_set import (
    DataSplit,
    batch_size_of,
    check_batches,
    check_workers,
    open_parts,
    open_to_read,
)
from ray_jobs.job.run_folder import resolve_input
from training.config import TrainingConfig
from training.job import TrainingSamples

logger = logging.getLogger(__name__)


class Source(Protocol):
    """Where a run's samples come from."""

    @property
    def num_images(self) -> int:
        """How many samples a turn of the set has, known before it is started."""
        ...

    @property
    def names_hash(self) -> int:
        """Of files' names, where samples are files that a run has to find again; else 0."""
        ...

    def start(self) -> GenerationService | None:
        """Return the pool that makes them, if one does; without one, wait for nodes to train on."""
        ...

    def describe(self) -> str:
        """Return what it is, in a few words, once it is started."""
        ...

    def samples(self) -> TrainingSamples:
        """Return the samples to train on."""
        ...

    def held_out(self) -> Dataset:
        """Return samples that are never trained on."""
        ...

    def first_samples(self, number: int) -> SampleBatch | None:
        """Return samples to show with their prompts; None of images that have none."""
        ...


def open_source(config: JobConfig, recipe: Recipe, unreadable: Unreadable) -> Source:
    """Return the configured source, checked as far as that goes without a cluster.

    `unreadable` says how many real images may be left out.
    """
    if config.data.source == "shards":
        return ShardSource(config, *open_to_read(config.data.shards, recipe, config.training))
    if config.data.source == "real":
        return RealSource(config, recipe, unreadable)
    parts = open_parts(config.data.tee, recipe, config.data, config.training) if config.data.tee else []
    return StreamSource(config, recipe, parts)


def array_size(config: JobConfig, recipe: Recipe) -> int:
    """Return height and width of the arrays that hold the images of `data.source`, in pixels."""
    return (config.data.source == "real" and config.training.real_image_size) or recipe.image_size


def start_pool(recipe: Recipe, generation: GenerationConfig, training: TrainingConfig) -> GenerationService:
    """Return a running pool that waits for what its trainer says, with room kept for training beside it."""
    trainers = training_demand(training, generation.wait_for_nodes_seconds)
    generators = generation_demand(generation)
    with room_kept(trainers) as wait_for_training_room:
        with nodes_asked_for(dataclasses.replace(generators, count=max(1, generation.min_actors))):
            wait_for_training_room()  # before generators take it
        service = start_generation(recipe, generation)
        try:
            if service.num_awaited():
                check_awaited([dataclasses.replace(generators, is_late=True), trainers], nodes_alive())
        except BaseException:
            service.stop()
            raise
    service.report_trainer(TrainerTimes(0.0, 0.0))
    return service


def wait_for_trainers(config: JobConfig) -> None:
    """Wait for nodes to train on, where the cluster has to bring them."""
    wait_for_room(training_demand(config.training, config.generation.wait_for_nodes_seconds))


@contextmanager
def nodes_asked_for(demand: Demand) -> Iterator[None]:
    """Have the cluster bring nodes that a later stage may wait for, while an earlier one's are waited for."""
    if not demand.wait_seconds:
        yield
        return
    with room_kept(demand):
        yield


def kept_samples(config: JobConfig, shards: ShardSet, seed: int) -> TrainingSamples:
    """Return a set of shards to train on, in the order of a seed."""
    return TrainingSamples(shards.num_images, partial(read_shards, shards, seed, config.data.num_readers))


def unreadable_in(run_dir: Path, training: TrainingConfig) -> Unreadable:
    """Return how many real images a run may leave out, to be named in a new file of its folder."""
    return Unreadable(training.allow_unreadable, new_path(run_dir, "unreadable", ".txt"))


def real_samples(config: JobConfig, recipe: Recipe, seed: int, unreadable: Unreadable) -> TrainingSamples | None:
    """Return the real images that are mixed in, in an order of the seed; ValueError if they are not there."""
    place = config.training.real_images
    if not place:
        return None
    images = open_real(place, config, recipe, seed, unreadable)
    if missing := without_images(images, place, recipe.label_space):
        logger.warning("training.real_images: %s", missing)
    return as_samples(images)


def open_all_classes(
    place: str, config: JobConfig, recipe: Recipe, seed: int, unreadable: Unreadable
) -> RealTrainingImages:
    """Return real images to train on alone; ValueError if they are not there, or a class has none."""
    images = open_real(place, config, recipe, seed, unreadable)
    if missing := without_images(images, place, recipe.label_space):
        raise ValueError(f"{missing} Add them, or choose a label space of the classes that are there.")
    return images


def as_samples(images: RealTrainingImages) -> TrainingSamples:
    """Return what training opens."""
    return TrainingSamples(images.num_images, images.open, "real", images.source.names_hash, images.image_size)


def open_real(place: str, config: JobConfig, recipe: Recipe, seed: int, unreadable: Unreadable) -> RealTrainingImages:
    """Return the real images of a place, whole where crops are random; ValueError if they are not there."""
    training = config.training
    size = training.real_image_size or recipe.image_size
    images = real_training_images(real_place(place), recipe.label_space, size, seed, config.data.num_readers)
    return dataclasses.replace(
        images, unreadable=unreadable, is_upright=training.upright, is_whole=training.crops_at_random
    )


def real_place(place: str) -> str:
    """Return `digits` as it is, and anything else as an absolute path."""
    return place if place == "digits" else str(resolve_input(place))


def check_deterministic(recipe: Recipe, generation: GenerationConfig) -> None:
    """Raise ValueError if a clock or an actor's GPU decides how many images are made at once."""
    if not generation.batch_sizes and (generation.batch_size or recipe.generator == "painted"):
        return
    setting = "batch_sizes" if generation.batch_sizes else "batch_size=0"
    decides = "the GPU that makes it" if generation.batch_sizes else "which batch size was the fastest when it began"
    raise ValueError(
        f"training.deterministic promises the same weights to the bit, and with generation.{setting} the last bits of "
        f"an image depend on {decides}. Give generation.batch_size alone."
    )


class StreamSource:
    """A pool of generators; what it makes may be kept."""

    names_hash = 0
    service: GenerationService

    def __init__(self, config: JobConfig, recipe: Recipe, parts: list[DataSplit]) -> None:
        """Take the places where samples are to be kept; none keeps nothing."""
        batch_size = batch_size_of(parts, config.generation.batch_size)
        self.config = config
        self.generation = dataclasses.replace(config.generation, batch_size=batch_size)
        self.recipe = recipe
        self.parts = parts
        self.sets: list[ShardSet] = []
        """What is kept, and held out, once the pool is up."""

        self.indices = config.training.indices(config.data.replays)
        if config.training.deterministic:
            check_deterministic(recipe, self.generation)
        if parts:
            check_batches(self.generation, config.data)
            check_workers(config.training)

    def start(self) -> GenerationService:
        """Return the pool, with room kept for training, and write into the places what is kept there."""
        self.service = start_pool(self.recipe, self.generation, self.config.training)
        try:
            batch_size = self.service.common_batch_size()
            self.sets = [part.claim(self.recipe, self.config.data, batch_size) for part in self.parts]
        except BaseException:
            self.service.stop()
            raise
        return self.service

    def describe(self) -> str:
        """Return how many actors there are, and their batches."""
        kept = f", kept in {self.parts[0].storage.url}" if self.parts else ""
        training, batch_size = self.config.training, self.service.batch_size()
        share = (training.global_batch_size - training.num_real_per_step) // training.num_workers
        note = ""
        if training.deterministic and training.num_workers > 1 and share % batch_size:
            note = f"; some are made several times: a worker's share of a step, {share}, is no multiple of them"
        return f"{self.service.num_loaded()} generator actors up, batches of {batch_size}{kept}{note}"

    @property
    def num_images(self) -> int:
        """How many samples a turn of the set has, known before the pool starts."""
        return len(self.indices[0])

    def samples(self) -> TrainingSamples:
        """Return the samples to train on."""
        if not self.sets:
            return TrainingSamples(self.num_images, partial(stream_samples, self.service, self.recipe, self.generation))
        seed = self.config.training.seed
        teed = partial(tee_samples, self.service, self.generation, self.sets[0], self.num_images, seed=seed)
        return TrainingSamples(self.num_images, teed)

    def held_out(self) -> Dataset:
        """Return the samples that are never trained on."""
        held_out = self.indices[1]
        if self.sets:
            wanted = Wanted.all_of(range(len(held_out)))
            return tee_samples(self.service, self.generation, self.sets[1], len(held_out), wanted)
        return stream_samples(self.service, self.recipe, self.generation, Wanted.all_of(held_out))

    def first_samples(self, number: int) -> SampleBatch:
        """Return samples of the lowest indices."""
        return fetch_samples(self.service, self.generation, range(number))


class ShardSource:
    """Shards, read in an order of the training seed's, as often as training has images to ask for."""

    names_hash = 0

    def __init__(self, config: JobConfig, train: ShardSet, held_out: ShardSet) -> None:
        self.config = config
        self.train = train.first(min(train.num_images, config.training.num_samples))
        self.held_out_set = held_out.first(config.training.num_held_out)

    def start(self) -> None:
        """Wait for nodes to train on."""
        wait_for_trainers(self.config)

    def describe(self) -> str:
        """Return where they are."""
        return f"{self.train.num_images:,} images of {self.train.storage.url}"

    @property
    def num_images(self) -> int:
        """How many samples a turn of the set has."""
        return self.train.num_images

    def keep_turns(self, num_images: int) -> None:
        """Take turns of as many samples as when the run began, though the set may have grown since."""
        self.train = self.train.first(min(num_images, self.train.num_images))

    def samples(self) -> TrainingSamples:
        """Return the set to train on, over and over if it has less images than training asks for."""
        return kept_samples(self.config, self.train, self.config.training.seed)

    def held_out(self) -> Dataset:
        """Return the samples that are never trained on."""
        wanted = Wanted.all_of(range(self.held_out_set.num_images))
        return read_shards(self.held_out_set, self.config.training.seed, self.config.data.num_readers, wanted)

    def first_samples(self, number: int) -> SampleBatch:
        """Return samples of the first shard."""
        return first_samples(self.train, number)


class RealSource:
    """Real images, over and over: what training on generated ones is measured against."""

    def __init__(self, config: JobConfig, recipe: Recipe, unreadable: Unreadable) -> None:
        """Take the images, of which some are held out; ValueError if there are too few."""
        if config.training.real_images:
            raise ValueError("data.source is real, and training.real_images mixes real ones in. Leave one out.")
        self.config = config
        self.place = real_place(config.data.real)
        images = open_all_classes(config.data.real, config, recipe, config.training.seed, unreadable)
        self.names_hash = images.source.names_hash
        held_out, self.train = images.split(config.training.num_held_out)
        self.held_out_images = dataclasses.replace(held_out, image_size=recipe.image_size, is_whole=False)

    def start(self) -> None:
        """Wait for nodes to train on."""
        wait_for_trainers(self.config)

    def describe(self) -> str:
        """Return where they are."""
        return f"{self.train.num_images:,} real images of {self.place}"

    @property
    def num_images(self) -> int:
        """How many images a turn of the set has."""
        return self.train.num_images

    def samples(self) -> TrainingSamples:
        """Return the images to train on."""
        return as_samples(self.train)

    def held_out(self) -> Dataset:
        """Return the images that are never trained on."""
        return self.held_out_images.open(Wanted.all_of(range(self.held_out_images.num_images)))

    def first_samples(self, number: int) -> None:
        """Return nothing: these have no prompts to show."""
