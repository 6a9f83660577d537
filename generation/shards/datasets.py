"""Shards as Ray Datasets: written from the generation service, read back as the stream gives them, checked.

Each shard is a function of its set and its number, so that one which Ray makes again is the same to the byte.
"""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

from generation.config import GenerationConfig
from generation.indices import NOTHING, IndexSet, Wanted
from generation.passes import Passes
from generation.pool.service import GenerationService
from generation.random_streams import Purpose
from generation.recipes.recipe import Recipe
from generation.sample import PassBatch, SampleBatch, selected
from generation.shards.shard import DamagedShardError, ShardWriter, decode_samples, extent_of, faults, open_index
from generation.shards.shard_set import ShardSet, index_name, shard_name
from generation.shards.storage import StorageError
from generation.stream.stream import Asker, ask_units
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

Unit = dict[str, np.ndarray]


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
    blocks = in_blocks(units, MAX_SOURCE_BLOCKS)
    return ask_units(service, config, shards.batch_size, blocks, (ShardMaker, [shards]), Wanted(NOTHING))


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
    first_turn = IndexSet.of_ranges([range(num_images)])
    to_make = np.flatnonzero(_held(first, wanted.serials & first_turn)).tolist()
    to_read = reading_units(first, seed, dataclasses.replace(wanted, serials=wanted.serials - first_turn))
    only_later = missing.intersection(unit["number"] for unit in to_read).difference(to_make)
    making = [dict.fromkeys(UNIT_COLUMNS, 0) | {"number": number} for number in [*to_make, *sorted(only_later)]]
    blocks = in_blocks(making, MAX_SOURCE_BLOCKS) + in_blocks(to_read, MAX_READING_BLOCKS)
    asker = TeeingAsker, [shards, (first, missing, seed, wanted)]
    dataset = ask_units(service, config, shards.batch_size, blocks, asker, wanted)
    batch_bytes = shards.batch_size * shards.recipe.image_bytes
    bound_memory(dataset, batch_bytes, config.max_buffered_bytes, wanted.num_consumers)
    return dataset


def _held(shards: ShardSet, positions: IndexSet) -> np.ndarray:
    """Return how many of these positions each shard holds, int64 [number of shards]."""
    ends = np.array([0, *(part.stop - shards.first_index for part in shards.ranges)])
    return np.diff(positions.num_below(ends))


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


class ShardMaker(Asker):
    """Asks for the samples of a shard and writes it."""

    IS_SPREAD = True
    PER_GENERATOR, MOST = 1.0, 16  # they encode images as well

    def __init__(
        self, service: GenerationService, config: GenerationConfig, batch_size: int, window: int, shards: ShardSet
    ) -> None:
        """Take an asker's arguments, and the set."""
        super().__init__(service, config, batch_size, window)
        self.shards = shards

    def do(self, unit: Unit) -> Iterator[Any]:
        """Yield one row with the shard's number and counts."""
        number = int(unit["number"][0])
        made = self.make(number, is_damaged=bool(unit["is_damaged"][0]))
        counted = np.concatenate([batch["attempt"] for batch in made])
        yield {
            "number": unit["number"],
            "num_images": np.array([len(counted)]),
            "num_refused": np.array([int(counted.sum())]),
        }

    def make(self, number: int, is_damaged: bool = False) -> Iterator[SampleBatch]:
        """Yield a shard's samples; it is kept before the last batch goes, so that who has all samples has the shard."""
        indices = self.shards.ranges[number]
        writer = ShardWriter(self.shards.recipe, shard_name(number), self.shards.encoding)
        last: list[SampleBatch] = []
        for batch in self.ask_set(IndexSet.of_ranges([indices])):
            yield from last
            writer.add(batch)
            last = [batch]
        shard = writer.finish()
        self.service.check_batch_size(self.batch_size)
        keep = self.shards.replace if is_damaged else self.shards.keep
        keep(number, shard)
        yield from last


class TeeingAsker(ShardMaker):
    """Asks for the samples of a shard, yields on what is wanted, and keeps the shards that are missing."""

    IS_SPREAD = False

    def __init__(
        self,
        service: GenerationService,
        config: GenerationConfig,
        batch_size: int,
        window: int,
        shards: ShardSet,
        tee: tuple[ShardSet, set[int], int, Wanted],
    ) -> None:
        """Take a maker's arguments, what a pass has of the set, which shards to keep, a seed, and what is wanted."""
        super().__init__(service, config, batch_size, window, shards)
        first, self.missing, seed, self.wanted = tee
        self.num_images = first.num_images
        self.reader = ShardReader(first, seed, self.wanted)

    def do(self, unit: Unit) -> Iterator[PassBatch]:
        """Yield what is wanted of a unit: of a shard in the first pass, a batch at a time; of a part in a later one."""
        number = int(unit["number"][0])
        if unit["pass"][0]:
            while not self.shards.storage.exists(index_name(number)):  # another asker is at it: units come in order
                time.sleep(WAIT_SECONDS)
            yield from self.reader(unit)
            return
        if not len(self._wanted_first(number)) and self.shards.storage.exists(index_name(number)):
            return  # another consumer has made it meanwhile
        for batch in self._generate(number):
            serials = batch["index"] - self.shards.first_index
            is_wanted = (serials < self.num_images) & self.wanted.serials.contains(serials)
            if is_wanted.any():
                yield {"serial": serials[is_wanted], **selected(batch, is_wanted)}

    def _generate(self, number: int) -> Iterator[SampleBatch]:
        return self.make(number) if number in self.missing else self.ask_set(self._wanted_first(number))

    def _wanted_first(self, number: int) -> IndexSet:
        """Return the indices that are wanted of a shard in its first pass."""
        held, first = self.shards.ranges[number], self.shards.first_index
        this_turn = IndexSet.of_ranges([range(held.start, min(held.stop, first + self.num_images))])
        return this_turn & self.wanted.serials.moved(first)


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


class ShardReader:
    """Reads units of `reading_units`."""

    def __init__(self, shards: ShardSet, seed: int, wanted: Wanted) -> None:
        self.shards = shards
        self.passes = passes_of(shards, seed, wanted)
        self.index = lru_cache(maxsize=INDICES_KEPT)(lambda number: open_index_of(shards, number))

    def __call__(self, unit: Unit) -> Iterator[PassBatch]:
        """Yield what is wanted of one part, in an order of its own for each pass.

        A generator, since Ray Data hides what another function raises behind an exception of its own.
        """
        pass_number, number, row, num_rows, position = (int(unit[name][0]) for name in UNIT_COLUMNS)
        order = self.passes.order(num_rows, pass_number, number + 1, row)
        positions, serials = self.passes.choose(pass_number, position + order)
        samples = read_samples(self.shards, number, self.index(number), row + positions - position)
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


class ShardChecker:
    """Looks at every sample of a shard."""

    def __init__(self, shards: ShardSet) -> None:
        self.shards = shards

    def __call__(self, unit: Unit) -> Iterator[Unit]:
        """Yield the shard's number and what is wrong with it, a line a fault; empty if nothing is."""
        number = int(unit["number"][0])
        tar, index = self.shards.storage.read(shard_name(number)), self.shards.storage.read(index_name(number))
        found = faults(tar, index, self.shards.recipe, self.shards.ranges[number], shard_name(number))
        yield {"number": unit["number"], "faults": np.array(["\n".join(found)])}
