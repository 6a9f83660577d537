"""A run's own page, also while it is under way: samples, curves, accuracy, prediction, advice, settings.

Works on rows and facts only. Uses no clock, file or cluster.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any
from urllib.parse import quote

from evaluation.pages.html import STYLE, html_table, number, page, percent, section
from evaluation.result import Evaluation
from generation.engine.scores import ALL_IMAGES, ScoreCounts, ScoredImage
from generation.recipes.recipe import Recipe
from ray_jobs.cli.config import JobConfig
from ray_jobs.cli.reference import non_default_settings
from ray_jobs.cost.prediction import predict_if_given
from ray_jobs.cost.table import duration
from ray_jobs.monitor.spent import SpentRow
from ray_jobs.reports.run_curves import curves_of

PAGE_STYLE = f"""{STYLE}
.curves {{ display: flex; flex-wrap: wrap; gap: 1rem; }}
.curves svg {{ flex: 0 1 auto; }}
.sheet {{ overflow-x: auto; }}
.sheet img {{ width: 100%; min-width: 40rem; max-width: 60rem; height: auto; }}
.facts td + td, .text td + td {{ overflow-wrap: anywhere; }}
@media (max-width: 40rem) {{ th, td {{ padding: .3rem .4rem; }} td:first-child {{ min-width: 7rem; }} }}
"""

MAX_GROUPS = 30
"""Classes and templates whose mean scores are shown."""

NO_RATES = (
    "The settings had no rates, so nothing was predicted. <code>figment plan CONFIG --like RUN</code> predicts the "
    "next run from the rates of this one."
)
CURVES_NOTE = (
    "Over the time in which a job was running, from when its generators were ready. Rates are means over a hundredth "
    "of the run, at least 5 s."
)


@dataclass(frozen=True)
class RunFacts:
    """What the page of a run shows."""

    name: str
    config: JobConfig
    recipe: Recipe
    rows: Sequence[SpentRow]
    """Those of spent.csv, at least one."""

    advice: str
    written_at: str
    scores: ScoreCounts = field(default_factory=ScoreCounts)
    """Those of `recipe.check` since the run started or resumed."""

    samples_png: bytes | None = None
    summary: Mapping[str, Any] | None = None
    """That of summary.json; None while the run is under way."""

    evaluation: Evaluation | None = None
    pages: Sequence[str] = ()
    """Other pages in the run's folder, by their relative paths."""


def mark_of(recipe: Recipe) -> str:
    """Return the HTML comment by which a run knows its own page."""
    return f"<!-- figment train: the page of a run with recipe {recipe.sha256} -->"


def run_page(run: RunFacts) -> str:
    """Return the page: self-contained, without scripts."""
    is_finished = run.summary is not None
    parts = [
        mark_of(run.recipe),
        f"<p><b>{escape(state(run))}</b></p>",
        f'<div class="text facts">{html_table((), facts_of_run(run))}</div>',
        section("Accuracy on real images", _accuracy(run)) if is_finished or run.pages else "",
        section("Curves", _curves(run.rows)),
        section("Advice", f"<p>{escape(run.advice)}</p>"),
        section("Predicted and measured", _prediction(run)),
        section("Samples and their prompts", _samples(run.samples_png)) if run.samples_png else "",
        section("Scores of the check", _scores(run.scores)) if run.scores.num_scored else "",
        section("Settings that differ from the defaults", _settings(run.config)),
    ]
    return page(run.name, "\n".join(part for part in parts if part), PAGE_STYLE)


def state(run: RunFacts) -> str:
    """Return in a sentence how far the run is."""
    last, training = run.rows[-1], run.config.training
    if run.summary is not None:
        return f"Finished on {run.written_at}, trained on {run.summary['num_trained']:,} images."
    return (
        f"In progress on {run.written_at}: {last.num_trained / training.num_trained:.0%}, {last.num_trained:,.0f} of "
        f"{training.num_trained:,} images trained on, epoch {last.epoch:.0f} of {training.num_epochs}. This page is "
        "rewritten at the end of each epoch."
    )


def facts_of_run(run: RunFacts) -> list[list[str]]:
    """Return what was trained, on what, and what it has taken."""
    recipe, training, last = run.recipe, run.config.training, run.rows[-1]
    hours = last.generation_device_seconds / 3600, last.training_device_seconds / 3600
    facts = {
        "generator": recipe.model or recipe.generator,
        "recipe": recipe.sha256[:12],
        "classes": f"{recipe.label_space.num_classes:,}, {recipe.label_space.name}",
        "images from": run.config.data.source,
        "classifier": training.architecture,
        "images generated": number(round(last.num_generated)),
        "images trained on": number(round(last.num_trained)),
        "running time": duration(last.seconds),
        "device hours": f"generation {hours[0]:,.3f}, training {hours[1]:,.3f}",
    }
    return [[name, value] for name, value in facts.items()]


