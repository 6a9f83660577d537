"""Shards as Ray Datasets: written from the generation service, read back as the stream gives them, checked.

Each shard is a function of its set and its number, so that one which Ray makes again is the same to the byte.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import ray.data
from ray.data import ActorPoolStrategy

from generation.config import GenerationConfig
from generation.recipe import Recipe
from generation.sample import SampleBatch
from generation.service import GenerationService
from generation.shard import DamagedShardError, Shard, ShardWriter, decode_samples, faults, open_shard
from generation.shard_set import ShardSet, index_name, shard_name
from generation.storage import StorageError
from generation.stream import MAX_SOURCE_BLOCKS, Asker, ask_units, bound_memory

ORDER_STREAM = 3
"""Second key word of the counter-based generator, beside those of `generation.plan`: in which order shards are read."""

READ_BLOCK_BYTES = 16_000_000
"""Images that a reader hands on at once: a stage moves about 10 blocks a second, whatever their size."""

BLOCKS_PER_READER = 8
"""Memory for each reader's images, in blocks: with less, Ray Data lets some readers wait for the others."""

WAIT_SECONDS = 0.2

Unit = dict[str, np.ndarray]


def write_shards(
    service: GenerationService, config: GenerationConfig, shards: ShardSet, numbers: Sequence[int]
) -> ray.data.Dataset:
    """Return a lazy dataset that makes these shards: a row for each once it is there, with its counts."""
    return ask_units(service, config, shard_units(shards, numbers), ShardMaker, [shards])


def tee_samples(
    service: GenerationService, config: GenerationConfig, shards: ShardSet, num_images: int, num_replays: int = 0
) -> ray.data.Dataset:
    """Return the stream of a set's first samples, as `stream_samples` does, which keeps missing shards meanwhile.

    With replays, the same samples come again so often, read from what was kept.
    """
    first = shards.first(num_images)
    units = shard_units(first, range(len(first.ranges)))
    whole = {unit["number"] for unit in units if len(shards.ranges[unit["number"]]) == unit["stop"] - unit["start"]}
    laps = [unit | {"lap": lap} for lap in range(num_replays + 1) for unit in units]
    dataset = ask_units(service, config, laps, TeeingAsker, [first, whole.intersection(shards.missing())])
    bound_memory(dataset, shards.batch_size * shards.recipe.image_bytes, config.max_buffered_bytes)
    return dataset


def read_shards(shards: ShardSet, positions: range, seed: int, num_readers: int) -> ray.data.Dataset:
    """Return a lazy dataset of a set's samples, rows as in the stream, always in the same order.

    The order goes through the set again and again, every time shuffled anew by `seed`; `positions` are a part of it, so
    that a run that stopped after `k` samples goes on with `range(k, ...)`.
    """
    dataset = _each_by(ShardReader, [shards, seed], reading_units(shards, positions, seed), num_readers)
    dataset.context.execution_options.preserve_order = True
    block_bytes = images_per_block(shards.recipe) * shards.recipe.image_bytes
    bound_memory(dataset, block_bytes, num_readers * BLOCKS_PER_READER * block_bytes)
    return dataset


def check_shards(shards: ShardSet, numbers: Sequence[int], num_readers: int) -> ray.data.Dataset:
    """Return a lazy dataset with a row for each of these shards: its number, and what is wrong with it."""
    return _each_by(ShardChecker, [shards], shard_units(shards, numbers), num_readers)


def _each_by(
    reader: type, arguments: Sequence[Any], units: Sequence[dict[str, int]], num_readers: int
) -> ray.data.Dataset:
    """Return what so many readers, made with these arguments, make of units of work."""
    source = ray.data.from_items(list(units), override_num_blocks=min(MAX_SOURCE_BLOCKS, len(units)))
    return source.map_batches(
        reader,
        fn_constructor_args=arguments,
        batch_size=1,
        # One unit at a time: where the order is kept, what waits behind a reader's own unit waits for all of it.
        compute=ActorPoolStrategy(size=min(num_readers, len(units)), max_tasks_in_flight_per_actor=1),
        num_cpus=0,
    )


def shard_units(shards: ShardSet, numbers: Sequence[int]) -> list[dict[str, int]]:
    """Return a unit of work for each shard."""
    return [{"number": i, "start": shards.ranges[i].start, "stop": shards.ranges[i].stop} for i in numbers]


class TeeingAsker(Asker):
    """Asks for the samples of a shard, yields them on, and keeps those of the shards that are missing."""

    def __init__(
        self,
        service: GenerationService,
        config: GenerationConfig,
        batch_size: int,
        window: int,
        shards: ShardSet,
        missing: set[int],
    ) -> None:
        """Take an asker's arguments, the set, and the numbers of shards to keep."""
        super().__init__(service, config, batch_size, window)
        self.shards = shards
        self.missing = missing

    def __call__(self, unit: Unit) -> Iterator[SampleBatch]:
        """Yield the samples of one shard, a batch at a time: generated the first time, read in later laps."""
        number, lap = int(unit["number"][0]), int(unit["lap"][0])
        if lap:
            self._wait_for(number)
            return read_shard(self.shards, number, _random(0, lap, number + 1), slice(None))
        batches = super().__call__(unit)
        return keep(batches, self.shards, number) if number in self.missing else batches

    def _wait_for(self, number: int) -> None:
        """Return when a shard is kept: another asker is at it, since units are taken in their order."""
        while not self.shards.storage.exists(index_name(number)):
            time.sleep(WAIT_SECONDS)


