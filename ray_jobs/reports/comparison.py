"""What a comparison came to: a table, a JSON, and one self-contained HTML page with plots."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from evaluation.pages.html import html_table, page
from evaluation.pages.plots import curve_figure, svg
from generation.recipes.recipe import Recipe
from ray_jobs.cli.config import CompareConfig, Prices, to_yaml
from ray_jobs.job.environment import circumstances
from ray_jobs.job.run_folder import write_anew, write_json
from ray_jobs.job.tables import print_table


@dataclass(frozen=True)
class Moment:
    """The end of an epoch."""

    seconds: float
    """Since the arm began."""

    num_generated: int
    num_trained: int
    top1: float
    """On real images, 0..1."""


@dataclass(frozen=True)
class ArmRun:
    """One arm with one seed."""

    arm: str
    seed: int
    top1: float
    """On real images at the end, 0..1."""

    moments: list[Moment]
    waited_seconds: float
    """For images before the first step: from the first that was asked for to the first batch, all starts aside."""

    first_step_seconds: float
    """From the arm's beginning to the first batch in training: the starts of pool and workers included."""

    total_seconds: float
    """From nothing to the trained classifier, start of generators and workers included."""

    generation_device_seconds: float
    """Generator actors, times the time that they were held."""

    training_device_seconds: float
    """Training workers, times the time that they were held."""

    waiting_fraction: float
    """Share of the time since the first batch that training waited for images, 0..1."""

    num_generated: int
    num_trained: int
    stored_bytes: int
    num_unreadable: int = 0
    """Real images that were left out since they cannot be decoded."""

    def cost(self, prices: Prices) -> float:
        """Return what the run costs by these prices."""
        devices = prices.of_devices(self.generation_device_seconds / 3600, self.training_device_seconds / 3600)
        return devices + self.stored_bytes / 1e9 * prices.stored_gb


def columns(prices: Prices) -> dict[str, tuple[Callable[[ArmRun], float], str]]:
    """Return what is told of each arm, and how numbers are written."""
    told: dict[str, tuple[Callable[[ArmRun], float], str]] = {
        "top-1 on real images": (lambda run: run.top1, ".4f"),
        "waited for images, s": (lambda run: run.waited_seconds, ".1f"),
        "first step after, s": (lambda run: run.first_step_seconds, ".1f"),
        "total, s": (lambda run: run.total_seconds, ".0f"),
        "generation, device-s": (lambda run: run.generation_device_seconds, ".0f"),
        "training, device-s": (lambda run: run.training_device_seconds, ".0f"),
        "waiting": (lambda run: run.waiting_fraction, ".0%"),
        "generated": (lambda run: run.num_generated, ",.0f"),
        "trained": (lambda run: run.num_trained, ",.0f"),
        "stored, MB": (lambda run: run.stored_bytes / 1e6, ".1f"),
    }
    if prices != Prices(currency=prices.currency):
        told[f"cost, {prices.currency}"] = (lambda run: run.cost(prices), ".4f")
    return told


def mean_and_spread(values: Sequence[float], how: str) -> str:
    """Return the mean, and with several values their standard deviation."""
    mean = format(fmean(values), how)
    return f"{mean} ± {format(stdev(values), how)}" if len(values) > 1 else mean


def table_of(runs: Sequence[ArmRun], prices: Prices) -> list[list[str]]:
    """Return a row of names, and one an arm."""
    told = columns(prices)
    rows = [["arm", *told]]
    for name in dict.fromkeys(run.arm for run in runs):
        of_arm = [run for run in runs if run.arm == name]
        rows.append([name, *(mean_and_spread([value(run) for run in of_arm], how) for value, how in told.values())])
    return rows


def print_results(runs: Sequence[ArmRun], prices: Prices) -> None:
    """Print the table, a column an arm."""
    columns, *rows = zip(*table_of(runs, prices), strict=True)
    print_table(f"Mean and standard deviation over {len({run.seed for run in runs})} seeds", columns, rows)


def write_report(run_dir: Path, config: CompareConfig, recipe: Recipe, runs: Sequence[ArmRun]) -> None:
    """Write `results.json` and `report.html`."""
    facts = {
        **circumstances(),
        "recipe_sha256": recipe.sha256,
        "model": recipe.model or recipe.generator,
    }
    content = facts | {"runs": [dataclasses.asdict(run) for run in runs]}
    write_json(run_dir / "results.json", content)
    write_anew(run_dir / "report.html", report(config, facts, runs))


def report(config: CompareConfig, facts: dict[str, Any], runs: Sequence[ArmRun]) -> str:
    """Return the page, which needs no other file."""
    head, *rows = table_of(runs, config.prices)
    told = "; ".join(f"{name} {value}" for name, value in facts.items())
    body = f"""<p>{escape(told)}.</p>
{html_table(head, rows)}
<p>Mean and standard deviation over seeds {", ".join(map(str, config.seeds))}. Waited for images: from
the first that was asked for to the first batch in training, the starts of pool and workers aside, which the first step
includes. Images that were generated before training, once for all seeds, count in full for each. Devices are held from
the start of a pool, or of training workers, to its end.</p>
{plot(runs, lambda moment: moment.seconds, "seconds since the arm began")}
{plot(runs, lambda moment: moment.num_generated, "images generated")}
<h2>Settings</h2>
<pre>{escape(to_yaml(config))}</pre>
<h2>Numbers</h2>
<pre>{escape(json.dumps([dataclasses.asdict(run) for run in runs], indent=1))}</pre>"""
    return page("Ways to train on the same images", body)


def plot(runs: Sequence[ArmRun], along: Callable[[Moment], float], label: str) -> str:
    """Return accuracy on real images along something, as SVG; a line a run, a colour an arm."""
    lines = [
        (run.arm, [along(moment) for moment in run.moments], [{"top1": moment.top1} for moment in run.moments])
        for run in runs
    ]
    return svg(curve_figure(lines, label))
