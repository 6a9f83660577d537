"""The figures of an experiment: accuracy over what was spent, and the Pareto plot."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from evaluation.pages.plots import curve_figure, pareto_figure
from ray_jobs.reports.experiment_results import BUDGETS, Results, Values, interval_of

CURVES = {**BUDGETS, "num_trained": "images trained on"}


def figures_of(results: Results) -> dict[str, Figure]:
    """Return the figures that there are data for, by their files' names."""
    kind = curve_kind(results)
    curves = {arm: mean_curve([getattr(each, kind) for each in results.of_arm(arm)]) for arm in results.arms}
    figures = {}
    for name, title in CURVES.items():
        lines = [(arm, [row[name] for row in rows], rows) for arm, rows in curves.items() if rows and rows[-1][name]]
        if lines:
            accuracy = "top-1 on real images" if kind == "real" else "top-1 on held-out samples"
            figures[f"top1_over_{name}"] = curve_figure(lines, title, accuracy)
    points, front = results.front
    if points:
        values = {arm: list(results.by_seed(arm, results.accuracies[0]).values()) for arm in points}
        rows = {arm: {"top1": fmean(top1), "top1_interval": interval_of("top1", top1)} for arm, top1 in values.items()}
        drawn = {arm: (cost, rows[arm]) for arm, (cost, _) in points.items()}
        figures["pareto"] = pareto_figure(drawn, front, "generator device-seconds per image")
    return figures


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
