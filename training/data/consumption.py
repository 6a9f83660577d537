"""What a run has used of its samples, what is left, and which worker takes what: part of every checkpoint.

A sample in a pass has a serial number (see `generation.indices.Wanted`). It is used `reuse` times, and no image is
kept to remember that: whoever goes on asks for the same serials again. Knows numbers, and neither images nor files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from generation.indices import EMPTY, IndexSet


@dataclass(frozen=True)
class Consumption:
    """The state of a run between two optimisation steps."""

    taken: IndexSet
    """Serials that have come to a worker, whether they are used up or not."""

    begun: np.ndarray
    """int64 [K]: those among them that may still be used, in the order in which they arrived."""

    uses_left: np.ndarray
    """int32 [K]: how often each may."""

    def to_checkpoint(self) -> dict[str, torch.Tensor]:
        """Return plain tensors: 16 bytes a range, 12 bytes a sample that is begun."""
        ranges = np.stack([self.taken.starts, self.taken.stops], axis=1)
        columns = {"taken": ranges, "begun": self.begun, "uses_left": self.uses_left}
        return {name: torch.from_numpy(np.ascontiguousarray(column)) for name, column in columns.items()}

    @staticmethod
    def from_checkpoint(saved: dict[str, Any]) -> "Consumption":
        """Return what `to_checkpoint` wrote."""
        ranges = saved["taken"].numpy()
        return Consumption(IndexSet(ranges[:, 0], ranges[:, 1]), saved["begun"].numpy(), saved["uses_left"].numpy())


EMPTY_CONSUMPTION = Consumption(EMPTY, np.zeros(0, np.int64), np.zeros(0, np.int32))
"""The state of a run before its first step."""


@dataclass(frozen=True)
class Share:
    """What one worker takes of the rest of a run."""

    fresh: IndexSet
    """Serials that are new."""

    begun: np.ndarray
    """int64 [K]: serials of which some uses are left."""

    uses_left: np.ndarray
    """int32 [K]."""

    @property
    def serials(self) -> IndexSet:
        """All serials to ask for."""
        return self.fresh | IndexSet.of(self.begun)


@dataclass(frozen=True)
class Worker:
    """Who takes a share: `rank` of `count`."""

    rank: int
    count: int

    def part(self, before: int, until: int) -> tuple[int, int]:
        """Return where its part of the numbers from `before` to `until - 1` starts and stops, counted from `before`.

        Of all numbers below any border, all workers have equally many, or the first ones one more.
        """
        start, stop = (
            rank * (until // self.count) + min(rank, until % self.count)
            - rank * (before // self.count) - min(rank, before % self.count)
            for rank in (self.rank, self.rank + 1)
        )  # fmt: skip
        return start, stop


@dataclass(frozen=True)
class RunSerials:
    """All serials of a run."""

    count: int
    num_samples: int
    """In a pass."""

    def fresh(self, done: Consumption) -> IndexSet:
        """Return those that have not come yet."""
        return IndexSet.of_ranges([range(self.count)]) - done.taken


def exact_share(done: Consumption, serials: RunSerials, reuse: int, worker: Worker, num_uses: int) -> Share:
    """Return a worker's share where each sample is used `reuse` times in each pass, and all workers need `num_uses`.

    All uses that are left stand in rows: those of samples that are begun, then those of each pass. Of each row every
    worker takes an equal part, one after another, so that nobody is a pass ahead, whose samples others are to make. A
    sample at a border is shared: each of two workers has a part of its uses.
    """
    ends = np.cumsum(done.uses_left, dtype=np.int64)
    num_given = min(int(ends[-1]) if len(ends) else 0, num_uses)
    mine = _overlaps(ends - done.uses_left, ends, *worker.part(0, num_given))
    begun, uses_left = [done.begun[mine > 0]], [mine[mine > 0]]
    whole = [EMPTY]
    for number, fresh in serials.fresh(done).sections(serials.num_samples):
        until = min(num_given + len(fresh) * reuse, num_uses)
        start, stop = worker.part(num_given, until)
        borders = np.unique([start // reuse, stop // reuse])
        mine = _overlaps(borders * reuse, (borders + 1) * reuse, start, stop)
        is_shared = (mine > 0) & (mine < reuse)
        begun.append(fresh.at(borders[is_shared]) + number * serials.num_samples)
        uses_left.append(mine[is_shared])
        whole.append(fresh.part(-(-start // reuse), stop // reuse).moved(number * serials.num_samples))
        num_given = until
    starts, stops = (np.concatenate([getattr(part, name) for part in whole]) for name in ("starts", "stops"))
    return Share(
        fresh=IndexSet(starts, stops) | EMPTY,
        begun=np.concatenate(begun).astype(np.int64),
        uses_left=np.concatenate(uses_left).astype(np.int32),
    )


def _overlaps(starts: np.ndarray, ends: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Return int64 [N]: how many numbers of each range are among those from `start` to `stop - 1`."""
    return np.maximum(np.minimum(ends, stop) - np.maximum(starts, start), 0)


