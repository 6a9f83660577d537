"""Shards as Ray Datasets: generate and write them, read them in the stream's format, verify them.

Each shard is a function of its data set and its number: if Ray retries one, the bytes are the same.
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
from generation.indices import EMPTY_INDICES, IndexSet, SampleRequest
from generation.passes import Passes
from generation.pool.service import GenerationService
from generation.random_streams import Purpose
from generation.recipes.recipe import Recipe
from generation.sample import PassBatch, SampleBatch, select_samples
from generation.shards.shard import (
    DamagedShardError,
    ShardWriter,
    byte_range,
    decode_samples,
    find_problems,
    open_index,
)
from generation.shards.shard_set import ShardSet, index_name, shard_name
from generation.shards.storage import StorageError
from generation.stream.stream import BatchRequester, StageSpec, Unit, request_units
from generation.stream.units import (
    MAX_READING_BLOCKS,
    MAX_SOURCE_BLOCKS,
    bound_memory,
    in_blocks,
    map_units,
)

SLICE_BYTES = 64_000_000
"""Pixel bytes of a slice, read at once into one block: each block costs Ray Data about 20 ms of CPU time, whatever its
size.
"""

SLICES_PER_READER = 4
"""Buffer for each reader, in slices."""

CACHED_INDICES = 256
"""Shard indices cached in memory by each reader, about 100 KB each."""

POLL_SECONDS = 0.2
"""Polling interval while another process writes a shard."""

UNIT_COLUMNS = ("pass", "number", "row", "num_rows", "position")
"""Columns of a unit that reads a slice: pass, shard number, first row in the shard, number of rows, and position of the
first row in the data set. A unit that generates a shard only uses its number; its pass is 0.
"""


def encoding_stage(work: Callable[[BatchRequester, Unit], Iterator[Any]], is_spread: bool = False) -> StageSpec:
    """Return a stage with more requesters than a stream has, since they also encode images."""
    return StageSpec(work, requesters_per_generator=1.0, max_requesters=16, is_spread=is_spread)


def write_shards(
    service: GenerationService,
    config: GenerationConfig,
    shards: ShardSet,
    numbers: Sequence[int],
    damaged: Sequence[int] = (),
) -> ray.data.Dataset:
    """Return a lazy dataset that generates and writes these shards, with one row of counts per finished shard.

    Shards in `damaged` are overwritten.
    """
    units = [{"number": number, "is_damaged": number in damaged} for number in numbers]
    stage = encoding_stage(partial(write_shard, shards), is_spread=True)
    return request_units(
        service, config, shards.batch_size, in_blocks(units, MAX_SOURCE_BLOCKS), stage, SampleRequest(EMPTY_INDICES)
    )


def write_shard(shards: ShardSet, requester: BatchRequester, unit: Unit) -> Iterator[Unit]:
    """Generate and write a shard; yield one row with its number and counts."""
    batches = make_shard(shards, requester, int(unit["number"][0]), is_damaged=bool(unit["is_damaged"][0]))
    attempts = np.concatenate([batch["attempt"] for batch in batches])
    yield {
        "number": unit["number"],
        "num_images": np.array([len(attempts)]),
        "num_refused": np.array([int(attempts.sum())]),
    }


def make_shard(
    shards: ShardSet, requester: BatchRequester, number: int, is_damaged: bool = False
) -> Iterator[SampleBatch]:
    """Generate and write a shard; yield its samples.

    The shard is stored before its last batch is yielded, so a consumer of all samples can rely on the file.
    """
    writer = ShardWriter(shards.recipe, shard_name(number), shards.encoding)
    last: list[SampleBatch] = []
    for batch in requester.request_set(IndexSet.of_ranges([shards.ranges[number]])):
        yield from last
        writer.add(batch)
        last = [batch]
    shard = writer.finish()
    requester.service.check_batch_size(requester.batch_size)
    store = shards.replace if is_damaged else shards.store
    store(number, shard)
    yield from last


def tee_samples(
    service: GenerationService,
    config: GenerationConfig,
    shards: ShardSet,
    num_images: int,
    request: SampleRequest,
    seed: int = 0,
) -> ray.data.Dataset:
    """Return a lazy dataset of the requested samples of a set's first `num_images`, storing missing shards on the way.

    A missing shard is always generated in full. Shards first needed in a later pass are generated after those of the
    first pass. From the second pass on, samples are read from the shards, in the order of `read_shards`.
    """
    first, missing = shards.first(num_images), set(shards.missing())
    first_pass = IndexSet.of_ranges([range(num_images)])
    bounds = np.array([0, *(indices.stop - first.first_index for indices in first.ranges)])
    to_generate = np.flatnonzero(np.diff((request.serials & first_pass).num_below(bounds))).tolist()
    to_read = reading_units(first, seed, dataclasses.replace(request, serials=request.serials - first_pass))
    only_later = missing.intersection(unit["number"] for unit in to_read).difference(to_generate)
    numbers = [*to_generate, *sorted(only_later)]
    generation_units = [dict.fromkeys(UNIT_COLUMNS, 0) | {"number": number} for number in numbers]
    blocks = in_blocks(generation_units, MAX_SOURCE_BLOCKS) + in_blocks(to_read, MAX_READING_BLOCKS)
    stage = encoding_stage(Tee(shards, missing, ShardReader(first, seed, request)))
    generated = IndexSet.of_ranges([shards.ranges[number] for number in missing.intersection(numbers)])
    service = service.registered(dataclasses.replace(request, serials=generated))
    dataset = request_units(service, config, shards.batch_size, blocks, stage, request)
    batch_bytes = shards.batch_size * shards.recipe.image_bytes
    bound_memory(dataset, batch_bytes, config.max_buffered_bytes, request.num_consumers)
    return dataset


def read_shards(shards: ShardSet, seed: int, num_readers: int, request: SampleRequest) -> ray.data.Dataset:
    """Return a lazy dataset of the requested samples of a set, in the stream's format and a reproducible order.

    Serials count positions in the set, pass after pass. `seed` shuffles each pass differently: the slices, and the
    samples in each slice. With `request.in_order`, samples come in serial order.
    """
    units = reading_units(shards, seed, request)
    num_readers = max(1, num_readers // request.num_consumers)
    dataset = map_units((ShardReader, [shards, seed, request]), units, num_readers, MAX_READING_BLOCKS)
    dataset.context.execution_options.preserve_order = True
    slice_bytes = images_per_slice(shards.recipe) * shards.recipe.image_bytes
    bound_memory(dataset, slice_bytes, num_readers * SLICES_PER_READER * slice_bytes)
    return dataset


def check_shards(shards: ShardSet, numbers: Sequence[int], num_readers: int) -> ray.data.Dataset:
    """Return a lazy dataset with one row per shard: its number and its problems, one per line."""
    units = [{"number": number} for number in numbers]
    return map_units((ShardChecker, [shards]), units, num_readers, MAX_SOURCE_BLOCKS)


@dataclass(frozen=True)
class Tee:
    """Yields the requested samples of units and stores missing shards."""

    shards: ShardSet
    missing: set[int]
    reader: "ShardReader"
    """Reads the later passes; its set is limited to the samples of one pass."""

    def __call__(self, requester: BatchRequester, unit: Unit) -> Iterator[PassBatch]:
        """Yield the requested samples of a unit: a shard in the first pass, in batches; a slice in a later pass."""
        number = int(unit["number"][0])
        if unit["pass"][0]:
            while not self.shards.storage.exists(
                index_name(number)
            ):  # another requester writes it: units start in order
                time.sleep(POLL_SECONDS)
            yield from self.reader(unit)
            return
        wanted_first = self._wanted_in_first_pass(number)
        if not len(wanted_first) and self.shards.storage.exists(index_name(number)):
            return  # another consumer has written it
        is_missing = number in self.missing
        for batch in make_shard(self.shards, requester, number) if is_missing else requester.request_set(wanted_first):
            is_wanted = wanted_first.contains(batch["index"])
            if is_wanted.any():
                yield {
                    "serial": batch["index"][is_wanted] - self.shards.first_index,
                    **select_samples(batch, is_wanted),
                }

    def _wanted_in_first_pass(self, number: int) -> IndexSet:
        """Return the requested indices of a shard in the first pass."""
        held, first = self.shards.ranges[number], self.shards.first_index
        num_images, serials = self.reader.shards.num_images, self.reader.request.serials
        this_pass = IndexSet.of_ranges([range(held.start, min(held.stop, first + num_images))])
        return this_pass & serials.shifted(first)


def images_per_slice(recipe: Recipe) -> int:
    """Return the number of rows of a slice: the part of a shard that is read at once."""
    return max(1, SLICE_BYTES // recipe.image_bytes)


def passes_of(shards: ShardSet, seed: int, request: SampleRequest) -> Passes:
    """Return the requested passes over a set of shards."""
    return Passes(shards.num_images, request, Purpose.SHARD_ORDER, seed)


def reading_units(shards: ShardSet, seed: int, request: SampleRequest) -> list[dict[str, int]]:
    """Return the slices with requested samples, in reading order, pass by pass."""
    size, slices, position = images_per_slice(shards.recipe), [], 0
    for number, held in enumerate(shards.ranges):
        for row in range(0, len(held), size):
            num_rows = min(size, len(held) - row)
            slices.append({"number": number, "row": row, "num_rows": num_rows, "position": position})
            position += num_rows
    bounds = np.array([*(each["position"] for each in slices), position])
    passes, units = passes_of(shards, seed, request), []
    for pass_number, positions in passes.sections():
        is_wanted = np.diff(positions.num_below(bounds)) > 0
        order = passes.order(len(slices), pass_number)
        units += [{"pass": pass_number, **slices[i]} for i in order[is_wanted[order]].tolist()]
    return units


@dataclass(frozen=True)
class ShardReader:
    """Reads the units of `reading_units`."""

    shards: ShardSet
    seed: int
    request: SampleRequest

    @cached_property
    def passes(self) -> Passes:
        """The requested passes over the set."""
        return passes_of(self.shards, self.seed, self.request)

    @cached_property
    def index_of(self) -> Callable[[int], pa.Table]:
        """A cached function that returns a shard's index by its number."""
        return lru_cache(maxsize=CACHED_INDICES)(partial(open_index_of, self.shards))

    def __call__(self, unit: Unit) -> Iterator[PassBatch]:
        """Yield the requested samples of one slice, in a different order in each pass.

        This is a generator because Ray Data wraps exceptions of plain functions in its own.
        """
        pass_number, number, row, num_rows, position = (int(unit[name][0]) for name in UNIT_COLUMNS)
        order = self.passes.order(num_rows, pass_number, number + 1, row)
        positions, serials = self.passes.choose(pass_number, position + order)
        samples = read_samples(self.shards, number, self.index_of(number), row + positions - position)
        yield {"serial": serials, **samples}


