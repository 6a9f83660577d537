"""How fast images came, from the moments at which they did: rates, reaction to a step, capacity that was lost.

Plain numbers: knows no cluster and no clock. Moments are seconds since anything, ascending.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from generation.indices import IndexSet

STEADY_FROM, STEADY_UNTIL = 0.1, 0.9
"""Shares of the images between which the rate is steady: before, the stream fills up; after, actors run out of work."""


@dataclass(frozen=True)
class Deliveries:
    """Images that came, batch by batch."""

    came_at: np.ndarray
    """float64 [N], ascending."""

    nums: np.ndarray
    """int64 [N]: how many images each batch has."""

    waiting_seconds: np.ndarray
    """float64 [N]: how long the trainer waited for each batch."""

    def num_between(self, start: float, stop: float) -> int:
        """Return how many images came after `start`, and until `stop`."""
        first, last = np.searchsorted(self.came_at, [start, stop], side="right")
        return int(self.nums[first:last].sum())

    def rate_between(self, start: float, stop: float) -> float:
        """Return images a second."""
        return self.num_between(start, stop) / (stop - start)

    def waiting_fraction(self, start: float, stop: float) -> float:
        """Return the share of the time between two moments that the trainer waited for what came in it, up to 1."""
        waited = self.waiting_seconds[(self.came_at > start) & (self.came_at <= stop)].sum()
        return min(1.0, float(waited) / (stop - start))

    def mean_rate(self) -> float:
        """Return images a second from the first batch on, which is not counted; 0 for one batch."""
        return self.rate_between(self.came_at[0], self.came_at[-1]) if len(self.nums) > 1 else 0.0

    def steady_rate(self) -> float:
        """Return images a second in the steady part: the slope of the straight line nearest to their number in time.

        Generators that began together deliver together; a number between two moments depends on where in a
        beat these are, the slope hardly does.
        """
        totals = np.cumsum(self.nums)
        is_steady = (totals >= STEADY_FROM * totals[-1]) & (totals <= STEADY_UNTIL * totals[-1])
        if is_steady.sum() < 2:
            return self.mean_rate()
        times = self.came_at[is_steady]
        return float(np.polyfit(times - times.mean(), totals[is_steady], 1)[0])

    def rates(self, start: float, stop: float, window_seconds: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the ends of adjacent windows, of which the last ends at `stop` or before, and the rate in each."""
        ends = np.arange(start + window_seconds, stop + 1e-9, window_seconds)
        return ends, np.array([self.rate_between(end - window_seconds, end) for end in ends])


@dataclass(frozen=True)
class Exactness:
    """Whether each wanted sample came once."""

    num_images: int
    num_lost: int
    num_doubled: int

    @staticmethod
    def of(indices: np.ndarray, num_images: int) -> "Exactness":
        """Return that of samples that came, in any order, where those from 0 to `num_images - 1` were wanted."""
        num_distinct = len(IndexSet.of(indices) & IndexSet.of_ranges([range(num_images)]))
        return Exactness(num_images, num_images - num_distinct, len(indices) - num_distinct)

    @property
    def faults(self) -> list[str]:
        """What is wrong, a line each."""
        found = {"lost": self.num_lost, "doubled": self.num_doubled}
        return [f"{number:,} of {self.num_images:,} samples were {what}" for what, number in found.items() if number]

    def __str__(self) -> str:
        return f"{self.num_images:,}, {self.num_lost}, {self.num_doubled}"


def reaction_seconds(deliveries: Deliveries, start: float, stop: float, rate: float, window_seconds: float) -> float:
    """Return how long after `start` images came at a rate, and went on to until `stop`; infinity for never.

    The rate is that of a window that begins at a batch, or at `start`.
    """
    begins = np.concatenate([[start], deliveries.came_at])
    begins = begins[(begins >= start) & (begins <= stop - window_seconds)]
    is_slow = np.array([deliveries.rate_between(begin, begin + window_seconds) < rate for begin in begins], bool)
    first = int(np.flatnonzero(is_slow)[-1]) + 1 if is_slow.any() else 0
    return float(begins[first] - start) if first < len(begins) else float("inf")


@dataclass(frozen=True)
class Outage:
    """Something that did not work for a while."""

    began_at: float
    ended_at: float
    num_actors: int
    """Generator actors that were out of work; of a trainer's outage, all."""


def lost_fraction(outages: Sequence[Outage], num_actors: int, start: float, stop: float) -> float:
    """Return the share of a pool's capacity between two moments that outages took, 0..1; at most all at a time."""
    borders = {start, stop} | {at for outage in outages for at in (outage.began_at, outage.ended_at)}
    inside = sorted(at for at in borders if start <= at <= stop)
    lost = 0.0
    for begin, end in pairwise(inside):
        num_out = sum(outage.num_actors for outage in outages if outage.began_at <= begin and outage.ended_at >= end)
        lost += min(num_out, num_actors) * (end - begin)
    return lost / (num_actors * (stop - start))


def actor_outages(lost_at: Sequence[tuple[float, int]], loaded_at: Sequence[float], stop: float) -> list[Outage]:
    """Return how long each lost actor was missed: the first to be lost is the first to be replaced.

    Takes moments with how many were lost, and those at which another was up; one that never was is missed until `stop`.
    """
    lost = [at for at, num in sorted(lost_at) for _ in range(num)]
    replaced, outages = sorted(loaded_at), []
    for began_at in lost:
        later = [at for at in replaced if at >= began_at]
        if later:
            replaced.remove(later[0])
        outages.append(Outage(began_at, later[0] if later else stop, 1))
    return outages


def held_seconds(moments: Sequence[tuple[float, int]], stop: float) -> float:
    """Return for how long something was held in all: from each moment on so many of it, until the next, or `stop`."""
    ends = [*(at for at, _ in moments[1:]), stop]
    return sum(num * (end - at) for (at, num), end in zip(moments, ends, strict=True))
