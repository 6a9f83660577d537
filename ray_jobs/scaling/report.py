"""What the scale experiments came to: tables, a JSON, and one self-contained HTML page with plots."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from evaluation.pages.html import details, html_table, number, page, percent, section
from evaluation.pages.plots import svg
from generation.recipes.recipe import Recipe
from ray_jobs.cli.config import to_yaml
from ray_jobs.job.environment import circumstances
from ray_jobs.job.run_folder import write_anew
from ray_jobs.job.tables import print_table
from ray_jobs.scaling.config import ScaleConfig
from ray_jobs.scaling.faults_results import FaultsResult
from ray_jobs.scaling.results import Series
from ray_jobs.scaling.step_results import StepResult, shown
from ray_jobs.scaling.sweep_results import SweepPoint


@dataclass
class ScaleResults:
    """What all experiments came to that were made."""

    sweep: list[SweepPoint] = field(default_factory=list)
    step: StepResult | None = None
    faults: FaultsResult | None = None
    is_complete: bool = False
    """Whether all experiments were made; else the job is at the next one, or it has failed."""

    @property
    def missed(self) -> list[str]:
        """The targets that were missed, a line each."""
        alone = [result for result in (self.step, self.faults) if result is not None]
        return [line for result in (*self.sweep, *alone) for line in result.missed]


def sweep_table(points: Sequence[SweepPoint], currency: str) -> list[list[str]]:
    """Return a row of names, and one a pool."""
    head = ["actors", "nominal, images/s", "delivered", "share of nominal", "trainer waited", "all actors up, s"]
    head += ["first batch after, s", "first batch since asked, s", "device-s an image", f"1,000 images, {currency}"]
    head += ["driver, MB", "it grew, MB", "object stores, MB", "samples", "lost", "doubled"]
    return [head, *map(sweep_row, points)]


def sweep_row(point: SweepPoint) -> list[str]:
    """Return a pool's cells."""
    memory = (point.driver_bytes, point.driver_growth_bytes, point.store_bytes)
    return [
        f"{point.num_actors}",
        f"{point.nominal_per_second:.1f}",
        f"{point.delivered_per_second:.1f}",
        f"{point.delivered_fraction:.3f}",
        percent(point.waiting_fraction),
        f"{point.pool_start_seconds:.1f}",
        f"{point.time_to_first_batch_seconds:.1f}",
        f"{point.first_batch_seconds:.1f}",
        f"{point.device_seconds_per_image:.4f}",
        number(point.cost_per_thousand),
        *(f"{size / 1e6:.1f}" for size in memory),
        number(point.exactness.num_images),
        number(point.exactness.num_lost),
        number(point.exactness.num_doubled),
    ]


def step_facts(step: StepResult) -> list[list[str]]:
    """Return a row a fact."""
    by_part = zip(step.appetite_per_second, step.delivered_per_second, step.waiting_fraction, strict=True)
    names = ("before the step", f"from {step.few_actors} to {step.many_actors} actors", "after it")
    return [
        *(
            [name, f"{appetite:.1f} images/s wanted, {delivered:.1f} delivered, waited {percent(waiting)}"]
            for name, (appetite, delivered, waiting) in zip(names, by_part, strict=True)
        ),
        ["new rate reached after", shown(step.reaction_seconds)],
        ["of which actors took to start", shown(step.start_seconds)],
        ["actors given back after", shown(step.release_seconds)],
        ["most actors", f"{step.most_actors}"],
        ["device-seconds an image", f"{step.device_seconds_per_image:.4f}"],
        ["samples, lost, doubled", exactness(step)],
    ]


def faults_facts(faults: FaultsResult) -> list[list[str]]:
    """Return a row a fact."""
    struck = [
        f"{faults.num_struck.get(kind, 0)} of {num} planned {kind.replace('_', ' ')}s"
        for kind, num in faults.num_planned.items()
    ]
    return [
        ["pool, time", f"{faults.num_actors} actors, {faults.seconds:g} s"],
        ["what went wrong", ", ".join(struck)],
        ["delivered", f"{faults.delivered_per_second:.1f} of {faults.nominal_per_second:.1f} images/s"],
        ["throughput lost", percent(faults.loss_fraction)],
        ["capacity lost, of generators alone", percent(faults.lost_actor_fraction)],
        ["the same, with the times without a trainer", percent(faults.lost_fraction)],
        ["samples, lost, doubled", exactness(faults)],
    ]


def exactness(result: StepResult | FaultsResult) -> str:
    """Return how many samples were wanted, lost and doubled."""
    told = result.exactness
    return f"{told.num_images:,}, {told.num_lost}, {told.num_doubled}"


def print_results(results: ScaleResults, currency: str) -> None:
    """Print all tables; the sweep has a column a pool."""
    console = Console(width=120, markup=False, emoji=False)
    if results.sweep:
        columns, *rows = zip(*sweep_table(results.sweep, currency), strict=True)
        print_table("Pools of several sizes", columns, rows)
    for title, facts in facts_of(results).items():
        table = Table(title=title, show_header=False)
        for row in facts:
            table.add_row(*row)
        console.print(table)


