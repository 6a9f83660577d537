"""Shards as Ray Datasets: written from the generation service, read back as the stream gives them, checked.

Each shard is a function of its set and its number, so that one which Ray makes again is the same to the byte.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

from generation.config import GenerationConfig
from generation.indices import EMPTY, IndexSet, Wanted
from generation.passes import Passes
from generation.pool.service import GenerationService
from generation.random_streams import Purpose
from generation.recipes.recipe import Recipe
from generation.sample import PassBatch, SampleBatch, selected
from generation.shards.shard import DamagedShardError, ShardWriter, decode_samples, extent_of, faults, open_index
from generation.shards.shard_set import ShardSet, index_name, shard_name
from generation.shards.storage import StorageError
from generation.stream.stream import Asker, Stage, Unit, ask_units
from generation.stream.units import (
    MAX_READING_BLOCKS,
    MAX_SOURCE_BLOCKS,
    PARTS_PER_READER,
    bound_memory,
    each_by,
    in_blocks,
)

PART_BYTES = 16_000_000
"""Images that are read at once and travel in one block: a stage moves about 10 blocks a second, whatever their size."""


INDICES_KEPT = 256
"""Indices of shards that a reader keeps in memory, some 100 KB each."""

WAIT_SECONDS = 0.2

UNIT_COLUMNS = ("pass", "number", "row", "num_rows", "position")
"""What a unit of reading says: a pass, a shard, rows of it, and where in the set these begin. Of one that makes a shard
its number alone matters, and its pass is 0.
"""


def encoding(work: Callable[[Asker, Unit], Iterator[Any]], is_spread: bool = False) -> Stage:
    """Return a stage of more askers than a stream has: they encode images as well."""
    return Stage(work, askers_per_generator=1.0, most_askers=16, is_spread=is_spread)


def write_shards(
    service: GenerationService,
    config: GenerationConfig,
    shards: ShardSet,
    numbers: Sequence[int],
    damaged: Sequence[int] = (),
) -> ray.data.Dataset:
    """Return a lazy dataset that makes these shards: a row for each once it is there, with its counts.

    Those that are damaged are replaced.
    """
    units = [{"number": number, "is_damaged": number in damaged} for number in numbers]
    stage = encoding(partial(write_shard, shards), is_spread=True)
    return ask_units(service, config, shards.batch_size, in_blocks(units, MAX_SOURCE_BLOCKS), stage, Wanted(EMPTY))


def write_shard(shards: ShardSet, asker: Asker, unit: Unit) -> Iterator[Unit]:
    """Make a shard, and yield one row with its number and counts."""
    batches = make_shard(shards, asker, int(unit["number"][0]), is_damaged=bool(unit["is_damaged"][0]))
    attempts = np.concatenate([batch["attempt"] for batch in batches])
    yield {
        "number": unit["number"],
        "num_images": np.array([len(attempts)]),
        "num_refused": np.array([int(attempts.sum())]),
    }


def make_shard(shards: ShardSet, asker: Asker, number: int, is_damaged: bool = False) -> Iterator[SampleBatch]:
    """Yield a shard's samples; it is kept before the last batch goes, so that who has all samples has the shard."""
    writer = ShardWriter(shards.recipe, shard_name(number), shards.encoding)
    last: list[SampleBatch] = []
    for batch in asker.ask_set(IndexSet.of_ranges([shards.ranges[number]])):
        yield from last
        writer.add(batch)
        last = [batch]
    shard = writer.finish()
    asker.service.check_batch_size(asker.batch_size)
    keep = shards.replace if is_damaged else shards.keep
    keep(number, shard)
    yield from last