class ShardMaker(Asker):
    """Asks for the samples of a shard and writes it."""

    def __init__(
        self, service: GenerationService, config: GenerationConfig, batch_size: int, window: int, shards: ShardSet
    ) -> None:
        """Take an asker's arguments, and the set."""
        super().__init__(service, config, batch_size, window)
        self.shards = shards

    def __call__(self, unit: Unit) -> Iterator[Unit]:
        """Yield one row with the shard's number and counts."""
        attempts = [batch["attempt"] for batch in keep(super().__call__(unit), self.shards, int(unit["number"][0]))]
        counted = np.concatenate(attempts)
        yield {
            "number": unit["number"],
            "num_images": np.array([len(counted)]),
            "num_refused": np.array([int(counted.sum())]),
        }


def keep(batches: Iterator[SampleBatch], shards: ShardSet, number: int) -> Iterator[SampleBatch]:
    """Yield a shard's batches on; it is kept before the last one goes, so that who has all samples has the shard."""
    writer = ShardWriter(shards.recipe, shard_name(number), shards.encoding)
    last: list[SampleBatch] = []
    for batch in batches:
        yield from last
        writer.add(batch)
        last = [batch]
    shard = writer.finish()
    shards.storage.write(shard_name(number), shard.tar)
    shards.storage.write(index_name(number), shard.index_file())
    yield from last


def load_shard(shards: ShardSet, number: int) -> Shard:
    """Return a shard that is there and whole; DamagedShardError or StorageError with the remedy if it is not."""
    tar, index = shards.storage.read(shard_name(number)), shards.storage.read(index_name(number))
    try:
        return open_shard(tar, index, shards.recipe, shards.ranges[number], shard_name(number))
    except DamagedShardError as error:
        raise StorageError(f"{error}, in '{shards.storage.url}'. Repair it: ray_jobs.generate --verify.") from error


def reading_units(shards: ShardSet, positions: range, seed: int) -> list[dict[str, int]]:
    """Return which part of which shard is read, in order: the shards of a lap shuffled, then those of the next lap."""
    units, lap_start = [], positions.start // shards.num_images * shards.num_images
    while lap_start < positions.stop:
        lap = lap_start // shards.num_images
        start = lap_start
        for number in _random(seed, lap).permutation(len(shards.ranges)).tolist():
            stop = start + len(shards.ranges[number])
            first, last = max(start, positions.start), min(stop, positions.stop)
            if first < last:
                units.append({"number": number, "lap": lap, "start": first - start, "stop": last - start})
            start = stop
        lap_start += shards.num_images
    return units


class ShardReader:
    """Reads units of `reading_units`."""

    def __init__(self, shards: ShardSet, seed: int) -> None:
        """Take the set, and what decides the order."""
        self.shards = shards
        self.seed = seed

    def __call__(self, unit: Unit) -> Iterator[SampleBatch]:
        """Yield samples of one shard, a batch at a time, in an order of their own for each lap."""
        number, lap, start, stop = (int(unit[name][0]) for name in ("number", "lap", "start", "stop"))
        return read_shard(self.shards, number, _random(self.seed, lap, number + 1), slice(start, stop))


def read_shard(shards: ShardSet, number: int, random: np.random.Generator, part: slice) -> Iterator[SampleBatch]:
    """Yield part of a shard's samples in a random order, a block at a time."""
    shard = load_shard(shards, number)
    rows = random.permutation(len(shards.ranges[number]))[part].tolist()
    block_size = images_per_block(shards.recipe)
    for start in range(0, len(rows), block_size):
        yield decode_samples(shard, rows[start : start + block_size], shards.recipe.image_size)


def images_per_block(recipe: Recipe) -> int:
    """Return how many images a reader hands on at once."""
    return max(1, READ_BLOCK_BYTES // recipe.image_bytes)


class ShardChecker:
    """Looks at every sample of a shard."""

    def __init__(self, shards: ShardSet) -> None:
        """Take the set."""
        self.shards = shards

    def __call__(self, unit: Unit) -> Unit:
        """Return the shard's number and what is wrong with it, a line a fault; empty if nothing is."""
        number = int(unit["number"][0])
        tar, index = self.shards.storage.read(shard_name(number)), self.shards.storage.read(index_name(number))
        found = faults(tar, index, self.shards.recipe, self.shards.ranges[number], shard_name(number))
        return {"number": unit["number"], "faults": np.array(["\n".join(found)])}


def _random(seed: int, lap: int, stream: int = 0) -> np.random.Generator:
    """Return a generator that is a function of its arguments alone, as in `generation.plan`."""
    key = np.array([seed, ORDER_STREAM], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, lap, stream, 0], dtype=np.uint64)))