def facts_of(results: ScaleResults) -> dict[str, list[list[str]]]:
    """Return the facts of step and faults, by their titles."""
    facts = {}
    if results.step is not None:
        facts["A step in mid-run"] = step_facts(results.step)
    if results.faults is not None:
        facts["Faults"] = faults_facts(results.faults)
    return facts


def write_report(run_dir: Path, config: ScaleConfig, recipe: Recipe, results: ScaleResults) -> None:
    """Write `scale.json` and `report.html`, once more where the job has already measured some."""
    facts = {**circumstances(), "recipe_sha256": recipe.sha256, "generator": recipe.model or recipe.generator}
    content = facts | {**dataclasses.asdict(results), "missed": results.missed}
    write_anew(run_dir / "scale.json", json.dumps(content, indent=2) + "\n")
    write_anew(run_dir / "report.html", report(config, facts, results))


def report(config: ScaleConfig, facts: dict[str, Any], results: ScaleResults) -> str:
    """Return the page, which needs no other file."""
    told = "; ".join(f"{name} {value}" for name, value in facts.items())
    found = " ".join(results.missed) or "All targets were met."
    parts = [f"<p>{escape(told)}.</p>", f"<p>{escape(found if results.is_complete else f'Not complete. {found}')}</p>"]
    if results.sweep:
        head, *rows = sweep_table(results.sweep, config.prices.currency)
        parts.append(
            section("Pools of several sizes", html_table(head, rows) + SWEEP_NOTE + svg(sweep_figure(results.sweep)))
        )
    figures = [step_figure(results.step)] if results.step else []
    figures += [faults_figure(results.faults)] if results.faults else []
    for (title, rows), figure in zip(facts_of(results).items(), figures, strict=True):
        parts.append(section(title, html_table([], rows) + svg(figure)))
    parts.append(details("Settings", f"<pre>{escape(to_yaml(config))}</pre>"))
    parts.append(details("Numbers", f"<pre>{escape(json.dumps(dataclasses.asdict(results), indent=1))}</pre>"))
    return page("How delivery grows with the number of generators", "\n".join(parts))


SWEEP_NOTE = """<p>Nominal: what the actors make while they are at work. Delivered: images a second that came to the
trainer, the slope of the nearest straight line from a tenth of the images to nine tenths. Devices are counted while
they deliver, not while they start; without GPUs an actor counts as a device.</p>"""


def sweep_figure(points: Sequence[SweepPoint]) -> Figure:
    """Return rates over actors, beside their share of what is nominal."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    rates, shares = figure.subplots(1, 2)
    nums = [point.num_actors for point in points]
    rates.plot(nums, [point.nominal_per_second for point in points], color="gray", linestyle="--", label="nominal")
    rates.plot(nums, [point.delivered_per_second for point in points], marker="o", label="delivered")
    rates.set_yscale("log", base=2)
    rates.set_ylabel("images/s")
    rates.legend()
    shares.plot(nums, [point.delivered_fraction for point in points], marker="o")
    shares.set_ylim(0, 1.05)
    shares.set_ylabel("delivered over nominal")
    for axes in (rates, shares):
        axes.set_xscale("log", base=2)
        axes.set_xticks(nums, [f"{num}" for num in nums])
        axes.set_xlabel("generator actors")
        axes.grid(alpha=0.3)
    return figure


def step_figure(step: StepResult) -> Figure:
    """Return what was wanted and delivered in time, with the actors below."""
    figure, above = series_figure(step.series)
    for appetite in sorted(set(step.appetite_per_second)):
        above.axhline(appetite, color="gray", linestyle="--", linewidth=1)
    return figure


def faults_figure(faults: FaultsResult) -> Figure:
    """Return what was delivered in time and when what went wrong, with the actors below."""
    figure, above = series_figure(faults.series)
    above.axhline(faults.nominal_per_second, color="gray", linestyle="--", linewidth=1, label="nominal")
    for i, kind in enumerate(faults.num_struck):
        moments = [fault.began_at for fault in faults.struck if fault.kind == kind]
        above.plot(moments, [0] * len(moments), "x", color=f"C{i + 1}", label=kind.replace("_", " "))
    above.legend()
    return figure


def series_figure(series: Series) -> tuple[Figure, Axes]:
    """Return a run in time: images delivered a second, and actors; with the upper axes."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    above.plot(series.ends, series.delivered_per_second, marker=".")
    above.set_ylim(bottom=0)
    above.set_ylabel("images/s delivered")
    below.step(series.looked_at, series.num_actors, where="post")
    below.set_ylim(bottom=0)
    below.set_ylabel("actors up")
    below.set_xlabel("seconds since the first batch")
    for axes in (above, below):
        axes.grid(alpha=0.3)
    return figure, above