def _accuracy(run: RunFacts) -> str:
    links = ", ".join(f'<a href="{quote(path)}">{escape(path)}</a>' for path in run.pages)
    of_pages = f"<p>In full: {links}.</p>" if links else ""
    if run.evaluation is None:
        return f"<p>Not evaluated by this job.</p>{of_pages}" if run.summary is not None else of_pages
    rows = [
        [name, number(row["num_images"]), percent(row["top1"], row["top1_interval"]), percent(row["top5"])]
        for name, row in run.evaluation["sets"].items()
    ]
    transfer = run.evaluation.get("transfer")
    rows += [
        [f"{name}, transfer", number(row["num_test"]), percent(row["top1"], row["top1_interval"]), "-"]
        for name, row in (transfer["sets"] if transfer else {}).items()
    ]
    note = "<p>Top-1 with its 95% interval, in percent.</p>"
    return html_table(["set", "images", "top-1", "top-5"], rows) + note + of_pages


def _curves(rows: Sequence[SpentRow]) -> str:
    from evaluation.pages.plots import svg, time_figure  # imports matplotlib

    figures = [svg(time_figure(curve.title, curve.lines, curve.is_fraction)) for curve in curves_of(rows)]
    if not figures:
        return "<p>No step has ended yet.</p>"
    return f'<div class="curves">\n{"".join(figures)}</div>\n<p>{CURVES_NOTE}</p>'


def _prediction(run: RunFacts) -> str:
    """Return a table of what was predicted, what was measured, or both; then a note on the prediction."""
    columns = {"predicted": _predicted(run), "measured": _measured(run.summary) if run.summary is not None else {}}
    columns = {title: values for title, values in columns.items() if values}
    if "predicted" not in columns:
        note = "<p>A resumed run has no prediction.</p>" if run.config.resume else f"<p>{NO_RATES}</p>"
    elif run.summary is not None:
        note = f"<p>Error of the predicted time: {run.summary['wall_seconds_error_fraction']:+.1%}.</p>"
    else:
        note = ""
    names = dict.fromkeys(name for values in columns.values() for name in values)
    rows = [[name, *(values.get(name, "-") for values in columns.values())] for name in names]
    return (html_table(["", *columns], rows) if rows else "") + note


def _predicted(run: RunFacts) -> dict[str, str]:
    """Return the prediction from the settings' rates; empty without any."""
    prediction = predict_if_given(run.config, run.recipe)
    return (
        {
            "time to first batch": duration(prediction.time_to_first_batch_seconds),
            "time of the whole job": duration(prediction.wall_seconds),
            "images generated": number(prediction.num_generated),
            "bottleneck": prediction.binding_side,
        }
        if prediction
        else {}
    )


def _measured(summary: Mapping[str, Any]) -> dict[str, str]:
    """Return the measured values; only a run with a prediction has a bottleneck in its summary."""
    measured = {
        "time to first batch": duration(summary["time_to_first_batch_seconds"]),
        "time of the whole job": duration(summary["wall_seconds"]),
        "images generated": number(summary["num_generated"]),
    }
    return measured | ({"bottleneck": summary["binding_side"]} if "binding_side" in summary else {})


def _samples(png: bytes) -> str:
    return f'<div class="sheet"><img alt="Generated samples, each with its prompt" src="{_data_url(png)}"></div>'


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _scores(scores: ScoreCounts) -> str:
    """Return the mean scores, those of the lowest `MAX_GROUPS` groups, and the images at the extremes."""
    means = scores.means()
    groups = [ALL_IMAGES, *(group for group in means if group != ALL_IMAGES)][: MAX_GROUPS + 1]
    rows = [[group, number(scores.num_scored[group]), f"{means[group]:.3f}"] for group in groups]
    shown = "".join(f"<h3>{kind}</h3><p>{''.join(map(_scored, images))}</p>" for kind, images in scores.shown.items())
    return html_table(["", "images", "mean score"], rows) + shown


def _scored(each: ScoredImage) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(each.image).save(file, "png")
    words = escape(f"{each.class_name}, score {each.score:.3f}, sample {each.index}, attempt {each.attempt}")
    return f'<img height="64" alt="{words}" title="{words}" src="{_data_url(file.getvalue())}">'


def _settings(config: JobConfig) -> str:
    rows = [[setting.path, value, setting.default] for setting, value in non_default_settings(config)]
    return f'<div class="text">{html_table(["setting", "value", "default"], rows)}</div>' if rows else "<p>None.</p>"
