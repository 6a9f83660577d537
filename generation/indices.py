"""Sets of sample indices as ranges: consumed, remaining, or requested samples.

Works on numbers only, without the samples.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class IndexSet:
    """A set of int64 as ascending ranges that neither overlap nor touch; memory grows with the number of ranges."""

    starts: np.ndarray
    """int64 [R], ascending."""

    stops: np.ndarray
    """int64 [R], exclusive: each above its start and below the next start."""

    @staticmethod
    def of_ranges(ranges: Iterable[range]) -> "IndexSet":
        """Return the union of the ranges."""
        bounds = np.array([(each.start, each.stop) for each in ranges if each], dtype=np.int64).reshape(-1, 2)
        return _union(bounds[:, 0], bounds[:, 1])

    @staticmethod
    def of(indices: np.ndarray) -> "IndexSet":
        """Return the set of these numbers, given in any order."""
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
        """Return the intersection with these ranges, which are ascending and do not overlap."""
        first = np.searchsorted(stops, self.starts, side="right")
        counts = np.maximum(np.searchsorted(starts, self.stops, side="left") - first, 0)
        mine = np.repeat(np.arange(len(self.starts)), counts)
        theirs = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
        return IndexSet(
            np.maximum(self.starts[mine], starts[theirs]).astype(np.int64),
            np.minimum(self.stops[mine], stops[theirs]).astype(np.int64),
        )

    def contains(self, indices: np.ndarray) -> np.ndarray:
        """Return bool [N]: which of these numbers are in the set."""
        row = np.searchsorted(self.starts, indices, side="right") - 1
        return (row >= 0) & (indices < self.stops[np.maximum(row, 0)]) if len(self.starts) else row >= 0

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Return the numbers at these positions, int64; position 0 is the smallest number."""
        ends = np.cumsum(self.stops - self.starts)
        row = np.searchsorted(ends, positions, side="right")
        return self.stops[row] - (ends[row] - positions)

    def select(self, positions: "IndexSet") -> "IndexSet":
        """Return the numbers at a set of positions."""
        ends = np.cumsum(self.stops - self.starts)
        begins = ends - (self.stops - self.starts)
        pieces = positions._within(begins, ends)
        row = np.searchsorted(ends, pieces.starts, side="right")
        shift = self.starts[row] - begins[row]
        return _union(pieces.starts + shift, pieces.stops + shift)

    def slice(self, start: int, stop: int) -> "IndexSet":
        """Return the numbers at positions `start` to `stop - 1`."""
        return self.select(IndexSet.of_ranges([range(start, stop)]))

    def shifted(self, by: int) -> "IndexSet":
        """Return the set with `by` added to each number."""
        return IndexSet(self.starts + by, self.stops + by)

    def strided(self, run: int, offset: int, stride: int) -> "IndexSet":
        """Split the integers into runs of `run` numbers; keep run `offset` of every `stride` runs."""
        runs = self.blocks(run * stride)
        first = (runs.at(np.arange(len(runs))) * stride + offset) * run
        return self & _union(first, first + run)

    def blocks(self, size: int) -> "IndexSet":
        """Return the indices of the blocks of `size` numbers, counted from 0, that intersect the set."""
        return _union(self.starts // size, (self.stops - 1) // size + 1)

    def num_below(self, bounds: np.ndarray) -> np.ndarray:
        """Return int64 [N]: how many numbers in the set are below each bound."""
        begins = np.concatenate([[0], np.cumsum(self.stops - self.starts)])
        row = np.searchsorted(self.starts, bounds, side="right")
        last_stops = self.stops[np.maximum(row - 1, 0)] if len(self.stops) else np.zeros(len(bounds), np.int64)
        return begins[row] - np.where(row > 0, np.maximum(last_stops - bounds, 0), 0)

    def sections(self, size: int) -> Iterator[tuple[int, "IndexSet"]]:
        """Yield each intersecting block of `size` numbers: its index, and the numbers relative to its start."""
        runs = self.blocks(size)
        for run in runs.at(np.arange(len(runs))).tolist():
            yield run, (self & IndexSet.of_ranges([range(run * size, (run + 1) * size)])).shifted(-run * size)


def _union(starts: np.ndarray, stops: np.ndarray) -> IndexSet:
    """Return the union of ranges that may overlap, in any order."""
    if not len(starts):
        return EMPTY_INDICES
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(stops[order])
    is_new = np.concatenate([[True], starts[1:] > reach[:-1]])
    is_last = np.concatenate([is_new[1:], [True]])
    return IndexSet(starts[is_new], reach[is_last])


@dataclass(frozen=True)
class SampleRequest:
    """The samples that one consumer requests from a set that is read in passes."""

    serials: IndexSet
    """Samples by pass: `pass * number of samples in the set + index`; passes count from 0."""

    num_consumers: int = 1
    """Number of concurrent consumers of the set, this one included; they share its memory equally."""

    in_order: bool = False
    """Deliver samples in ascending order of serial, even if that is slower."""

    rank: int | None = None
    """Rank among the consumers; None for samples that are not trained on."""

    @staticmethod
    def all_of(*indices: range) -> "SampleRequest":
        """Return the request of a single consumer that takes each sample once."""
        return SampleRequest(IndexSet.of_ranges(indices))


EMPTY_INDICES = IndexSet(np.zeros(0, np.int64), np.zeros(0, np.int64))
