"""Results of the scale experiments: tables, a JSON file and one self-contained HTML page with plots."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.pages.html import details, html_table, page, section
from evaluation.pages.plots import svg
from generation.recipes.recipe import Recipe
from ray_jobs.cli.config import to_yaml
from ray_jobs.cli.run_folder import write_anew
from ray_jobs.cli.scale_config import ScaleConfig
from ray_jobs.job.environment import environment
from ray_jobs.job.tables import print_facts, print_table
from ray_jobs.scaling.experiments import Series
from ray_jobs.scaling.faults import FaultsResult
from ray_jobs.scaling.step import StepResult
from ray_jobs.scaling.sweep import SweepPoint, sweep_table

STEP, FAULTS = "Step of the trainer's speed", "Faults"


@dataclass(frozen=True)
class ScaleResults:
    """The results of the experiments run so far."""

    sweep: tuple[SweepPoint, ...] = ()
    step: StepResult | None = None
    faults: FaultsResult | None = None
    is_complete: bool = False
    """Whether all experiments have finished; False while the job runs and after it failed."""

    @property
    def missed(self) -> list[str]:
        """The missed targets, one line each."""
        alone = [result for result in (self.step, self.faults) if result is not None]
        return [line for result in (*self.sweep, *alone) for line in result.missed]


def print_results(results: ScaleResults, currency: str) -> None:
    """Print all tables; the sweep's has one column per pool."""
    if results.sweep:
        columns, *rows = zip(*sweep_table(results.sweep, currency), strict=True)
        print_table("Pools of several sizes", columns, rows)
    if results.step:
        print_facts(STEP, results.step.facts)
    if results.faults:
        print_facts(FAULTS, results.faults.facts)


def write_report(run_dir: Path, config: ScaleConfig, recipe: Recipe, results: ScaleResults) -> None:
    """Write `scale.json` and `report.html`, replacing those of earlier experiments of the same job."""
    facts = {**environment(), "recipe_sha256": recipe.sha256, "generator": recipe.model or recipe.generator}
    content = facts | {**dataclasses.asdict(results), "missed": results.missed}
    write_anew(run_dir / "scale.json", json.dumps(content, indent=2) + "\n")
    write_anew(run_dir / "report.html", report(config, facts, results))


def report(config: ScaleConfig, facts: dict[str, Any], results: ScaleResults) -> str:
    """Return the self-contained HTML page."""
    origin = "; ".join(f"{name} {value}" for name, value in facts.items())
    found = " ".join(results.missed) or "All targets were met."
    status = found if results.is_complete else f"Not complete. {found}"
    parts = [f"<p>{escape(origin)}.</p>", f"<p>{escape(status)}</p>"]
    if results.sweep:
        head, *rows = sweep_table(results.sweep, config.prices.currency)
        parts.append(
            section("Pools of several sizes", html_table(head, rows) + SWEEP_NOTE + svg(sweep_figure(results.sweep)))
        )
    if results.step:
        parts.append(section(STEP, facts_table(results.step.facts) + svg(step_figure(results.step))))
    if results.faults:
        parts.append(section(FAULTS, facts_table(results.faults.facts) + svg(faults_figure(results.faults))))
    parts.append(details("Settings", f"<pre>{escape(to_yaml(config))}</pre>"))
    parts.append(details("Numbers", f"<pre>{escape(json.dumps(dataclasses.asdict(results), indent=1))}</pre>"))
    return page("How delivery grows with the number of generators", "\n".join(parts))


def facts_table(facts: dict[str, str]) -> str:
    """Return an HTML table with one row per name and value."""
    return html_table([], list(facts.items()))


SWEEP_NOTE = """<p>Nominal: the rate of all actors while busy. Delivered: images per second at the trainer, the slope of
a straight line fitted to the middle 80% of the images. Device-seconds are counted at that rate, without start-up; an
actor without a GPU counts as one device.</p>"""


def sweep_figure(points: Sequence[SweepPoint]) -> Figure:
    """Return a figure of the rates, and of their fraction of the nominal rate, over the number of actors."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    rates, shares = figure.subplots(1, 2)
    nums = [point.num_actors for point in points]
    rates.plot(nums, [point.nominal_per_second for point in points], color="gray", linestyle="--", label="nominal")
    rates.plot(nums, [point.delivered_per_second for point in points], marker="o", label="delivered")
    rates.set_yscale("log", base=2)
    rates.set(ylabel="images/s")
    rates.legend()
    shares.plot(nums, [point.delivered_fraction for point in points], marker="o")
    shares.set(ylim=(0, 1.05), ylabel="delivered over nominal")
    for axes in (rates, shares):
        axes.set_xscale("log", base=2)
        axes.set_xticks(nums, [f"{num}" for num in nums])
        axes.set_xlabel("generator actors")
        axes.grid(alpha=0.3)
    return figure


def step_figure(step: StepResult) -> Figure:
    """Return a figure of trainer speed and delivery rate over time, with the number of actors below."""
    figure, above = series_figure(step.series)
    for rate in sorted(set(step.appetite_per_second)):
        above.axhline(rate, color="gray", linestyle="--", linewidth=1)
    return figure


def faults_figure(faults: FaultsResult) -> Figure:
    """Return a figure of the delivery rate and the faults over time, with the number of actors below."""
    figure, above = series_figure(faults.series)
    above.axhline(faults.nominal_per_second, color="gray", linestyle="--", linewidth=1, label="nominal")
    for i, kind in enumerate(faults.num_struck):
        times = [fault.began_at for fault in faults.struck if fault.kind == kind]
        above.plot(times, [0] * len(times), "x", color=f"C{i + 1}", label=kind.replace("_", " "))
    above.legend()
    return figure


def series_figure(series: Series) -> tuple[Figure, Axes]:
    """Return a figure of the delivery rate above and the number of actors below, and the upper axes."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    above.plot(series.ends, series.delivered_per_second, marker=".")
    above.set(ylim=(0, None), ylabel="images/s delivered")
    below.step(series.looked_at, series.num_actors, where="post")
    below.set(ylim=(0, None), ylabel="running actors", xlabel="seconds since the first batch")
    for axes in (above, below):
        axes.grid(alpha=0.3)
    return figure, above
