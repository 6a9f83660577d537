"""Which samples a run has used, which remain, and how workers share them: part of every checkpoint.

Each sample of a pass has a serial number (see `generation.indices.SampleRequest`) and is used `reuse` times.
Checkpoints hold no images: a resumed run requests the same serials again. Works on numbers only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from generation.indices import EMPTY_INDICES, IndexSet


@dataclass(frozen=True)
class Consumption:
    """Used samples of a run between two optimization steps."""

    taken: IndexSet
    """Serials that have arrived at a worker, used up or not."""

    begun: np.ndarray
    """int64 [K]: serials in `taken` with uses left, in order of arrival."""

    uses_left: np.ndarray
    """int32 [K]: remaining uses of each serial in `begun`."""

    def to_checkpoint(self) -> dict[str, torch.Tensor]:
        """Return plain tensors: 16 bytes per range of serials, 12 bytes per begun sample."""
        ranges = np.stack([self.taken.starts, self.taken.stops], axis=1)
        columns = {"taken": ranges, "begun": self.begun, "uses_left": self.uses_left}
        return {name: torch.from_numpy(np.ascontiguousarray(column)) for name, column in columns.items()}

    @staticmethod
    def from_checkpoint(saved: dict[str, Any]) -> "Consumption":
        """Return the state that `to_checkpoint` wrote."""
        ranges = saved["taken"].numpy()
        return Consumption(IndexSet(ranges[:, 0], ranges[:, 1]), saved["begun"].numpy(), saved["uses_left"].numpy())


EMPTY_CONSUMPTION = Consumption(EMPTY_INDICES, np.zeros(0, np.int64), np.zeros(0, np.int32))
"""The state of a run before its first step."""


@dataclass(frozen=True)
class Share:
    """One worker's share of a run's remaining samples."""

    fresh: IndexSet
    """Serials that have not arrived before."""

    begun: np.ndarray
    """int64 [K]: serials that arrived before and have uses left."""

    uses_left: np.ndarray
    """int32 [K]: remaining uses of each serial in `begun`."""

    @property
    def serials(self) -> IndexSet:
        """All serials to request."""
        return self.fresh | IndexSet.of(self.begun)


@dataclass(frozen=True)
class Worker:
    """Worker `rank` of `count`."""

    rank: int
    count: int

    def part(self, before: int, until: int) -> tuple[int, int]:
        """Return start and stop of this worker's part of the numbers `before .. until - 1`, relative to `before`.

        Over successive calls, workers get equally many numbers in total; the first workers may have one more.
        """
        start, stop = (
            rank * (until // self.count) + min(rank, until % self.count)
            - rank * (before // self.count) - min(rank, before % self.count)
            for rank in (self.rank, self.rank + 1)
        )  # fmt: skip
        return start, stop


@dataclass(frozen=True)
class RunSerials:
    """Serials of a run."""

    count: int
    num_samples: int
    """Samples per pass."""

    def fresh(self, done: Consumption) -> IndexSet:
        """Return the serials that have not arrived yet."""
        return IndexSet.of_ranges([range(self.count)]) - done.taken


def exact_share(done: Consumption, serials: RunSerials, reuse: int, worker: Worker, num_uses: int) -> Share:
    """Return a worker's share if each sample is used exactly `reuse` times per pass; all workers need `num_uses`.

    Remaining uses are split evenly, first those of begun samples, then pass by pass, so that no worker runs a pass
    ahead of the others. Two workers share the uses of a sample at a border.
    """
    ends = np.cumsum(done.uses_left, dtype=np.int64)
    num_given = min(int(ends[-1]) if len(ends) else 0, num_uses)
    mine = _overlaps(ends - done.uses_left, ends, *worker.part(0, num_given))
    begun, uses_left = [done.begun[mine > 0]], [mine[mine > 0]]
    whole = [EMPTY_INDICES]
    for number, fresh in serials.fresh(done).sections(serials.num_samples):
        until = min(num_given + len(fresh) * reuse, num_uses)
        start, stop = worker.part(num_given, until)
        borders = np.unique([start // reuse, stop // reuse])
        mine = _overlaps(borders * reuse, (borders + 1) * reuse, start, stop)
        is_shared = (mine > 0) & (mine < reuse)
        begun.append(fresh.at(borders[is_shared]) + number * serials.num_samples)
        uses_left.append(mine[is_shared])
        whole.append(fresh.slice(-(-start // reuse), stop // reuse).shifted(number * serials.num_samples))
        num_given = until
    starts, stops = (np.concatenate([getattr(part, name) for part in whole]) for name in ("starts", "stops"))
    return Share(
        fresh=IndexSet(starts, stops) | EMPTY_INDICES,
        begun=np.concatenate(begun).astype(np.int64),
        uses_left=np.concatenate(uses_left).astype(np.int32),
    )


def _overlaps(starts: np.ndarray, ends: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Return int64 [N]: how many numbers each range has in common with `start .. stop - 1`."""
    return np.maximum(np.minimum(ends, stop) - np.maximum(starts, start), 0)