def loose_share(done: Consumption, serials: RunSerials, worker: Worker) -> Share:
    """Return an equal part of each pass's samples that are left, where nobody has to use all of them."""
    not_begun = Consumption(done.taken, EMPTY_CONSUMPTION.begun, EMPTY_CONSUMPTION.uses_left)
    mine = slice(worker.rank, None, worker.count)
    fresh = exact_share(not_begun, serials, 1, worker, num_uses=serials.count).fresh
    return Share(fresh, done.begun[mine], done.uses_left[mine])


def step_share(done: Consumption, serials: RunSerials, batch_size: int, worker: Worker) -> Share:
    """Return a worker's share where the `t`-th `batch_size * worker.count` serials are those of step `t`.

    Then a step is of the same samples, whatever the number of workers, if each is used once.
    """
    mine = done.begun // batch_size % worker.count == worker.rank
    fresh = serials.fresh(done).every(batch_size, worker.rank, worker.count)
    return Share(fresh, done.begun[mine], done.uses_left[mine])


class Ledger:
    """What one worker has used of its share, as far as its optimisation steps are done."""

    def __init__(self, share: Share, least_uses: int, most_uses: int) -> None:
        """Take the share, of which what is begun counts as taken, and how often a sample is used at least and most."""
        self.least_uses = least_uses
        self.most_uses = most_uses
        self.taken = IndexSet.of(share.begun)
        self.arrived: list[np.ndarray] = []
        """Serials that are not in `taken` yet: to unite sets each time would take longer and longer."""

        self.dropped: set[int] = set()
        """Those that go when the steps under way have used them often enough."""

        self.left = dict(zip(share.begun.tolist(), share.uses_left.tolist(), strict=True))

    def uses_left(self, serials: np.ndarray) -> np.ndarray:
        """Return how often each of these may be used, int32."""
        return np.array([self.left.get(serial, self.most_uses) for serial in serials.tolist()], dtype=np.int32)

    def take(self, serials: np.ndarray) -> None:
        """Note samples that have come."""
        self.arrived.append(serials)
        for serial in serials.tolist():
            self.left.setdefault(serial, self.most_uses)

    def use(self, serials: np.ndarray) -> None:
        """Note that a step has used each of these once."""
        for serial in serials.tolist():
            if serial in self.left:  # one that was dropped meanwhile is not
                self.left[serial] -= 1
                if self.left[serial] == 0 or (serial in self.dropped and self._has_been_used(serial)):
                    self._forget(serial)

    def drop(self, serials: np.ndarray) -> None:
        """Note that these are drawn no more; steps under way may still use them."""
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
        """Return what this worker adds to the run's state."""
        self.taken |= IndexSet.of(np.concatenate([np.zeros(0, np.int64), *self.arrived]))
        self.arrived = []
        return Consumption(
            self.taken, np.fromiter(self.left.keys(), np.int64), np.fromiter(self.left.values(), np.int32)
        )


def merged(before: Consumption, of_workers: Sequence[Consumption]) -> Consumption:
    """Return the run's state: what was taken before the workers began, and what they have taken and begun."""
    taken = before.taken
    left: dict[int, int] = {}
    for state in of_workers:
        taken |= state.taken
        for serial, uses in zip(state.begun.tolist(), state.uses_left.tolist(), strict=True):
            left[serial] = left.get(serial, 0) + uses  # a sample at a border is begun by two
    return Consumption(taken, np.fromiter(left.keys(), np.int64), np.fromiter(left.values(), np.int32))
