"""Comparison of several evaluations on one self-contained page. Uses only their results, no model or images."""

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from evaluation.metrics.intervals import Difference, paired_difference, unpack_hits
from evaluation.pages import plots
from evaluation.pages.html import (
    by_unique_name,
    facts_of,
    html_table,
    number,
    page,
    percent,
    points,
    representation_table,
    robustness,
    section,
    set_title,
)
from evaluation.pages.model_page import OVER_SEEDS
from evaluation.pages.plots import svg
from evaluation.result import Evaluation

NUM_DIFFERENCES = 20
"""Number of classes listed in which the last model differs most from the first."""


def side_by_side_page(evaluations: Sequence[Evaluation]) -> str:
    """Return a page that compares models, in the given order."""
    if not evaluations:
        raise ValueError("There are 0 evaluations to compare. Pass at least one.")
    models = by_unique_name(evaluations)
    sets = list(dict.fromkeys(name for one in evaluations for name in one["sets"]))
    common = [name for name in sets if all(name in one["sets"] for one in evaluations)]
    parts = [
        section("Top-1", _top1_table(models, sets)),
        section("Differences in top-1", _difference_table(models, sets)),
        robustness(models, sets),
        section("Accuracy over training images", _growth(models, common)),
        section("Representation", _representations(models)),
        section("Transfer", _transfer_table(models)),
        section("Classes", _differences(models, common)),
        section("Models", _models_table(models)),
    ]
    return page("Models side by side", "\n".join(parts))


def compare_on_set(of_set: Mapping[str, Any], other: Mapping[str, Any]) -> Difference | None:
    """Return the difference of two models on a set; None unless both saw the same images and classes."""
    same = all(of_set.get(key) == other.get(key) for key in ("images", "num_images", "num_shared_classes"))
    if not (same and of_set.get("top1_hits") and other.get("top1_hits")):
        return None
    hits, other_hits = (unpack_hits(each["top1_hits"], each["num_images"]) for each in (of_set, other))
    return paired_difference(hits, other_hits)


