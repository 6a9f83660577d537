"""Sets of sample indices as ranges: what was consumed, what remains, what one consumer wants.

Plain numbers: knows neither samples nor who asks for them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class IndexSet:
    """A set of int64 as ranges that neither overlap nor touch, ascending; its size in memory is that of its ranges."""

    starts: np.ndarray
    """int64 [R], ascending."""

    stops: np.ndarray
    """int64 [R], each beyond its start and before the next one's."""

    @staticmethod
    def of_ranges(ranges: Iterable[range]) -> "IndexSet":
        """Return the set of all that is in any of these ranges."""
        bounds = np.array([(part.start, part.stop) for part in ranges if part], dtype=np.int64).reshape(-1, 2)
        return _union(bounds[:, 0], bounds[:, 1])

    @staticmethod
    def of(indices: np.ndarray) -> "IndexSet":
        """Return the set of these numbers, in any order."""
        ordered = np.unique(np.asarray(indices, dtype=np.int64))
        return _union(ordered, ordered + 1)

    def __len__(self) -> int:
        return int((self.stops - self.starts).sum())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IndexSet):
            return NotImplemented
        return np.array_equal(self.starts, other.starts) and np.array_equal(self.stops, other.stops)

    __hash__ = None  # type: ignore[assignment]

    def __or__(self, other: "IndexSet") -> "IndexSet":
        return _union(np.concatenate([self.starts, other.starts]), np.concatenate([self.stops, other.stops]))

    def __and__(self, other: "IndexSet") -> "IndexSet":
        return self._within(other.starts, other.stops)

    def __sub__(self, other: "IndexSet") -> "IndexSet":
        least, greatest = np.iinfo(np.int64).min, np.iinfo(np.int64).max
        return self._within(np.concatenate([[least], other.stops]), np.concatenate([other.starts, [greatest]]))

    def _within(self, starts: np.ndarray, stops: np.ndarray) -> "IndexSet":
        """Return what is in one of these ranges, which are ascending and do not overlap."""
        first = np.searchsorted(stops, self.starts, side="right")
        counts = np.maximum(np.searchsorted(starts, self.stops, side="left") - first, 0)
        mine = np.repeat(np.arange(len(self.starts)), counts)
        theirs = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
        return IndexSet(
            np.maximum(self.starts[mine], starts[theirs]).astype(np.int64),
            np.minimum(self.stops[mine], stops[theirs]).astype(np.int64),
        )

    def contains(self, indices: np.ndarray) -> np.ndarray:
        """Return bool [N]: which of these numbers it has."""
        place = np.searchsorted(self.starts, indices, side="right") - 1
        return (place >= 0) & (indices < self.stops[np.maximum(place, 0)]) if len(self.starts) else place >= 0

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Return the numbers at these positions, int64: position 0 is the least number."""
        ends = np.cumsum(self.stops - self.starts)
        place = np.searchsorted(ends, positions, side="right")
        return self.stops[place] - (ends[place] - positions)

    def select(self, positions: "IndexSet") -> "IndexSet":
        """Return the numbers at a set of positions."""
        ends = np.cumsum(self.stops - self.starts)
        begins = ends - (self.stops - self.starts)
        pieces = positions._within(begins, ends)
        place = np.searchsorted(ends, pieces.starts, side="right")
        shift = self.starts[place] - begins[place]
        return _union(pieces.starts + shift, pieces.stops + shift)

    def part(self, start: int, stop: int) -> "IndexSet":
        """Return those at positions `start` to `stop - 1`."""
        return self.select(IndexSet.of_ranges([range(start, stop)]))

    def moved(self, by: int) -> "IndexSet":
        """Return the set with each number greater by so much."""
        return IndexSet(self.starts + by, self.stops + by)

    def every(self, run: int, offset: int, stride: int) -> "IndexSet":
        """Return of every `stride` runs of `run` numbers, counted from 0, those in the one at `offset`."""
        runs = self.blocks(run * stride)
        first = (runs.at(np.arange(len(runs))) * stride + offset) * run
        return self & _union(first, first + run)

    def blocks(self, size: int) -> "IndexSet":
        """Return which of the runs of `size` numbers, counted from 0, have some of it."""
        return _union(self.starts // size, (self.stops - 1) // size + 1)

    def num_below(self, bounds: np.ndarray) -> np.ndarray:
        """Return int64 [N]: how many of its numbers are below each of these."""
        begins = np.concatenate([[0], np.cumsum(self.stops - self.starts)])
        place = np.searchsorted(self.starts, bounds, side="right")
        last_stops = self.stops[np.maximum(place - 1, 0)] if len(self.stops) else np.zeros(len(bounds), np.int64)
        return begins[place] - np.where(place > 0, np.maximum(last_stops - bounds, 0), 0)

    def sections(self, size: int) -> Iterator[tuple[int, "IndexSet"]]:
        """Yield, for each run of `size` numbers that has some of it, which run and the numbers within, from 0."""
        runs = self.blocks(size)
        for run in runs.at(np.arange(len(runs))).tolist():
            yield run, (self & IndexSet.of_ranges([range(run * size, (run + 1) * size)])).moved(-run * size)


def _union(starts: np.ndarray, stops: np.ndarray) -> IndexSet:
    """Return the set of ranges that may overlap, in any order."""
    if not len(starts):
        return EMPTY
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(stops[order])
    is_new = np.concatenate([[True], starts[1:] > reach[:-1]])
    is_last = np.concatenate([is_new[1:], [True]])
    return IndexSet(starts[is_new], reach[is_last])


@dataclass(frozen=True)
class Wanted:
    """What one consumer takes of a set of samples that may come again and again."""

    serials: IndexSet
    """Which samples in which pass: `pass * number of samples in the set + index`, passes counted from 0."""

    num_consumers: int = 1
    """How many, this one included, share the set at the same time: each has its part of the memory for it."""

    in_order: bool = False
    """Whether samples come in ascending order, whatever that costs."""

    @staticmethod
    def all_of(*indices: range) -> "Wanted":
        """Return what a consumer alone wants that takes samples once."""
        return Wanted(IndexSet.of_ranges(indices))


EMPTY = IndexSet(np.zeros(0, np.int64), np.zeros(0, np.int64))
