"""Results of a comparison: a table, a JSON file and one self-contained HTML page with plots."""

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
from ray_jobs.cli.run_folder import write_anew, write_json
from ray_jobs.job.environment import environment
from ray_jobs.job.tables import print_table


@dataclass(frozen=True)
class EpochPoint:
    """Progress and accuracy at the end of an epoch."""

    seconds: float
    """Time since the arm began."""

    num_generated: int
    num_trained: int
    top1: float
    """Top-1 on real images, 0..1."""


@dataclass(frozen=True)
class ArmRun:
    """One arm with one seed."""

    arm: str
    seed: int
    top1: float
    """Final top-1 on real images, 0..1."""

    moments: list[EpochPoint]
    waited_seconds: float
    """Wait for images, from the first request to the first batch; start-up of pool and workers excluded."""

    first_step_seconds: float
    """Time from the start of the arm to the first batch in training; start-up of pool and workers included."""

    total_seconds: float
    """Time from the start of the arm to the trained classifier; start-up of pool and workers included."""

    generation_device_seconds: float
    """Number of generator actors times the time that they were held."""

    training_device_seconds: float
    """Number of training workers times the time that they were held."""

    waiting_fraction: float
    """Fraction of the time since the first batch that training waited for images, 0..1."""

    num_generated: int
    num_trained: int
    stored_bytes: int
    num_unreadable: int = 0
    """Number of real images skipped because they cannot be decoded."""

    def cost(self, prices: Prices) -> float:
        """Return the cost of the run at these prices, in their currency."""
        devices = prices.of_devices(self.generation_device_seconds / 3600, self.training_device_seconds / 3600)
        return devices + self.stored_bytes / 1e9 * prices.stored_gb


def columns(prices: Prices) -> dict[str, tuple[Callable[[ArmRun], float], str]]:
    """Return the columns of the table: by name, a run's value and its number format."""
    found: dict[str, tuple[Callable[[ArmRun], float], str]] = {
        "top-1 on real images": (lambda run: run.top1, ".4f"),
        "wait for images, s": (lambda run: run.waited_seconds, ".1f"),
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
        found[f"cost, {prices.currency}"] = (lambda run: run.cost(prices), ".4f")
    return found


def mean_and_spread(values: Sequence[float], number_format: str) -> str:
    """Return the mean as text, and with several values their standard deviation."""
    mean = format(fmean(values), number_format)
    return f"{mean} ± {format(stdev(values), number_format)}" if len(values) > 1 else mean


def results_table(runs: Sequence[ArmRun], prices: Prices) -> list[list[str]]:
    """Return a header row and one row per arm."""
    shown = columns(prices)
    rows = [["arm", *shown]]
    for name in dict.fromkeys(run.arm for run in runs):
        of_arm = [run for run in runs if run.arm == name]
        cells = (mean_and_spread([value(run) for run in of_arm], how) for value, how in shown.values())
        rows.append([name, *cells])
    return rows


def print_results(runs: Sequence[ArmRun], prices: Prices) -> None:
    """Print the table, one column per arm."""
    columns, *rows = zip(*results_table(runs, prices), strict=True)
    print_table(f"Mean and standard deviation over {len({run.seed for run in runs})} seeds", columns, rows)


def write_report(run_dir: Path, config: CompareConfig, recipe: Recipe, runs: Sequence[ArmRun]) -> None:
    """Write `results.json` and `report.html`."""
    facts = {
        **environment(),
        "recipe_sha256": recipe.sha256,
        "model": recipe.model or recipe.generator,
    }
    content = facts | {"runs": [dataclasses.asdict(run) for run in runs]}
    write_json(run_dir / "results.json", content)
    write_anew(run_dir / "report.html", report(config, facts, runs))


def report(config: CompareConfig, facts: dict[str, Any], runs: Sequence[ArmRun]) -> str:
    """Return the self-contained HTML page."""
    head, *rows = results_table(runs, config.prices)
    origin = "; ".join(f"{name} {value}" for name, value in facts.items())
    body = f"""<p>{escape(origin)}.</p>
{html_table(head, rows)}
<p>Mean and standard deviation over seeds {", ".join(map(str, config.seeds))}. The wait for images runs from
the first request to the first batch in training, without the start-up of pool and workers; the time to the first step
includes both. Images generated before training, once for all seeds, count in full for each seed. Devices are held from
the start to the end of a pool, or of training workers.</p>
{plot(runs, lambda point: point.seconds, "seconds since the arm began")}
{plot(runs, lambda point: point.num_generated, "images generated")}
<h2>Settings</h2>
<pre>{escape(to_yaml(config))}</pre>
<h2>Numbers</h2>
<pre>{escape(json.dumps([dataclasses.asdict(run) for run in runs], indent=1))}</pre>"""
    return page("Ways to train on the same images", body)


def plot(runs: Sequence[ArmRun], along: Callable[[EpochPoint], float], label: str) -> str:
    """Return accuracy on real images over `along` as SVG; one line per run, one colour per arm."""
    lines = [
        (run.arm, [along(point) for point in run.moments], [{"top1": point.top1} for point in run.moments])
        for run in runs
    ]
    return svg(curve_figure(lines, label))
