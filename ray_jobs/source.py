"""Where a training run's samples come from: a pool that generates them meanwhile, or shards that are there."""

import dataclasses

from ray.data import Dataset

from generation.config import GenerationConfig
from generation.recipe import Recipe
from generation.sample import SampleBatch
from generation.service import GenerationCounts, GenerationService, start_generation
from generation.shard_set import ShardSet
from generation.shards import first_samples, read_shards, tee_samples
from generation.stream import fetch_samples, stream_samples
from ray_jobs.cluster import room_kept, training_demand
from ray_jobs.config import JobConfig
from ray_jobs.data_card import write_card
from ray_jobs.kept_data import Part, batch_size_of, check_batches, indices_of, open_parts, open_to_read
from training.config import TrainingConfig


def open_source(config: JobConfig, recipe: Recipe) -> "Source":
    """Return the configured source, checked as far as that goes without a cluster."""
    if config.data.source == "shards":
        return ShardSource(config, *open_to_read(config.data.shards, recipe, config.training))
    parts = open_parts(config.data.tee, recipe, config.data, config.training) if config.data.tee else []
    return StreamSource(config, recipe, parts)


def start_pool(recipe: Recipe, generation: GenerationConfig, training: TrainingConfig) -> GenerationService:
    """Return a running pool, with room kept for training beside it."""
    with room_kept(training_demand(training), generation.wait_for_nodes_seconds):
        return start_generation(recipe, generation)


def read_in_order(config: JobConfig, shards: ShardSet, num_images: int, seed: int) -> Dataset:
    """Return so many images of a set, over and over if it has less, in the order of a seed."""
    return read_shards(shards, range(num_images), seed, config.data.num_readers)


class StreamSource:
    """A pool of generators; what it makes may be kept."""

    service: GenerationService

    def __init__(self, config: JobConfig, recipe: Recipe, parts: list[Part]) -> None:
        """Take the places where samples are to be kept; none keeps nothing."""
        batch_size = batch_size_of(parts, config.generation.batch_size)
        self.config = config
        self.generation = dataclasses.replace(config.generation, batch_size=batch_size)
        self.recipe = recipe
        self.parts = parts
        self.sets: list[ShardSet] = []
        if parts:
            check_batches(self.generation)
        for part in parts if batch_size else ():
            part.shards(recipe, config.data, batch_size)

    def start(self) -> None:
        """Start the pool, with room kept for training, and say in the places what is kept there."""
        self.service = start_pool(self.recipe, self.generation, self.config.training)
        try:
            batch_size = self.service.common_batch_size()
            self.sets = [part.claim(self.recipe, self.config.data, batch_size) for part in self.parts]
        except BaseException:
            self.service.stop()
            raise

    def describe(self) -> str:
        """Return how many actors there are, and their batches."""
        kept = f", kept in {self.parts[0].storage.url}" if self.parts else ""
        return f"{self.service.num_actors()} generator actors up, batches of {self.service.batch_size()}{kept}"

    def datasets(self) -> tuple[Dataset, Dataset]:
        """Return the streams of all samples."""
        data = self.config.data
        train, held_out = indices_of(self.config.training, data.replays)
        if self.sets:
            train_set, held_out_set = self.sets
            return self._teed(train_set, train, data.replays), self._teed(held_out_set, held_out)
        return self._streamed(train), self._streamed(held_out)

    def _streamed(self, indices: range) -> Dataset:
        return stream_samples(self.service, self.recipe, self.generation, [indices])

    def _teed(self, shards: ShardSet, indices: range, num_replays: int = 0) -> Dataset:
        return tee_samples(self.service, self.generation, shards, len(indices), num_replays)

    def first_samples(self, number: int) -> SampleBatch:
        """Return samples of the lowest indices."""
        return fetch_samples(self.service, self.generation, range(number))

    def num_actors(self) -> int:
        """Return how many are up."""
        return self.service.num_actors()

    def counts(self) -> GenerationCounts:
        """Return what the pool has done."""
        return self.service.counts()

    def finish(self) -> None:
        """Write the card of what was kept."""
        if self.sets:
            write_card(self.sets)

    def close(self) -> None:
        """Stop the pool."""
        self.service.stop()


class NoPool:
    """What is at work where nothing is generated."""

    def num_actors(self) -> int:
        """Return 0."""
        return 0

    def counts(self) -> GenerationCounts:
        """Return zeros."""
        return GenerationCounts()


class ShardSource(NoPool):
    """Shards, read in an order of the training seed's, as often as training has images to ask for."""

    def __init__(self, config: JobConfig, train: ShardSet, held_out: ShardSet) -> None:
        """Take complete sets."""
        self.config = config
        self.train = train.first(min(train.num_images, config.training.num_samples))
        self.held_out = held_out.first(config.training.num_held_out)

    def start(self) -> None:
        """Do nothing: shards are there."""

    def describe(self) -> str:
        """Return where they are."""
        return f"{self.train.num_images:,} images of {self.train.storage.url}"

    def datasets(self) -> tuple[Dataset, Dataset]:
        """Return the sets, that to train on over and over if it has less images than training asks for."""
        num_samples, num_held_out = self.config.training.num_samples, self.config.training.num_held_out
        seed = self.config.training.seed
        return (
            read_in_order(self.config, self.train, num_samples, seed),
            read_in_order(self.config, self.held_out, num_held_out, seed),
        )

    def first_samples(self, number: int) -> SampleBatch:
        """Return samples of the first shard."""
        return first_samples(self.train, number)

    def finish(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


Source = StreamSource | ShardSource
