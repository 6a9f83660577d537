"""What a run has used of its samples, what is left, and which worker takes what: part of every checkpoint.

A sample's turn is its serial number: `lap * samples_in_a_lap + index`. It is used `reuse` times, and no image is kept
to remember that: whoever goes on asks for the same serials again. Knows numbers, and neither images nor files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from generation.indices import NOTHING, IndexSet


@dataclass(frozen=True)
class Consumption:
    """The state of a run between two optimisation steps."""

    taken: IndexSet
    """Serials that have come to a worker, whether they are used up or not."""

    begun: np.ndarray
    """int64 [K]: those among them that may still be used, in the order in which they came."""

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


NOT_BEGUN = Consumption(NOTHING, np.zeros(0, np.int64), np.zeros(0, np.int32))
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
class Workers:
    """Who shares, and how: `rank` of `count`."""

    rank: int
    count: int
    uses_each: int
    """Uses that each worker needs until the end of the run: its share of all steps that are left."""


def exact_share(done: Consumption, num_serials: int, reuse: int, workers: Workers) -> Share:
    """Return a worker's share where each serial below `num_serials` is used `reuse` times in all.

    All uses that are left stand in a row, those of samples that are begun first; each worker takes as many as the
    others, one after another. A sample at a border is shared: each of two workers has a part of its uses.
    """
    start, stop = workers.rank * workers.uses_each, (workers.rank + 1) * workers.uses_each
    ends = np.cumsum(done.uses_left, dtype=np.int64)
    overlap = np.minimum(ends, stop) - np.maximum(ends - done.uses_left, start)
    mine = overlap > 0
    begun, uses_left = [done.begun[mine]], [overlap[mine]]
    fresh = IndexSet.of_ranges([range(num_serials)]) - done.taken
    num_begun_uses = int(ends[-1]) if len(ends) else 0
    start, stop = max(0, start - num_begun_uses), max(0, stop - num_begun_uses)
    first, last = -(-start // reuse), stop // reuse  # positions of samples that are this worker's alone
    if first > last:  # both borders lie in one sample
        begun.append(fresh.at(np.array([last])))
        uses_left.append(np.array([stop - start]))
    else:
        for position, uses in ((first - 1, first * reuse - start), (last, stop - last * reuse)):
            if uses:
                begun.append(fresh.at(np.array([position])))
                uses_left.append(np.array([uses]))
    return Share(
        fresh=fresh.part(first, last),
        begun=np.concatenate(begun).astype(np.int64),
        uses_left=np.concatenate(uses_left).astype(np.int32),
    )


def step_share(done: Consumption, num_serials: int, batch_size: int, workers: Workers) -> Share:
    """Return a worker's share where step `t` of all workers together takes the serials that are next, each once.

    Then a step is of the same samples, whatever the number of workers.
    """
    fresh = IndexSet.of_ranges([range(num_serials)]) - done.taken
    mine = slice(workers.rank, None, workers.count)
    return Share(fresh.every(batch_size, workers.rank, workers.count), done.begun[mine], done.uses_left[mine])


def loose_share(done: Consumption, num_serials: int, workers: Workers) -> Share:
    """Return an equal part of the serials that are left, where nobody has to use all of them."""
    fresh = IndexSet.of_ranges([range(num_serials)]) - done.taken
    bounds = [len(fresh) * rank // workers.count for rank in (workers.rank, workers.rank + 1)]
    mine = slice(workers.rank, None, workers.count)
    return Share(fresh.part(*bounds), done.begun[mine], done.uses_left[mine])


class Ledger:
    """What one worker has used of its share, as far as its optimisation steps are done."""

    def __init__(self, share: Share) -> None:
        """Take the share: what is begun in it counts as taken."""
        self.taken = IndexSet.of(share.begun)
        self.left = dict(zip(share.begun.tolist(), share.uses_left.tolist(), strict=True))

    def take(self, serials: np.ndarray, most_uses: int) -> np.ndarray:
        """Note samples that have come; return how often each may be used, int32."""
        self.taken |= IndexSet.of(serials)
        return np.array([self.left.setdefault(serial, most_uses) for serial in serials.tolist()], dtype=np.int32)

    def use(self, serials: np.ndarray) -> None:
        """Note that a step has used each of these once."""
        for serial in serials.tolist():
            if serial in self.left:  # one that was dropped meanwhile is not
                self.left[serial] -= 1
                if self.left[serial] == 0:
                    del self.left[serial]

    def drop(self, serials: np.ndarray) -> None:
        """Note that these are not used any more."""
        for serial in serials.tolist():
            self.left.pop(serial, None)

    def state(self) -> Consumption:
        """Return what this worker adds to the run's state."""
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