def tee_samples(
    service: GenerationService,
    config: GenerationConfig,
    shards: ShardSet,
    num_images: int,
    wanted: Wanted,
    seed: int = 0,
) -> ray.data.Dataset:
    """Return the stream of what is wanted of a set's first samples, which keeps missing shards meanwhile.

    A shard that is missing is made whole, whatever is wanted of it; one that is wanted in later passes alone, when
    those of the first are made. In their second pass and later samples are read, in an order as `read_shards` has it.
    """
    first, missing = shards.first(num_images), set(shards.missing())
    first_pass = IndexSet.of_ranges([range(num_images)])
    bounds = np.array([0, *(part.stop - first.first_index for part in first.ranges)])
    to_make = np.flatnonzero(np.diff((wanted.serials & first_pass).num_below(bounds))).tolist()
    to_read = reading_units(first, seed, dataclasses.replace(wanted, serials=wanted.serials - first_pass))
    only_later = missing.intersection(unit["number"] for unit in to_read).difference(to_make)
    making = [dict.fromkeys(UNIT_COLUMNS, 0) | {"number": number} for number in [*to_make, *sorted(only_later)]]
    blocks = in_blocks(making, MAX_SOURCE_BLOCKS) + in_blocks(to_read, MAX_READING_BLOCKS)
    stage = encoding(Tee(shards, missing, ShardReader(first, seed, wanted)))
    dataset = ask_units(service, config, shards.batch_size, blocks, stage, wanted)
    batch_bytes = shards.batch_size * shards.recipe.image_bytes
    bound_memory(dataset, batch_bytes, config.max_buffered_bytes, wanted.num_consumers)
    return dataset