def first_samples(shards: ShardSet, number: int) -> SampleBatch:
    """Return up to `number` samples from the start of a set's first shard."""
    return read_samples(shards, 0, open_index_of(shards, 0), np.arange(min(number, len(shards.ranges[0]))))


def open_index_of(shards: ShardSet, number: int) -> pa.Table:
    """Return a shard's index; StorageError with the remedy if it is damaged."""
    name = shard_name(number)
    file = shards.storage.read(index_name(number))
    with _damage_located(shards, name):
        return open_index(file, shards.recipe, shards.ranges[number], name)


def read_samples(shards: ShardSet, number: int, index: pa.Table, rows: np.ndarray) -> SampleBatch:
    """Return the samples at these rows of a shard, in this order; StorageError with the remedy if one is damaged."""
    chosen, name = index.take(rows), shard_name(number)
    content = shards.storage.read(name, *byte_range(chosen))
    with _damage_located(shards, name):
        return decode_samples(content, chosen, shards.recipe.image_size)


@contextmanager
def _damage_located(shards: ShardSet, name: str) -> Iterator[None]:
    """Turn a DamagedShardError into a StorageError with the shard, its location and the remedy."""
    try:
        yield
    except DamagedShardError as error:
        message = str(error) if name in str(error) else f"{name}: {error}"
        raise StorageError(
            f"{message} (in '{shards.storage.url}'). Repair it with ray_jobs.generate --verify."
        ) from error


@dataclass(frozen=True)
class ShardChecker:
    """Verifies every sample of a shard."""

    shards: ShardSet

    def __call__(self, unit: Unit) -> Iterator[Unit]:
        """Yield the shard's number and its problems, one per line; empty if there are none."""
        number = int(unit["number"][0])
        tar, index = self.shards.storage.read(shard_name(number)), self.shards.storage.read(index_name(number))
        found = find_problems(tar, index, self.shards.recipe, self.shards.ranges[number], shard_name(number))
        yield {"number": unit["number"], "problems": np.array(["\n".join(found)])}
