"""An evaluation as one self-contained page, and as CSV. Uses only the results, no model or images."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from evaluation.pages import plots
from evaluation.pages.html import (
    by_unique_name,
    details,
    facts_of,
    html_table,
    number,
    page,
    percent,
    representation_table,
    robustness,
    section,
    set_title,
)
from evaluation.pages.plots import svg
from evaluation.result import Evaluation, SetResult, Transfers

NUM_CONFUSIONS = 25
"""Number of most frequent confusions listed when there are too many classes for a matrix."""

OWN_LABELS = (
    "<p>By the image's original label; where several labels are accepted, another prediction may be correct.</p>\n"
)

OVER_SEEDS = (
    "Top-1 is the mean over seeds. Student's interval covers only the seeds (validation images, settings tried and "
    "order of training), not the choice of test images: with few of them it is too narrow."
)
"""Note on what a transfer interval covers."""

CSV_HEAD = ["model", "set", "num_images", "top1", "lo", "hi", "top5", "mean_per_class_top1", "ece"]


def csv_text(evaluations: Sequence[Evaluation]) -> str:
    """Return CSV with the header `CSV_HEAD`, one line per model and set, fractions in 0..1."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_HEAD)
    for model, evaluation in by_unique_name(evaluations).items():
        for name, of_set in evaluation["sets"].items():
            values: dict[str, Any] = dict(of_set)
            values["lo"], values["hi"] = of_set["top1_interval"]
            writer.writerow([model, name, *(values.get(column) for column in CSV_HEAD[2:])])
    return file.getvalue()


def model_page(evaluation: Evaluation) -> str:
    """Return the page of one model."""
    sets = evaluation["sets"]
    parts = [
        f'<div class="text facts">{html_table((), [list(fact) for fact in facts_of(evaluation).items()])}</div>',
        section("Sets", _sets_table(sets) + "".join(_unreadable(name, sets[name]) for name in sets)),
        robustness({"": evaluation}, list(sets)),
        *(section(name, _set_details(name, of_set)) for name, of_set in sets.items()),
    ]
    if evaluation.get("representation"):
        parts.append(section("Representation", representation_table(by_unique_name([evaluation]))))
    if transfer := evaluation.get("transfer"):
        parts.append(section("Transfer", _transfer_of_one(transfer)))
    parts.append(section("Settings", f"<pre>{escape(evaluation['settings'])}</pre>"))
    parts.append(section("Numbers", _embedded_json(evaluation)))
    return page(evaluation["model"]["name"], "\n".join(parts))


def _sets_table(sets: Mapping[str, SetResult]) -> str:
    counts = {
        "num_images": "images",
        "num_shared_classes": "classes that compete",
        "num_without_label": "without a label",
        "num_unreadable": "unreadable",
    }
    fractions = {
        "top1": "top-1",
        "top5": "top-5",
        "mean_per_class_top1": "mean per class",
        "ece": "calibration error, ECE",
    }
    return _numbers_table(sets, counts, fractions)


def _numbers_table(sets: Mapping[str, Any], counts: Mapping[str, str], fractions: Mapping[str, str]) -> str:
    """Return a table with one row per set, with counts and fractions by key and title, and intervals if available."""
    rows = [
        [name, *(number(row[key]) for key in counts)]
        + [percent(row.get(key), row.get(f"{key}_interval")) for key in fractions]
        for name, row in sets.items()
    ]
    return html_table(["set", *counts.values(), *fractions.values()], rows)


def _unreadable(name: str, of_set: SetResult) -> str:
    """Return the names of files that could not be decoded, if any."""
    if not of_set["num_unreadable"]:
        return ""
    names = escape("\n".join(of_set["unreadable"]))
    return details(f"Unreadable in {name}: {number(of_set['num_unreadable'])}", f"<pre>{names}</pre>")


def _set_details(name: str, of_set: SetResult) -> str:
    """Return the long parts, collapsed: classes, confusions, calibration."""
    with_images = [row for row in of_set["per_class"] if row["top1"] is not None]
    if not with_images:
        return "<p>No class has images.</p>"
    num_without = len(of_set["per_class"]) - len(with_images)
    classes = f"<p>Classes without images, not shown: {number(num_without)}.</p>" if num_without else ""
    if len(with_images) > plots.MAX_CLASSES:
        classes += f"<p>The {plots.NUM_EXTREMES} worst and best of {number(len(with_images))} classes.</p>"
    classes += svg(plots.class_figure(with_images))
    note = OWN_LABELS if accepts_others(name, of_set) else ""
    confusions = note + _confusions(of_set["per_class"], of_set["confusions"])
    calibration = svg(plots.reliability_figure(of_set["calibration"]))
    parts = {"Classes": classes, "Confusions": confusions, "Confidence and accuracy": calibration}
    return "\n".join(details(title, content) for title, content in parts.items())


def accepts_others(name: str, of_set: SetResult) -> bool:
    """Return whether labels other than an image's own count as correct, given a set's name and counts."""
    own = {row["label"]: row["num_images"] for row in of_set["confusions"] if row["label"] == row["predicted"]}
    differ = (row["num_top1"] != own.get(row["label"], 0) for row in of_set["per_class"] if row["num_images"])
    return name == "imagenet_real" or any(differ)


def _confusions(per_class: plots.Rows, confusions: plots.Rows) -> str:
    """Return the confusion matrix, or the most frequent confusions if there are too many classes."""
    classes = plots.confused_classes(per_class, confusions)
    if len(classes) <= plots.MAX_CLASSES:
        return f'<div class="wide">{svg(plots.confusion_figure(per_class, confusions))}</div>'
    wrong = [row for row in confusions if row["label"] != row["predicted"]]
    rows = []
    for row in sorted(wrong, key=lambda row: -row["num_images"])[:NUM_CONFUSIONS]:
        true, taken_for = classes[row["label"]], classes[row["predicted"]]
        share = percent(row["num_images"] / true["num_images"])
        rows.append([true["class_name"], taken_for["class_name"], number(row["num_images"]), share])
    table = html_table(["class", "predicted as", "images", "of the class"], rows)
    return f'<p>The {len(rows)} most frequent.</p><div class="text">{table}</div>'


def _transfer_of_one(transfer: Transfers) -> str:
    counts = {
        "num_trainval": "images to train",
        "num_test": "images to test",
        "num_unreadable": "unreadable",
        "num_classes": "classes",
        "num_seeds": "seeds",
    }
    fractions = {"validation_top1": "top-1 in validation", "top1": "top-1", "mean_per_class": "mean per class"}
    average = number(transfer["log_odds_average"])
    sets = {set_title(name, of_set): of_set for name, of_set in transfer["sets"].items()}
    groups = "".join(
        f" Mean top-1 of {escape(name)} sets ({of_group['num_sets']} of {of_group['num_sets_in_all']}): "
        f"{percent(of_group['top1'])}."
        for name, of_group in transfer["groups"].items()
    )
    note = f"<p>{OVER_SEEDS} Average of the log-odds: {average}.{groups}</p>"
    return _numbers_table(sets, counts, fractions) + note


def _embedded_json(evaluation: Evaluation) -> str:
    """Return the evaluation as embedded JSON for programs that read the page, escaped so that no text can end it."""
    text = json.dumps(evaluation, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return (
        "<p>This page's source contains all its numbers as JSON in <code>script#evaluation</code>.</p>\n"
        f'<script type="application/json" id="evaluation">{text}</script>'
    )
