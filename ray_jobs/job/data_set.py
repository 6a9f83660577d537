"""A stored data set of shards: training samples, and in `held_out/` samples that are never trained on."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from generation.config import GenerationConfig
from generation.recipes.recipe import Recipe
from generation.shards.config import DataConfig
from generation.shards.shard_set import (
    HELD_OUT_FOLDER,
    ShardSet,
    check_filled,
    check_same,
    new_shard_set,
    read_shard_set,
)
from generation.shards.storage import Storage
from ray_jobs.cli.config import JobConfig
from ray_jobs.cli.run_folder import resolve_place
from training.config import TrainingConfig


@dataclass
class DataSplit:
    """One split of a stored data set: the training samples or the held-out samples."""

    storage: Storage
    indices: range
    found: ShardSet | None
    """The existing shards, or None."""

    damaged: Sequence[int] = ()
    """Numbers of damaged shards, found by verification."""

    def create_or_extend(self, recipe: Recipe, data: DataConfig, batch_size: int) -> ShardSet:
        """Write the manifest of the requested set and return the set; ValueError if batches do not fill its shards."""
        if self.found is None:
            shards = new_shard_set(self.storage, recipe, self.indices, batch_size, data)
        else:
            shards = self.found.extended(len(self.indices))
        if shards != self.found:
            shards.write_manifest(self.found)
        return shards

    def to_make(self, shards: ShardSet) -> list[int]:
        """Return the numbers of missing or damaged shards among those that hold the requested samples."""
        return sorted({*shards.missing(), *self.damaged}.intersection(shards.needed(len(self.indices))))

    @property
    def is_complete(self) -> bool:
        """True if all requested samples are stored and intact."""
        found = self.found
        return found is not None and found.num_images >= len(self.indices) and not self.to_make(found)


def open_splits(url: str, recipe: Recipe, config: JobConfig) -> tuple[JobConfig, list[DataSplit]]:
    """Return the settings and the splits of the data set at `url`; ValueError or StorageError if they do not fit.

    The returned settings use the batch size of existing shards.
    """
    storage = Storage(resolve_place(url))
    all_indices = config.training.indices(config.data.replays)
    places = zip((storage, storage.inside(HELD_OUT_FOLDER)), all_indices, strict=True)
    splits = [DataSplit(place, indices, read_shard_set(place)) for place, indices in places]
    for split in splits:
        if split.found is not None:
            check_same(split.found, recipe, config.data)
    storage.check_writable()
    sizes = (split.found.batch_size for split in splits if split.found is not None)
    generation = dataclasses.replace(config.generation, batch_size=next(sizes, config.generation.batch_size))
    check_batches(generation, config.data)
    return dataclasses.replace(config, generation=generation), splits


def check_batches(config: GenerationConfig, data: DataConfig) -> None:
    """Raise ValueError if batch sizes of stored images could vary, or do not divide the shard size."""
    if config.batch_size:
        check_filled(data, config.batch_size)
    if config.batch_sizes:
        raise ValueError(
            "generation.batch_sizes sets different batch sizes per GPU, which changes the last bits of stored images. "
            "Use generation.batch_size instead."
        )
    if config.compile and not config.batch_size:
        raise ValueError(
            "generation.compile pads batches, and the batch size changes the last bits of stored images. "
            "Set generation.batch_size."
        )
    if config.min_actors < config.max_actors and not config.batch_size:
        raise ValueError(
            f"The pool may grow from {config.min_actors} to {config.max_actors} actors, and a later actor may choose a "
            "different batch size, which changes the last bits of stored images. Set generation.batch_size."
        )


def check_workers(training: TrainingConfig) -> None:
    """Raise ValueError if each of several workers would have to generate nearly every shard."""
    if training.deterministic and training.num_workers > 1:
        raise ValueError(
            f"With training.deterministic, each of {training.num_workers} workers uses a slice of every shard, so "
            "data.tee would generate every shard once per worker. Generate the data set first with ray_jobs.generate, "
            "then train with data.source=shards."
        )


def open_complete(storage: Storage, recipe: Recipe, num_images: int, split: str = "data set") -> ShardSet:
    """Return a stored set; ValueError if it is missing, of another recipe, or lacks some of its first `num_images`."""
    shards = read_shard_set(storage)
    if shards is None:
        raise ValueError(f"data.shards: '{storage.url}' has no {split}. Generate it with python -m ray_jobs.generate.")
    check_same(shards, recipe)
    needed = shards.needed(min(num_images, shards.num_images))
    if missing := set(shards.missing()).intersection(needed):
        raise ValueError(
            f"'{storage.url}' lacks {len(missing)} of the {len(needed)} shards needed. Run ray_jobs.generate again to "
            "generate them."
        )
    return shards


def open_to_read(url: str, recipe: Recipe, training: TrainingConfig) -> tuple[ShardSet, ShardSet]:
    """Return the training and the held-out set; ValueError if missing, incomplete, too small or of another recipe."""
    storage = Storage(resolve_place(url))
    train = open_complete(storage, recipe, training.num_samples)
    held_out = open_complete(storage.inside(HELD_OUT_FOLDER), recipe, training.num_held_out, "held-out split")
    if held_out.num_images < training.num_held_out:
        raise ValueError(
            f"'{url}' has {held_out.num_images} held-out images, but training.num_held_out is {training.num_held_out}. "
            "Use at most that many, or extend the data set with ray_jobs.generate."
        )
    return train, held_out