def best_of(sets: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the index of the model that is significantly better than every other on a set; None if there is none."""
    for i, of_set in enumerate(sets):
        others = [compare_on_set(of_set, other) for j, other in enumerate(sets) if j != i]
        if others and all(each and each.points > 0 and each.is_significant for each in others):
            return i
    return None


def _top1_table(models: Mapping[str, Evaluation], sets: Sequence[str]) -> str:
    found = [[one["sets"].get(name, {}) for name in sets] for one in models.values()]
    columns = list(zip(*found, strict=True))
    nums = [sorted({of_set["num_shared_classes"] for of_set in column if of_set}) for column in columns]
    head = [f"{name}\n{' or '.join(map(number, of_name))} classes" for name, of_name in zip(sets, nums, strict=True)]
    bold = {(best_of(column), j + 1) for j, column in enumerate(columns)}
    cells = [[percent(of_set.get("top1"), of_set.get("top1_interval")) for of_set in row] for row in found]
    note = (
        "<p>With Wilson's 95% interval. Bold: significantly better than every other model on the same images (the "
        "paired interval excludes zero and McNemar's exact p is below 0.05).</p>"
    )
    rows = [[name, *row] for name, row in zip(models, cells, strict=True)]
    return html_table(["model", *head], rows, {(i, j) for i, j in bold if i is not None}) + note


def _difference_table(models: Mapping[str, Evaluation], sets: Sequence[str]) -> str:
    """Return a table of each model's difference to the first."""
    (first, before), *others = models.items()
    rows = []
    for name, after in others:
        pairs = [(after["sets"].get(of_set, {}), before["sets"].get(of_set, {})) for of_set in sets]
        rows.append([f"{name} - {first}", *(_difference_cell(compare_on_set(*pair)) for pair in pairs)])
    if not rows:
        return "<p>There is only one model.</p>"
    note = (
        "<p>In percentage points, on the same images: the 95% interval (Agresti and Min, 2005), and the probability of "
        "such a difference between equally good models (McNemar's exact test), without correction for multiple "
        "comparisons. Where the interval includes zero or p is 0.05 or more, the difference is not significant, which "
        "does not make the models equal.</p>"
    )
    return html_table(["models", *sets], rows) + note


def _difference_cell(difference: Difference | None) -> str:
    if difference is None:
        return "-"
    return f"{points(difference.points, difference.interval)}\np {difference.p_value:.2g}"


def _growth(models: Mapping[str, Evaluation], common: Sequence[str]) -> str:
    if not common or sum(bool(one["model"]["num_images"]) for one in models.values()) < 2:
        return "<p>No common set, or fewer than two models with a known number of training images.</p>"
    note = (
        "<p>A line joins models with the same architecture, label space and augmentation, all trained on real images, "
        "or all on generated images with the same guidance scales and templates.</p>"
    )
    return svg(plots.growth_figure(models, common)) + note


def _representations(models: Mapping[str, Evaluation]) -> str:
    measured = {name: one.get("representation") or None for name, one in models.items()}
    if not any(measured.values()):
        return "<p>Not measured.</p>"
    return svg(plots.spider_figure(measured)) + representation_table(models)


def _transfer_table(models: Mapping[str, Evaluation]) -> str:
    transfers: list[Mapping[str, Any]] = [one.get("transfer") or {"sets": {}} for one in models.values()]
    sets = list(dict.fromkeys(name for transfer in transfers for name in transfer["sets"]))
    if not sets:
        return "<p>Not measured.</p>"
    found = [[transfer["sets"].get(name, {}) for name in sets] for transfer in transfers]
    averages = [transfer.get("log_odds_average") for transfer in transfers]
    columns = list(zip(*found, strict=True))
    head = [set_title(name, *column) for name, column in zip(sets, columns, strict=True)]
    rows = [
        [model, *(percent(of_set.get("top1"), of_set.get("top1_interval")) for of_set in row), number(average)]
        for model, row, average in zip(models, found, averages, strict=True)
    ]
    note = f"<p>{OVER_SEEDS} Averages are comparable only over the same sets.</p>"
    return html_table(["model", *head, "average of log-odds"], rows) + note


def _models_table(models: Mapping[str, Evaluation]) -> str:
    """Return a table with one row per fact and one column per model; models trained on real images have fewer facts."""
    facts = [facts_of(one) for one in models.values()]
    # The longest first, because it defines the order.
    titles = dict.fromkeys(title for of_model in sorted(facts, key=len, reverse=True) for title in of_model)
    rows = [[title, *(of_model.get(title, "-") for of_model in facts)] for title in titles]
    return f'<div class="text">{html_table(["model", *models], rows)}</div>'


def _differences(models: Mapping[str, Evaluation], common: Sequence[str]) -> str:
    """Return a table of the classes of the first common set in which the last model differs most from the first."""
    if len(models) < 2 or not common:
        return "<p>No two models have a common set.</p>"
    (first, before), *_, (last, after) = models.items()
    set_name = escape(common[0])
    pairs = [(row, other, other["top1"] - row["top1"]) for row, other in same_classes(before, after, common[0])]
    if not pairs:
        return f"<p>On {set_name}, no class of {escape(first)} matches one of {escape(last)} by name.</p>"
    largest = sorted((pair for pair in pairs if pair[2]), key=lambda pair: -abs(pair[2]))[:NUM_DIFFERENCES]
    if not largest:
        return (
            f"<p>On {set_name}, {escape(first)} and {escape(last)} are equal in all {number(len(pairs))} classes.</p>"
        )
    rows = [
        [
            row["class_name"],
            number(row["num_images"]),
            percent(row["top1"]),
            percent(other["top1"]),
            f"{100 * gain:+.2f}",
        ]
        for row, other, gain in largest
    ]
    note = f"<p>On {set_name}: the {len(rows)} largest differences in top-1, of {number(len(pairs))} classes.</p>"
    return note + html_table(["class", "images", first, last, "difference, points"], rows)


def same_classes(first: Evaluation, last: Evaluation, name: str) -> list[tuple[Mapping, Mapping]]:
    """Return the pairs of a set's classes with images in both: matched by label if labels agree, else by unique name.

    Labels agree if the common labels have the same names: label spaces with the same name may have different classes.
    """
    per_class = [one["sets"][name]["per_class"] for one in (first, last)]
    names = {row["label"]: row["class_name"] for row in per_class[0]}
    agree = all(names.get(row["label"], row["class_name"]) == row["class_name"] for row in per_class[1])
    same_space = first["model"]["label_space"] == last["model"]["label_space"]
    key = "label" if same_space and agree else "class_name"
    rows, others = ([row for row in side if row["top1"] is not None] for side in per_class)
    counts = [Counter(row[key] for row in side) for side in (rows, others)]
    other_by_key = {row[key]: row for row in others}
    return [(row, other_by_key[row[key]]) for row in rows if all(count[row[key]] == 1 for count in counts)]
