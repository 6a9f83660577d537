"""The numbers of an experiment: measures of each learner, statistics of its arms. Reads runs' folders."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np

from evaluation.metrics.intervals import student_interval
from evaluation.metrics.paired import PairedTest, holm, paired_test, pareto_front, verdict
from evaluation.result import Interval
from ray_jobs.cli.config import Prices
from ray_jobs.monitor.spent import SPENT_FILE, read_spent
from ray_jobs.reports.run_curves import epoch_ends

BUDGETS = {"num_images": "images generated", "generation_device_seconds": "generator device-seconds"}
"""Measures at which arms are ranked, and their titles."""

NEAR_FRACTION = 0.05
"""A final accuracy counts for a budget that differs from what was spent by up to this fraction."""

FROM_SUMMARY = ("held_out_top1", "time_to_first_batch_seconds")

Values = dict[str, float]
"""Numbers by measure; those on real images are named `top1/SET` and `transfer/SET`."""


Status = Literal["finished", "stopped early", "failed", "missing"]


@dataclass(frozen=True)
class LearnerRecord:
    """One learner of an experiment: an arm with a seed."""

    arm: str
    seed: int
    folder: str
    """Its run's folder, relative to that of the experiment."""

    status: Status
    overrides: tuple[str, ...] = ()
    summary: Mapping[str, Any] | None = None
    """Content of its summary.json."""


@dataclass(frozen=True)
class LearnerResult:
    """A finished learner's numbers."""

    record: LearnerRecord
    measures: Values
    held_out: list[Values]
    """Top-1 on held-out samples after each epoch, beside `num_trained` and the measures in `BUDGETS`."""

    real: list[Values]
    """The same on the first real set, of checkpoints that `figment evaluate` has evaluated and at the run's end."""


@dataclass(frozen=True)
class Comparison:
    """A paired test of two arms on one set of real images."""

    arm: str
    other: str
    measure: str
    test: PairedTest
    corrected_p: float | None
    """Corrected for the number of comparisons in the experiment; None for a single seed."""

    @property
    def verdict(self) -> str:
        """Return the first arm's verdict; `-` if nothing is tested."""
        return "-" if self.corrected_p is None else verdict(self.test.difference, self.corrected_p)


@dataclass(frozen=True)
class Results:
    """All arms, and their learners that finished."""

    arms: list[str]
    learners: list[LearnerResult]
    pairs: Sequence[tuple[str, str]]
    """Arms to compare: the first with the second."""

    @cached_property
    def measures(self) -> list[str]:
        """Names of all measures."""
        return list(dict.fromkeys(name for learner in self.learners for name in learner.measures))

    @property
    def accuracies(self) -> list[str]:
        """Names of the accuracies on real images; the first ranks the arms."""
        return [name for name in self.measures if "/" in name]

    def of_arm(self, arm: str) -> list[LearnerResult]:
        """Return an arm's learners."""
        return [learner for learner in self.learners if learner.record.arm == arm]

    def by_seed(self, arm: str, measure: str) -> dict[int, float]:
        """Return an arm's values by seed."""
        found = ((learner.record.seed, learner.measures.get(measure)) for learner in self.of_arm(arm))
        return {seed: value for seed, value in found if value is not None}

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """The paired tests of all pairs on all real sets, corrected together."""
        found = [
            (arm, other, measure, paired_test(gains))
            for arm, other in self.pairs
            for measure in self.accuracies
            if (gains := differences(self.by_seed(arm, measure), self.by_seed(other, measure)))
        ]
        corrected = iter(holm([test.p_value for *_, test in found if test.p_value is not None]))
        return [Comparison(*each, None if each[-1].p_value is None else next(corrected)) for each in found]

    def ranking(self, budget: str) -> tuple[float, dict[str, dict[int, float]]]:
        """Return the budget that every learner spent, and by arm its top-1 there by seed, best first.

        Arms are left out that have no generators, or an unknown accuracy at that budget.
        """
        learners = [each for each in self.learners if each.real and each.real[-1][budget] > 0]
        common = min((each.real[-1][budget] for each in learners), default=0.0)
        found: dict[str, dict[int, float]] = {}
        for each in learners:
            found.setdefault(each.record.arm, {})[each.record.seed] = accuracy_at(each.real, budget, common)
        known = {arm: top1 for arm, top1 in found.items() if not any(map(math.isnan, top1.values()))}
        return common, dict(sorted(known.items(), key=lambda item: -fmean(item[1].values())))

    @cached_property
    def front(self) -> tuple[dict[str, tuple[float, float]], list[str]]:
        """Each arm's mean device-seconds per image and top-1 on the first real set, and the arms on the front."""
        names = ("device_seconds_per_image", *self.accuracies[:1])
        values = {arm: [self.by_seed(arm, name).values() for name in names] for arm in self.arms}
        points = {arm: (fmean(of[0]), fmean(of[1])) for arm, of in values.items() if len(of) == 2 and all(of)}
        return points, [list(points)[i] for i in pareto_front(list(points.values()))]


def differences(values: Mapping[int, float], others: Mapping[int, float]) -> list[float]:
    """Return the differences for the seeds that both have."""
    return [values[seed] - others[seed] for seed in values if seed in others]


