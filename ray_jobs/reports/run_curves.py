"""The curves of a run's page, from the rows of spent.csv. Numbers in, points out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from ray_jobs.monitor.spent import ZERO, SpentRow

MAX_POINTS = 300
"""Points per line; between two of them, losses are averaged."""

MAX_RATES, RATE_SECONDS = 100, 5.0
"""Rates are means over a hundredth of the run, at least 5 s: over less, whole batches make them jump."""

Points = list[tuple[float, float]]
"""Seconds of the run, and a value."""


@dataclass(frozen=True)
class Curve:
    """One small plot over the time of the run."""

    title: str
    lines: dict[str, Points]
    is_fraction: bool = False


def curves_of(rows: Sequence[SpentRow]) -> list[Curve]:
    """Return the curves that the rows have data for; nothing of generators if they generated nothing."""
    has_pool = rows[-1].num_generated > 0
    per_second = {"generated": rates(rows, lambda row: row.num_generated)} if has_pool else {}
    per_second["trained on"] = rates(rows, lambda row: row.num_trained)
    waiting = rates(rows, lambda row: row.waiting_seconds, lambda row: row.learning_seconds)
    found = [
        Curve("training loss", {"loss": mean_losses(rows)}),
        Curve("held-out top-1", {"top-1": held_out_points(rows)}, is_fraction=True),
        Curve("images per second", per_second),
        Curve("share of training time spent waiting for images", {"waiting": waiting}, is_fraction=True),
        Curve("generator actors running", {"actors": actor_points(rows) if has_pool else []}),
    ]
    return [curve for curve in found if any(curve.lines.values())]


def rates(
    rows: Sequence[SpentRow],
    amount: Callable[[SpentRow], float],
    per: Callable[[SpentRow], float] = lambda row: row.seconds,
) -> Points:
    """Return the increase of one total per increase of another: a level piece per interval, by its two ends.

    A total that falls because a run was resumed counts as level; intervals in which `per` does not grow are left out.
    """
    ends = [ZERO, *(part[-1] for part in intervals(rows, MAX_RATES, RATE_SECONDS))]
    points: Points = []
    for before, after in pairwise(ends):
        if (grown := per(after) - per(before)) > 0:
            rate = max(0.0, amount(after) - amount(before)) / grown
            points += [(before.seconds, rate), (after.seconds, rate)]
    return points


def mean_losses(rows: Sequence[SpentRow]) -> Points:
    """Return the mean loss of each interval at the time of its last row."""
    parts = intervals([row for row in rows if row.loss is not None], MAX_POINTS)
    return [(part[-1].seconds, sum(row.loss or 0.0 for row in part) / len(part)) for part in parts]


def epoch_ends(rows: Sequence[SpentRow]) -> list[SpentRow]:
    """Return the rows at the ends of epochs."""
    return [after for before, after in pairwise([ZERO, *rows]) if after.epoch > before.epoch]


def held_out_points(rows: Sequence[SpentRow]) -> Points:
    """Return the accuracy at the end of each epoch."""
    return [(row.seconds, row.held_out_top1) for row in epoch_ends(rows) if row.held_out_top1 is not None]


def actor_points(rows: Sequence[SpentRow]) -> Points:
    """Return the number of actors at the last row of each interval."""
    ends = (part[-1] for part in intervals(rows, MAX_POINTS))
    return [(row.seconds, row.num_actors) for row in ends if row.num_actors is not None]


def intervals(rows: Sequence[SpentRow], most: int, least_seconds: float = 0.0) -> list[list[SpentRow]]:
    """Return the rows by intervals of equal length: at most `most`, each of `least_seconds` or more."""
    total = rows[-1].seconds if rows else 0.0
    num = max(1, min(most, int(total / least_seconds))) if least_seconds else most

    def interval_of(row: SpentRow) -> int:
        return min(num - 1, int(row.seconds / max(total, 1e-9) * num))

    return [list(part) for _, part in groupby(rows, interval_of)]
