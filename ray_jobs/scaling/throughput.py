"""Throughput from the arrival times of batches: rates, reaction to a step, lost capacity.

Works on numbers only. Times are in ascending seconds from any origin.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from generation.indices import IndexSet

STEADY_FROM, STEADY_UNTIL = 0.1, 0.9
"""Fractions of all images between which the rate is steady: before, buffers fill; after, actors run out of work."""


@dataclass(frozen=True)
class Deliveries:
    """The batches delivered to the trainer."""

    delivered_at: np.ndarray
    """float64 [N]: arrival times, ascending."""

    nums: np.ndarray
    """int64 [N]: number of images in each batch."""

    waiting_seconds: np.ndarray
    """float64 [N]: waiting time of the trainer for each batch."""

    def num_between(self, start: float, stop: float) -> int:
        """Return the number of images delivered after `start` and no later than `stop`."""
        first, last = np.searchsorted(self.delivered_at, [start, stop], side="right")
        return int(self.nums[first:last].sum())

    def rate_between(self, start: float, stop: float) -> float:
        """Return images per second between two times."""
        return self.num_between(start, stop) / (stop - start)

    def waiting_fraction(self, start: float, stop: float) -> float:
        """Return the trainer's waiting time for the batches delivered between two times, as a fraction of it, 0..1."""
        waited = self.waiting_seconds[(self.delivered_at > start) & (self.delivered_at <= stop)].sum()
        return min(1.0, float(waited) / (stop - start))

    def mean_rate(self) -> float:
        """Return images per second since the first batch, which is not counted; 0 for a single batch."""
        return self.rate_between(self.delivered_at[0], self.delivered_at[-1]) if len(self.nums) > 1 else 0.0

    def steady_rate(self) -> float:
        """Return images per second in the steady part: the slope of a straight line fitted to the count over time.

        Generators that start together deliver in bursts; a count between two times would depend on where in a burst
        they fall, the slope hardly does.
        """
        totals = np.cumsum(self.nums)
        is_steady = (totals >= STEADY_FROM * totals[-1]) & (totals <= STEADY_UNTIL * totals[-1])
        if is_steady.sum() < 2:
            return self.mean_rate()
        times = self.delivered_at[is_steady]
        return float(np.polyfit(times - times.mean(), totals[is_steady], 1)[0])

    def rates(self, start: float, stop: float, window_seconds: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the ends of adjacent windows from `start` to `stop` at the latest, and images per second in each."""
        ends = np.arange(start + window_seconds, stop + 1e-9, window_seconds)
        return ends, np.array([self.rate_between(end - window_seconds, end) for end in ends])


@dataclass(frozen=True)
class Exactness:
    """Counts of requested samples, and of those lost and duplicated."""

    num_images: int
    num_lost: int
    num_doubled: int

    @staticmethod
    def of(indices: np.ndarray, num_images: int) -> "Exactness":
        """Return the counts for delivered `indices`, in any order; 0 to `num_images - 1` were requested once each."""
        num_distinct = len(IndexSet.of(indices) & IndexSet.of_ranges([range(num_images)]))
        return Exactness(num_images, num_images - num_distinct, len(indices) - num_distinct)

    @property
    def problems(self) -> list[str]:
        """The kinds of wrong delivery, one line each; empty if each sample was delivered once."""
        found = {"lost": self.num_lost, "duplicated": self.num_doubled}
        return [f"{number:,} of {self.num_images:,} samples were {what}" for what, number in found.items() if number]

    def __str__(self) -> str:
        return f"{self.num_images:,}, {self.num_lost}, {self.num_doubled}"


def reaction_seconds(deliveries: Deliveries, start: float, stop: float, rate: float, window_seconds: float) -> float:
    """Return the time from `start` until images arrive at `rate` or faster and do so until `stop`; infinity for never.

    Rates are measured in windows that begin at each batch and at `start`.
    """
    begins = np.concatenate([[start], deliveries.delivered_at])
    begins = begins[(begins >= start) & (begins <= stop - window_seconds)]
    is_slow = np.array([deliveries.rate_between(begin, begin + window_seconds) < rate for begin in begins], bool)
    first = int(np.flatnonzero(is_slow)[-1]) + 1 if is_slow.any() else 0
    return float(begins[first] - start) if first < len(begins) else float("inf")


@dataclass(frozen=True)
class Outage:
    """A period in which actors produced nothing."""

    began_at: float
    ended_at: float
    num_actors: int
    """Number of idle generator actors; all of them in an outage of the trainer."""


def lost_fraction(outages: Sequence[Outage], num_actors: int, start: float, stop: float) -> float:
    """Return the fraction of the pool's capacity lost to outages between two times, 0..1.

    Overlapping outages add up to at most all actors.
    """
    borders = {start, stop} | {at for outage in outages for at in (outage.began_at, outage.ended_at)}
    inside = sorted(at for at in borders if start <= at <= stop)
    lost = 0.0
    for begin, end in pairwise(inside):
        num_out = sum(outage.num_actors for outage in outages if outage.began_at <= begin and outage.ended_at >= end)
        lost += min(num_out, num_actors) * (end - begin)
    return lost / (num_actors * (stop - start))


def actor_outages(lost_at: Sequence[tuple[float, int]], loaded_at: Sequence[float], stop: float) -> list[Outage]:
    """Return the outage of each lost actor; the actor lost first is replaced first.

    `lost_at` has times and numbers of lost actors, `loaded_at` the times at which a replacement was running. Without a
    replacement the outage ends at `stop`.
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
    """Return the time integral of a number; each (time, number) holds until the next one, the last until `stop`."""
    ends = [*(at for at, _ in moments[1:]), stop]
    return sum(num * (end - at) for (at, num), end in zip(moments, ends, strict=True))
