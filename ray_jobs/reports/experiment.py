"""The report of an experiment: results.json, results.csv, arms.csv, report.html, and figures as SVG and PDF."""

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from evaluation.pages.plots import curve_figure, pareto_figure, pdf, svg
from generation.files import write_whole
from ray_jobs.cli.config import JobConfig
from ray_jobs.cli.run_folder import write_anew
from ray_jobs.job.environment import environment
from ray_jobs.reports.experiment_page import experiment_page
from ray_jobs.reports.experiment_results import (
    BUDGETS,
    LearnerRecord,
    Results,
    curve_kind,
    interval_of,
    mean_curve,
    read_results,
)

CURVES = {**BUDGETS, "num_trained": "images trained on"}
"""What accuracy is plotted over, and its titles."""


def write_experiment(
    run_dir: Path, config: JobConfig, records: Sequence[LearnerRecord], pairs: Sequence[tuple[str, str]] = ()
) -> None:
    """Write or replace the report; `pairs` are the arms to compare, by default each with the first."""
    results, facts = read_results(run_dir, records, pairs, config.prices), environment()
    figures = figures_of(results)
    write_anew(run_dir / "results.json", json.dumps(facts | numbers(results, records), indent=2) + "\n")
    write_anew(run_dir / "results.csv", csv_text(learner_rows(results, records)))
    write_anew(run_dir / "arms.csv", csv_text([arm_row(results, arm) for arm in results.arms]))
    for name, figure in figures.items():
        for suffix, content in (("svg", svg(figure).encode()), ("pdf", pdf(figure))):
            write_whole(run_dir / "figures" / f"{name}.{suffix}", lambda file, content=content: file.write(content))
    write_anew(run_dir / "report.html", experiment_page(run_dir, config, facts, results, records, figures))


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


def numbers(results: Results, records: Sequence[LearnerRecord]) -> dict[str, Any]:
    """Return the learners and all statistics for results.json."""
    rankings = {budget: results.ranking(budget) for budget in BUDGETS}
    return {
        "learners": [dataclasses.asdict(record) for record in records],
        "arms": [arm_row(results, arm) for arm in results.arms],
        "comparisons": [dataclasses.asdict(each) | {"verdict": each.verdict} for each in results.comparisons],
        "rankings": {budget: {"at": at, "top1_by_seed": ranked} for budget, (at, ranked) in rankings.items()},
        "pareto_front": results.front[1],
    }


def learner_rows(results: Results, records: Sequence[LearnerRecord]) -> list[dict[str, Any]]:
    """Return a row per learner; measures are empty for those that did not finish."""
    measures = {id(learner.record): learner.measures for learner in results.learners}
    return [
        {name: getattr(record, name) for name in ("arm", "seed", "status", "folder")}
        | {name: measures.get(id(record), {}).get(name, "") for name in results.measures}
        for record in records
    ]


def arm_row(results: Results, arm: str) -> dict[str, Any]:
    """Return an arm's means, and their intervals' ends with `_lo` and `_hi` after the measure's name."""
    row: dict[str, Any] = {"arm": arm, "num_seeds": len(results.of_arm(arm))}
    for name in results.measures:
        values = list(results.by_seed(arm, name).values())
        ends = interval_of(name, values) or (None, None)
        row |= {name: fmean(values) if values else None, f"{name}_lo": ends[0], f"{name}_hi": ends[1]}
    return row


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows with the same columns as CSV."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
