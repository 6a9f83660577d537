"""Units of work for Ray Data: ranges of batches, grouped into few blocks, with bounded memory."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import ray.data
from ray.data import ActorPoolStrategy

from generation.indices import IndexSet

MAX_UNITS = 10_000
"""The maximum number of units of work; with more, Ray Data needs minutes and gigabytes."""


WINDOWS_PER_UNIT = 8
"""The maximum length of a unit, in windows of pending batches, unless that makes more than `MAX_UNITS`.

At the end of each unit an actor's pending requests run out.
"""


MAX_SOURCE_BLOCKS = 100
"""The maximum number of blocks that hold the units of work; each block adds to Ray Data's overhead."""


MIN_BUFFERED_BATCHES = 4
"""The minimum buffer, in batches. With less, request actors wait for each other: 40% of it took 1.7 times as long."""


def in_blocks(units: Sequence[dict[str, int]], max_blocks: int) -> list[dict[str, list[int]]]:
    """Return units of work in order, as columns, in at most `max_blocks` blocks of similar size."""
    bounds = np.linspace(0, len(units), min(max_blocks, len(units)) + 1).round().astype(int).tolist()
    return [
        {name: [unit[name] for unit in units[start:stop]] for name in units[start]} for start, stop in pairwise(bounds)
    ]


def bound_memory(dataset: ray.data.Dataset, batch_bytes: int, max_buffered_bytes: int, num_consumers: int = 1) -> None:
    """Make each batch one block, and limit buffered blocks to this consumer's share of `max_buffered_bytes`.

    Ray Train replaces a dataset's execution options unless it is given these: see `training.fit`.
    """
    dataset.context.target_max_block_size = batch_bytes
    limits = dataset.context.execution_options.resource_limits
    buffered_bytes = max(max_buffered_bytes // num_consumers, MIN_BUFFERED_BATCHES * batch_bytes)
    dataset.context.execution_options.resource_limits = limits.copy(object_store_memory=buffered_bytes)
    dataset.context.execution_no_progress_timeout_s = -1  # a trainer may pause indefinitely


def work_units(indices: IndexSet, batch_size: int, num_requesters: int, window: int) -> list[dict[str, int]]:
    """Return ascending ranges of whole batches that cover all indices; an empty list for an empty set."""
    numbers = indices.blocks(batch_size)
    ends = np.cumsum(unit_sizes(len(numbers), num_requesters, window), dtype=np.int64)
    begins = np.concatenate([[0], ends])[:-1]
    bounds = zip(numbers.at(begins).tolist(), numbers.at(ends - 1).tolist(), strict=True)
    return [{"start": first * batch_size, "stop": (last + 1) * batch_size} for first, last in bounds]


def unit_sizes(num_batches: int, num_requesters: int, window: int) -> list[int]:
    """Return the number of batches in each unit: long units first, to save overhead, then shorter and shorter units.

    Request actors then finish at about the same time (guided self-scheduling: Polychronopoulos and Kuck, 1987). With
    many units this holds up to the last hundredth of the set, since units are grouped into `MAX_SOURCE_BLOCKS`.
    """
    longest = max(WINDOWS_PER_UNIT * window, math.ceil(2 * num_batches / MAX_UNITS))
    sizes, left = [], num_batches
    while left:
        sizes.append(min(left, longest, max(window, math.ceil(left / num_requesters))))
        left -= sizes[-1]
    return sizes


UNIT_BYTES = 16_000_000
"""Pixel bytes of a unit of real images, read at once into one block."""

PARTS_PER_READER = 8
"""Buffer for each reader of real images, in units; with less, Ray Data stalls some readers."""


MAX_READING_BLOCKS = 2_000
"""The maximum number of blocks that hold units to read; each takes 1 ms before reading starts.

A reader processes a whole block at a time; with preserved order, the output of other readers waits for it.
"""


def map_units(
    reader: tuple[type, Sequence[Any]],
    units: Sequence[dict[str, int]],
    num_readers: int,
    max_blocks: int,
    label_selector: dict[str, str] | None = None,
) -> ray.data.Dataset:
    """Return a dataset of `num_readers` actors applied to units of work; `reader` is their class and its arguments.

    Actors are spread over the nodes that match `label_selector`, or over all nodes.
    """
    source = ray.data.from_items(list(units), override_num_blocks=max(1, min(max_blocks, len(units))))
    return source.map_batches(
        reader[0],
        fn_constructor_args=reader[1],
        batch_size=1,
        # One block at a time: with preserved order, a queued block would wait for the reader's whole current one.
        compute=ActorPoolStrategy(size=max(1, min(num_readers, len(units))), max_tasks_in_flight_per_actor=1),
        num_cpus=0,
        label_selector=label_selector or {},
    )
