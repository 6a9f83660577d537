"""Units of work through Ray Data: ranges of batches, in few blocks, in parts by actor, within a bound of memory."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import ray.data
from ray.data import ActorPoolStrategy

from generation.indices import IndexSet

MAX_UNITS = 10_000
"""Ray Data takes minutes and gigabytes for more units of work than this."""


WINDOWS_PER_UNIT = 8
"""A unit of work has at most so many times the batches that an requester has under way, while that makes no more than
`MAX_UNITS`: at the end of each its requests run out.
"""


MAX_SOURCE_BLOCKS = 100
"""Blocks that units of work travel in: Ray Data's own cost grows with each."""


MIN_BUFFERED_BATCHES = 4
"""Below so many, askers wait for each other: a bound of two fifths of it took 1.7 times as long."""


def in_blocks(units: Sequence[dict[str, int]], max_blocks: int) -> list[dict[str, list[int]]]:
    """Return units of work in their order, column by column, in so many blocks of like sizes, or a block each."""
    bounds = np.linspace(0, len(units), min(max_blocks, len(units)) + 1).round().astype(int).tolist()
    return [
        {name: [unit[name] for unit in units[start:stop]] for name in units[start]} for start, stop in pairwise(bounds)
    ]


def bound_memory(dataset: ray.data.Dataset, batch_bytes: int, max_buffered_bytes: int, num_consumers: int = 1) -> None:
    """Make one block of each batch, and keep the stream from running further ahead than its part of the bound.

    Ray Train runs a dataset under options of its own unless it is handed these: see `training.fit`.
    """
    dataset.context.target_max_block_size = batch_bytes
    limits = dataset.context.execution_options.resource_limits
    buffered_bytes = max(max_buffered_bytes // num_consumers, MIN_BUFFERED_BATCHES * batch_bytes)
    dataset.context.execution_options.resource_limits = limits.copy(object_store_memory=buffered_bytes)
    dataset.context.execution_no_progress_timeout_s = -1  # a trainer may pause for as long as it likes


def work_units(indices: IndexSet, batch_size: int, num_requesters: int, window: int) -> list[dict[str, int]]:
    """Return ranges of whole batches that hold all these indices, in ascending order; none without any."""
    numbers = indices.blocks(batch_size)
    ends = np.cumsum(unit_sizes(len(numbers), num_requesters, window), dtype=np.int64)
    begins = np.concatenate([[0], ends])[:-1]
    bounds = zip(numbers.at(begins).tolist(), numbers.at(ends - 1).tolist(), strict=True)
    return [{"start": first * batch_size, "stop": (last + 1) * batch_size} for first, last in bounds]


def unit_sizes(num_batches: int, num_requesters: int, window: int) -> list[int]:
    """Return how many batches each unit has: long ones first, for what else they cost, then ever shorter ones.

    So askers run out of work at about the same time (guided self-scheduling: Polychronopoulos and Kuck, 1987), but for
    the last hundredth of a set of many units, which travel in `MAX_SOURCE_BLOCKS`.
    """
    longest = max(WINDOWS_PER_UNIT * window, math.ceil(2 * num_batches / MAX_UNITS))
    sizes, left = [], num_batches
    while left:
        sizes.append(min(left, longest, max(window, math.ceil(left / num_requesters))))
        left -= sizes[-1]
    return sizes


PARTS_PER_READER = 8
"""Memory for each reader's images, in parts: with less, Ray Data lets some readers wait for the others."""


MAX_READING_BLOCKS = 2_000
"""Blocks that units of reading travel in, which take 1 ms each before reading starts.

A reader has a whole block at a time, and where the order is kept what others read meanwhile has to wait for it.
"""


def map_units(
    reader: tuple[type, Sequence[Any]],
    units: Sequence[dict[str, int]],
    num_readers: int,
    max_blocks: int,
    label_selector: dict[str, str] | None = None,
) -> ray.data.Dataset:
    """Return what so many readers of a kind, which comes with its arguments, make of units of work.

    They are spread over the nodes with these labels, or over all.
    """
    source = ray.data.from_items(list(units), override_num_blocks=max(1, min(max_blocks, len(units))))
    return source.map_batches(
        reader[0],
        fn_constructor_args=reader[1],
        batch_size=1,
        # One block at a time: where the order is kept, what waits behind a reader's own block waits for all of it.
        compute=ActorPoolStrategy(size=max(1, min(num_readers, len(units))), max_tasks_in_flight_per_actor=1),
        num_cpus=0,
        label_selector=label_selector or {},
    )