def accuracy_at(points: Sequence[Values], budget: str, spent: float) -> float:
    """Return top-1 at a budget, linear between points; NaN before the first and after the last, unless near."""
    xs = [point[budget] for point in points]
    if not (1 - NEAR_FRACTION) * xs[0] <= spent <= (1 + NEAR_FRACTION) * xs[-1]:
        return math.nan
    return float(np.interp(spent, xs, [point["top1"] for point in points]))


def curve_kind(results: Results) -> str:
    """Return `real` if checkpoints of each learner were evaluated on real images, else `held_out`."""
    return "real" if all(len(learner.real) > 1 for learner in results.learners) else "held_out"


def mean_curve(curves: Sequence[Sequence[Values]]) -> list[dict[str, Any]]:
    """Return the mean of each point over seeds, with the range of top-1 as its interval."""
    return [
        {name: fmean(point[name] for point in points) for name in points[0]}
        | {"top1_interval": (min(point["top1"] for point in points), max(point["top1"] for point in points))}
        for points in zip(*curves, strict=False)
    ]


def interval_of(measure: str, values: Sequence[float]) -> Interval | None:
    """Return Student's interval of a mean over seeds, within the measure's possible values; None for one seed."""
    is_fraction = "/" in measure or measure.endswith(("top1", "_fraction"))
    return student_interval(values, 1.0 if is_fraction else math.inf)


def read_results(
    run_dir: Path, records: Sequence[LearnerRecord], pairs: Sequence[tuple[str, str]], prices: Prices
) -> Results:
    """Return the results of the finished learners; without pairs, each arm is compared with the first."""
    arms = list(dict.fromkeys(record.arm for record in records))
    learners = [read_learner(run_dir, record, prices) for record in records if record.status == "finished"]
    return Results(arms, learners, pairs or [(arm, arms[0]) for arm in arms[1:]])


def read_learner(run_dir: Path, record: LearnerRecord, prices: Prices) -> LearnerResult:
    """Return a finished learner's numbers, from its summary and its run's folder."""
    folder, summary = run_dir / record.folder, record.summary or {}
    rows, accuracies = read_spent(folder / SPENT_FILE), real_accuracies(folder)
    last = rows[-1]  # its totals include the jobs before a resume; the summary is of the last job
    accepted_fraction = 1 - sum(summary["num_refused"].values()) / max(1, summary["num_generated"])
    seconds_per_image = summary["generation_device_seconds_per_image"]

    def point(num_trained: float, num_generated: float, top1: float) -> Values:
        num_images = num_generated * accepted_fraction
        spent = {"num_images": num_images, "generation_device_seconds": num_images * seconds_per_image}
        return {"num_trained": num_trained, **spent, "top1": top1}

    main = next(iter(accuracies), "")
    end = point(summary["num_trained"], last.num_generated, accuracies.get(main, math.nan))
    ends = [row for row in epoch_ends(rows) if row.held_out_top1 is not None]
    held_out = [point(row.num_trained, row.num_generated, row.held_out_top1 or 0.0) for row in ends]
    kept = [row for row in accuracy_rows(folder) if f"top1/{row['set']}" == main]
    real = [point(*(float(row[name]) for name in ("num_trained", "num_generated", "top1"))) for row in kept]
    measures = {
        **accuracies,
        **{name: end[name] for name in ("num_trained", *BUDGETS)},
        "device_seconds_per_image": seconds_per_image or None,
        "training_device_seconds": last.training_device_seconds,
        **{name: summary[name] for name in FROM_SUMMARY},
        "waiting_fraction": last.waiting_seconds / max(last.learning_seconds, 1e-9),
        "wall_seconds": last.seconds,
    }
    if last.num_generated and not seconds_per_image:  # the last job had no images to make
        measures["generation_device_seconds"] = None
    elif prices != Prices(currency=prices.currency):
        hours = end["generation_device_seconds"] / 3600, last.training_device_seconds / 3600
        measures["cost"] = prices.of_devices(*hours) + summary.get("stored_bytes", 0) / 1e9 * prices.stored_gb
    known = {name: value for name, value in measures.items() if value is not None}
    real = [each for each in real if each["num_trained"] < end["num_trained"]]
    return LearnerResult(record, known, held_out, [*real, end] if accuracies else [])


def real_accuracies(folder: Path) -> Values:
    """Return top-1 by real set and by transfer set, from the newest evaluation in a run's folder."""
    files = sorted(folder.glob("evaluation*/evaluation.json"), key=lambda path: path.stat().st_mtime_ns)
    evaluation = json.loads(files[-1].read_text()) if files else {"sets": {}}
    kinds = {"top1": evaluation, "transfer": evaluation.get("transfer") or {"sets": {}}}
    return {f"{kind}/{name}": each["top1"] for kind, of_kind in kinds.items() for name, each in of_kind["sets"].items()}


def accuracy_rows(folder: Path) -> list[dict[str, str]]:
    """Return the newest accuracy.csv of a run's checkpoints; empty if they were not evaluated."""
    files = sorted(folder.glob("curve*/accuracy.csv"), key=lambda path: path.stat().st_mtime_ns)
    return list(csv.DictReader(files[-1].read_text().splitlines())) if files else []