def loose_share(done: Consumption, serials: RunSerials, worker: Worker) -> Share:
    """Return a worker's equal part of each pass's remaining samples if not all of them need to be used."""
    not_begun = Consumption(done.taken, EMPTY_CONSUMPTION.begun, EMPTY_CONSUMPTION.uses_left)
    mine = slice(worker.rank, None, worker.count)
    fresh = exact_share(not_begun, serials, 1, worker, num_uses=serials.count).fresh
    return Share(fresh, done.begun[mine], done.uses_left[mine])


def step_share(done: Consumption, serials: RunSerials, batch_size: int, worker: Worker) -> Share:
    """Return a worker's share if step `t` uses the `t`-th block of `batch_size * worker.count` serials.

    If each sample is used once, steps then have the same samples for any number of workers.
    """
    mine = done.begun // batch_size % worker.count == worker.rank
    fresh = serials.fresh(done).strided(batch_size, worker.rank, worker.count)
    return Share(fresh, done.begun[mine], done.uses_left[mine])


class Ledger:
    """Samples that one worker has used of its share, by completed optimization steps."""

    def __init__(self, share: Share, least_uses: int, most_uses: int) -> None:
        """Start from a share, whose begun samples count as taken; uses are bounds per sample."""
        self.least_uses = least_uses
        self.most_uses = most_uses
        self.taken = IndexSet.of(share.begun)
        self.arrived: list[np.ndarray] = []
        """Arrived serials not yet merged into `taken`: merging at every arrival would get slower and slower."""

        self.dropped: set[int] = set()
        """Evicted serials to forget once pending steps have brought them to `least_uses`."""

        self.left = dict(zip(share.begun.tolist(), share.uses_left.tolist(), strict=True))

    def uses_left(self, serials: np.ndarray) -> np.ndarray:
        """Return the remaining uses of each serial, int32 [N]."""
        return np.array([self.left.get(serial, self.most_uses) for serial in serials.tolist()], dtype=np.int32)

    def take(self, serials: np.ndarray) -> None:
        """Record samples that have arrived."""
        self.arrived.append(serials)
        for serial in serials.tolist():
            self.left.setdefault(serial, self.most_uses)

    def use(self, serials: np.ndarray) -> None:
        """Record one use of each serial by a completed step."""
        for serial in serials.tolist():
            if serial in self.left:  # not if it was dropped meanwhile
                self.left[serial] -= 1
                if self.left[serial] == 0 or (serial in self.dropped and self._has_been_used(serial)):
                    self._forget(serial)

    def drop(self, serials: np.ndarray) -> None:
        """Record that these serials will not be drawn again; pending steps may still use them."""
        for serial in serials.tolist():
            if self._has_been_used(serial):
                self._forget(serial)
            else:
                self.dropped.add(serial)

    def _has_been_used(self, serial: int) -> bool:
        return self.most_uses - self.left[serial] >= self.least_uses

    def _forget(self, serial: int) -> None:
        del self.left[serial]
        self.dropped.discard(serial)

    def state(self) -> Consumption:
        """Return this worker's contribution to the run's state."""
        self.taken |= IndexSet.of(np.concatenate([np.zeros(0, np.int64), *self.arrived]))
        self.arrived = []
        return Consumption(
            self.taken, np.fromiter(self.left.keys(), np.int64), np.fromiter(self.left.values(), np.int32)
        )


def merged(before: Consumption, of_workers: Sequence[Consumption]) -> Consumption:
    """Return the run's state: `before`, when the workers started, plus the state of each worker."""
    taken = before.taken
    left: dict[int, int] = {}
    for state in of_workers:
        taken |= state.taken
        for serial, uses in zip(state.begun.tolist(), state.uses_left.tolist(), strict=True):
            left[serial] = left.get(serial, 0) + uses  # two workers have begun a sample at a border
    return Consumption(taken, np.fromiter(left.keys(), np.int64), np.fromiter(left.values(), np.int32))