def read_shards(shards: ShardSet, seed: int, num_readers: int, wanted: Wanted) -> ray.data.Dataset:
    """Return a lazy dataset of what is wanted of a set, rows as in the stream, always in the same order.

    Serials count positions in the set. In each pass the order is shuffled anew by `seed`: parts of shards, and the
    samples in a part; or it is that of the serials, where one is wanted.
    """
    units = reading_units(shards, seed, wanted)
    num_readers = max(1, num_readers // wanted.num_consumers)
    dataset = each_by((ShardReader, [shards, seed, wanted]), units, num_readers, MAX_READING_BLOCKS)
    dataset.context.execution_options.preserve_order = True
    part_bytes = images_per_part(shards.recipe) * shards.recipe.image_bytes
    bound_memory(dataset, part_bytes, num_readers * PARTS_PER_READER * part_bytes)
    return dataset


def check_shards(shards: ShardSet, numbers: Sequence[int], num_readers: int) -> ray.data.Dataset:
    """Return a lazy dataset with a row for each of these shards: its number, and what is wrong with it."""
    units = [{"number": number} for number in numbers]
    return each_by((ShardChecker, [shards]), units, num_readers, MAX_SOURCE_BLOCKS)


@dataclass(frozen=True)
class Tee:
    """Yields what is wanted of units, and keeps the shards that are missing."""

    shards: ShardSet
    missing: set[int]
    reader: "ShardReader"
    """Of the samples that a pass has of the set."""

    def __call__(self, asker: Asker, unit: Unit) -> Iterator[PassBatch]:
        """Yield what is wanted of a unit: of a shard in the first pass, a batch at a time; of a part in a later one."""
        number = int(unit["number"][0])
        if unit["pass"][0]:
            while not self.shards.storage.exists(index_name(number)):  # another asker is at it: units come in order
                time.sleep(WAIT_SECONDS)
            yield from self.reader(unit)
            return
        wanted_first = self._wanted_first(number)
        if not len(wanted_first) and self.shards.storage.exists(index_name(number)):
            return  # another consumer has made it meanwhile
        is_kept = number in self.missing
        for batch in make_shard(self.shards, asker, number) if is_kept else asker.ask_set(wanted_first):
            is_wanted = wanted_first.contains(batch["index"])
            if is_wanted.any():
                yield {"serial": batch["index"][is_wanted] - self.shards.first_index, **selected(batch, is_wanted)}

    def _wanted_first(self, number: int) -> IndexSet:
        """Return the indices that are wanted of a shard in its first pass."""
        held, first = self.shards.ranges[number], self.shards.first_index
        num_images, serials = self.reader.shards.num_images, self.reader.wanted.serials
        this_pass = IndexSet.of_ranges([range(held.start, min(held.stop, first + num_images))])
        return this_pass & serials.moved(first)


def images_per_part(recipe: Recipe) -> int:
    """Return how many rows of a shard are read at once: a part."""
    return max(1, PART_BYTES // recipe.image_bytes)


def passes_of(shards: ShardSet, seed: int, wanted: Wanted) -> Passes:
    """Return the passes over a set of shards."""
    return Passes(shards.num_images, wanted, Purpose.SHARD_ORDER, seed)


def reading_units(shards: ShardSet, seed: int, wanted: Wanted) -> list[dict[str, int]]:
    """Return the parts of which something is wanted, in the order in which they are read, pass by pass."""
    size, parts, position = images_per_part(shards.recipe), [], 0
    for number, held in enumerate(shards.ranges):
        for row in range(0, len(held), size):
            num_rows = min(size, len(held) - row)
            parts.append({"number": number, "row": row, "num_rows": num_rows, "position": position})
            position += num_rows
    bounds = np.array([*(part["position"] for part in parts), position])
    passes, units = passes_of(shards, seed, wanted), []
    for pass_number, positions in passes.sections():
        is_wanted = np.diff(positions.num_below(bounds)) > 0
        order = passes.order(len(parts), pass_number)
        units += [{"pass": pass_number, **parts[i]} for i in order[is_wanted[order]].tolist()]
    return units


@dataclass(frozen=True)
class ShardReader:
    """Reads units of `reading_units`."""

    shards: ShardSet
    seed: int
    wanted: Wanted

    @cached_property
    def passes(self) -> Passes:
        """The passes over the set."""
        return passes_of(self.shards, self.seed, self.wanted)

    @cached_property
    def index_of(self) -> Callable[[int], pa.Table]:
        """Returns a shard's index."""
        return lru_cache(maxsize=INDICES_KEPT)(partial(open_index_of, self.shards))

    def __call__(self, unit: Unit) -> Iterator[PassBatch]:
        """Yield what is wanted of one part, in an order of its own for each pass.

        A generator, since Ray Data hides what another function raises behind an exception of its own.
        """
        pass_number, number, row, num_rows, position = (int(unit[name][0]) for name in UNIT_COLUMNS)
        order = self.passes.order(num_rows, pass_number, number + 1, row)
        positions, serials = self.passes.choose(pass_number, position + order)
        samples = read_samples(self.shards, number, self.index_of(number), row + positions - position)
        yield {"serial": serials, **samples}


def first_samples(shards: ShardSet, number: int) -> SampleBatch:
    """Return the first samples of a set's first shard, up to so many."""
    return read_samples(shards, 0, open_index_of(shards, 0), np.arange(min(number, len(shards.ranges[0]))))


def open_index_of(shards: ShardSet, number: int) -> pa.Table:
    """Return a shard's index; StorageError with the remedy if it is not as it was written."""
    name = shard_name(number)
    file = shards.storage.read(index_name(number))
    with _told(shards, name):
        return open_index(file, shards.recipe, shards.ranges[number], name)


def read_samples(shards: ShardSet, number: int, index: pa.Table, rows: np.ndarray) -> SampleBatch:
    """Return the samples at these rows of a shard, in this order; StorageError if one is not as it was written."""
    chosen, name = index.take(rows), shard_name(number)
    content = shards.storage.read(name, *extent_of(chosen))
    with _told(shards, name):
        return decode_samples(content, chosen, shards.recipe.image_size)


@contextmanager
def _told(shards: ShardSet, name: str) -> Iterator[None]:
    """Say of damage where it is, and what to do."""
    try:
        yield
    except DamagedShardError as error:
        said = str(error) if name in str(error) else f"{name}: {error}"
        raise StorageError(f"{said}, in '{shards.storage.url}'. Repair it: ray_jobs.generate --verify.") from error


@dataclass(frozen=True)
class ShardChecker:
    """Looks at every sample of a shard."""

    shards: ShardSet

    def __call__(self, unit: Unit) -> Iterator[Unit]:
        """Yield the shard's number and what is wrong with it, a line a fault; empty if nothing is."""
        number = int(unit["number"][0])
        tar, index = self.shards.storage.read(shard_name(number)), self.shards.storage.read(index_name(number))
        found = faults(tar, index, self.shards.recipe, self.shards.ranges[number], shard_name(number))
        yield {"number": unit["number"], "faults": np.array(["\n".join(found)])}
