"""Paired tests over seeds, Holm's correction, and the Pareto front. Knows no model and no file."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from evaluation.metrics.intervals import mean_interval
from evaluation.result import Interval

SMALLEST_SPREAD = 1e-12
"""Differences that vary by less vary by rounding only."""


@dataclass(frozen=True)
class PairedTest:
    """Mean difference between two models over the seeds that both were trained with."""

    num_pairs: int
    difference: float
    interval: Interval | None
    """95% interval by Student's t; None for one pair, and for pairs with equal differences."""

    p_value: float | None
    """Two-sided p of the paired t test; None for one pair, and 1 for pairs with equal differences: no spread to test
    against.
    """


def paired_test(differences: Sequence[float]) -> PairedTest:
    """Return the paired t test of differences, one per seed and at least one."""
    from scipy.stats import sem, t  # takes a second to import

    num, mean = len(differences), fmean(differences)
    if num < 2 or max(differences) - min(differences) < SMALLEST_SPREAD:
        return PairedTest(num, mean, None, 1.0 if num > 1 else None)
    p_value = 2 * float(t.sf(abs(mean) / sem(differences), num - 1))
    return PairedTest(num, mean, mean_interval(differences), p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values corrected for their number by Holm (1979), in the given order."""
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = highest
    return corrected


def verdict(difference: float, corrected_p: float) -> str:
    """Return `better` or `worse` if the corrected p is below 0.05, else `not told apart`."""
    if corrected_p >= 0.05:
        return "not told apart"
    return "better" if difference > 0 else "worse"


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the (cost, gain) points than which no other is as cheap and as good, and better in one."""
    return [
        i
        for i, (cost, gain) in enumerate(points)
        if not any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in points)
    ]
