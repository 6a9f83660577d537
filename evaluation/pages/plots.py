"""An evaluation's figures as inline SVG, from numbers and names. Uses neither files nor pyplot."""

import hashlib
import io
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator, PercentFormatter

Rows = Sequence[Mapping[str, Any]]
"""A list from an evaluation's JSON."""

MAX_CLASSES = 100
"""Maximum number of classes drawn in full; with more, only the best and worst, and no confusion matrix."""

NUM_EXTREMES = 25
"""Number of best, and of worst, classes drawn when there are too many."""

MAX_CLASSES_WITH_COUNTS = 20
"""Larger confusion matrices have no room for counts."""

MEASURES = ("sparsity", "intra_class_distance", "feature_redundancy", "coding_length")
"""Representation metrics, see `evaluation.metrics.representation`."""

Points = Sequence[tuple[float, float]]
"""Seconds, and a value."""

TIME_UNITS = {"hours": 3600, "minutes": 60, "seconds": 1}
MOST_MARKERS = 40
"""Longer lines are drawn without markers."""

MARKERS = "osD^vPX"
"""Seven, so that with ten colors 70 models look different."""

LINES = ("-", "--", "-.", ":")
"""Four, so that with seven markers 28 models look different without colors."""


def svg(figure: Figure) -> str:
    """Return an `<svg>` element with text as text, ids unique to the figure, and no dependence on the clock."""
    element = _saved(figure, "svg", {"Date": None, "Creator": None}).decode()
    element = re.sub(r"<metadata>.*?</metadata>", "", element[element.index("<svg") :], flags=re.DOTALL)
    own = hashlib.sha256(element.encode()).hexdigest()[:8]
    # Figures must not share ids: one that used the clip paths of an SVG in a closed <details> would not be drawn.
    return re.sub(r"<[^>]*>", lambda tag: re.sub(r'( id="|href="#|url\(#)', rf"\g<1>f{own}-", tag[0]), element)


def pdf(figure: Figure) -> bytes:
    """Return a PDF file with embedded fonts, and no dependence on the clock."""
    return _saved(figure, "pdf", {"CreationDate": None})


def _saved(figure: Figure, file_format: str, metadata: Mapping[str, None]) -> bytes:
    file = io.BytesIO()
    with (
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "figment", "pdf.fonttype": 42}),
        warnings.catch_warnings(),
    ):
        # The reader's fonts draw the text of an SVG; ours only estimate its width.
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from", UserWarning)
        figure.savefig(file, format=file_format, bbox_inches="tight", metadata=metadata)
    return file.getvalue()


def label(name: str, num_letters: int = 32) -> str:
    """Return a name in one line, shortened in the middle (names differ at their ends), with dollar signs escaped."""
    line = " ".join(name.split())
    if len(line) > num_letters:
        line = line[: num_letters // 2] + "…" + line[num_letters // 2 + 1 - num_letters :]
    return line.replace("$", r"\$")


def line_style(i: int) -> dict[str, Any]:
    """Return the color, marker and line of model `i`, the same in all figures."""
    return {"color": f"C{i % 10}", "marker": MARKERS[i % len(MARKERS)], "linestyle": LINES[i % len(LINES)]}


def interval_bars(rows: Rows) -> np.ndarray:
    """Return the extents of `top1_interval` below and above `top1`, [2, N]; 0 for rows without an interval."""
    reaches = [
        (row["top1"] - row["top1_interval"][0], row["top1_interval"][1] - row["top1"])
        if row.get("top1_interval")
        else (0.0, 0.0)
        for row in rows
    ]
    return np.clip(np.array(reaches).reshape(-1, 2).T, 0, None)


def robustness_figure(models: Mapping[str, Mapping[str, Any]], sets: Sequence[str]) -> Figure:
    """Return a plot of top-1 with intervals over `sets`, a line per model; a single model gets a reference line."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots()
    for i, of_model in enumerate(models.values()):
        present = [(x, of_model[name]) for x, name in enumerate(sets) if name in of_model]
        if not present:
            continue
        # Offset the models, or similar models would hide each other's intervals.
        beside = (i - (len(models) - 1) / 2) * 0.6 / max(8, len(models))
        _dots(axes, [x + beside for x, _ in present], [row for _, row in present], i)
        if len(models) == 1:
            axes.axhline(present[0][1]["top1"], color="gray", linestyle="--", linewidth=1, zorder=0)
    axes.set_xticks(range(len(sets)), [label(name) for name in sets])
    if len(sets) > 5:
        axes.tick_params(axis="x", labelrotation=35)
        for tick in axes.get_xticklabels():
            tick.set(horizontalalignment="right", rotation_mode="anchor")
    axes.set(xlim=(-0.5, len(sets) - 0.5), ylabel="top-1")
    _in_percent(axes)
    if len(models) > 1:
        _legend_below(figure, dict(enumerate(models)))
    return figure


def _dots(axes: Axes, xs: Sequence[float], rows: Rows, i: int) -> None:
    values = [row["top1"] for row in rows]
    axes.errorbar(xs, values, yerr=interval_bars(rows), **line_style(i), linewidth=0.8, elinewidth=1.2, capsize=2.5)


def curve_figure(
    lines: Sequence[tuple[str, Sequence[float], Rows]], along: str, accuracy: str = "top-1 on real images"
) -> Figure:
    """Plot top-1 with intervals over training cost; lines are (name, x values, rows), one color per name."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(name for name, _, _ in lines))
    for name, columns, rows in lines:
        _dots(axes, columns, rows, names.index(name))
    axes.set(xlabel=along, ylabel=accuracy)
    _in_percent(axes)
    _legend_below(figure, dict(enumerate(names)))
    return figure


def pareto_figure(points: Mapping[str, tuple[float, Mapping[str, Any]]], front: Collection[str], along: str) -> Figure:
    """Plot top-1 with intervals over a cost, one numbered point per name; a dashed line joins the front's points."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots()
    for i, (name, (cost, row)) in enumerate(points.items()):
        _dots(axes, [cost], [row], i)
        weight = "bold" if name in front else "normal"
        axes.annotate(str(i + 1), (cost, row["top1"]), (5, 5), textcoords="offset points", weight=weight)
    corners = sorted((cost, row["top1"]) for name, (cost, row) in points.items() if name in front)
    axes.step(*zip(*corners, strict=True), where="post", color="gray", linestyle="--", linewidth=1, zorder=0)
    costs = [cost for cost, _ in points.values()]
    axes.set(xlabel=along, ylabel="top-1 on real images", xscale="log" if max(costs) > 10 * min(costs) else "linear")
    _in_percent(axes)
    _legend_below(figure, {i: f"{i + 1}: {name}" for i, name in enumerate(points)})
    return figure


def time_figure(title: str, lines: Mapping[str, Points], is_fraction: bool = False) -> Figure:
    """Return a small plot over time in s, min or h; lines are named if there are several. `title` is our own text."""
    figure = Figure(figsize=(4.7, 2.5), layout="constrained")
    axes = figure.subplots()
    last_seconds = max(seconds for points in lines.values() for seconds, _ in points)
    name, unit_seconds = next(
        (unit, each) for unit, each in TIME_UNITS.items() if last_seconds >= 2 * each or each == 1
    )
    for of_line, points in lines.items():
        places = [seconds / unit_seconds for seconds, _ in points]
        marker = "o" if len(points) <= MOST_MARKERS else ""
        axes.plot(places, [value for _, value in points], label=of_line, marker=marker, markersize=3, linewidth=1.3)
    axes.set(xlim=(0, last_seconds / unit_seconds * 1.02), xlabel=name)
    axes.set_ylim(*_from_zero(axes, is_fraction))
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    if is_fraction:
        _in_percent(axes)
    if len(lines) > 1:
        figure.legend(loc="outside lower center", ncols=len(lines), frameon=False)
    return figure


def _from_zero(axes: Axes, is_fraction: bool) -> tuple[float, float]:
    """Return limits that contain 0, and leave room above the highest value; of fractions, up to 1."""
    highest = axes.dataLim.y1
    return 0.0, min(1.03, highest * 1.08 + 0.01) if is_fraction else max(highest, 1e-9) * 1.08


def _in_percent(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.3)


def _legend_below(figure: Figure, names: Mapping[int, str]) -> None:
    """Draw a legend with the models' names, by their index among all, below the plot."""
    handles = [Line2D([], [], **line_style(i)) for i in names]
    texts = [label(name, 90) for name in names.values()]
    columns = max(1, min(4, 100 // (max(map(len, texts)) + 8)))
    figure.legend(handles, texts, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=columns, frameon=False)


def class_figure(per_class: Rows) -> Figure:
    """Return a plot of top-1 per class with intervals, sorted; above `MAX_CLASSES`, only the best and worst."""
    ranked = sorted((row for row in per_class if row["top1"] is not None), key=lambda row: -row["top1"])
    parts = {"": ranked}
    if len(ranked) > MAX_CLASSES:
        parts = {
            f"{NUM_EXTREMES} worst": ranked[: -NUM_EXTREMES - 1 : -1],
            f"{NUM_EXTREMES} best": ranked[:NUM_EXTREMES],
        }
    figure = Figure(figsize=(10, 1 + 0.19 * max(map(len, parts.values()))), layout="constrained")
    for axes, (title, rows) in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts.items(), strict=True):
        values = [row["top1"] for row in rows]
        axes.barh(range(len(rows)), values, xerr=interval_bars(rows), color="C0", alpha=0.7, ecolor="black", capsize=2)
        axes.set_yticks(range(len(rows)), [label(row["class_name"]) for row in rows], fontsize=8)
        axes.set(xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6), title=title, xlabel="top-1")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(axis="x", alpha=0.3)
    return figure


def confused_classes(per_class: Rows, confusions: Rows) -> dict[int, Mapping[str, Any]]:
    """Return the classes with images or predictions, by label; classes not in `per_class` are named by label."""
    of_label = {row["label"]: row for row in per_class}
    seen = {number for number, row in of_label.items() if row["num_images"]}
    seen |= {row[end] for row in confusions for end in ("label", "predicted")}
    return {number: of_label.get(number, {"class_name": f"label {number}", "num_images": 0}) for number in sorted(seen)}


def confusion_counts(per_class: Rows, confusions: Rows) -> np.ndarray:
    """Return the number of images of each class (row) by prediction (column), in the order of `confused_classes`.

    A class is the image's original label, whatever else is accepted for it.
    """
    classes = confused_classes(per_class, confusions)
    index = {number: i for i, number in enumerate(classes)}
    counts = np.zeros((len(index), len(index)), dtype=np.int64)
    for row in confusions:
        counts[index[row["label"]], index[row["predicted"]]] = row["num_images"]
    return counts


def confusion_figure(per_class: Rows, confusions: Rows) -> Figure:
    """Return a plot of the confusion matrix, colored by the fraction of a class's images; no color without images."""
    counts = confusion_counts(per_class, confusions)
    classes = confused_classes(per_class, confusions)
    sizes = np.array([row["num_images"] for row in classes.values()], dtype=np.float64)
    shares = counts / np.where(sizes > 0, sizes, np.nan)[:, None]
    few = len(classes) <= MAX_CLASSES_WITH_COUNTS
    side = 2 + len(classes) * (0.4 if few else 0.09)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    # Square root scale: with many classes even the most frequent confusion is a small fraction.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1), interpolation="none")
    names = [label(row["class_name"], 24) for row in classes.values()]
    axes.set_xticks(range(len(classes)), names, rotation=90, fontsize=8 if few else 6)
    axes.set_yticks(range(len(classes)), names, fontsize=8 if few else 6)
    axes.set(xlabel="predicted as", ylabel="class")
    figure.colorbar(image, ax=axes, shrink=0.6, format=PercentFormatter(1.0), label="of the class's images")
    for i, j in np.argwhere(counts) if few else ():
        ink = "w" if shares[i, j] > 0.3 else "k"
        axes.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize=8, color=ink)
    return figure


def reliability_figure(calibration: Rows) -> Figure:
    """Return a plot of accuracy over confidence with the diagonal, and the number of images per bin below."""
    bins = [row for row in calibration if row["num_images"]]
    figure = Figure(figsize=(5, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    confidences = [row["confidence"] for row in bins]
    above.plot([0, 1], [0, 1], color="gray", linestyle="--", linewidth=1)
    above.plot(confidences, [row["accuracy"] for row in bins], marker="o")
    above.set(ylim=(0, 1.03), ylabel="accuracy")
    _in_percent(above)
    below.vlines(confidences, 0, [row["num_images"] for row in bins], linewidth=6)
    below.set(xlim=(0, 1.03), ylim=(0, None), xlabel="confidence", ylabel="images")
    below.xaxis.set_major_formatter(PercentFormatter(1.0))
    below.grid(alpha=0.3)
    return figure


def scaled_by_maximum(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return [models, measures] divided by each measure's largest value, and these values [measures]; 0 stays 0."""
    largest = np.fmax.reduce(values, axis=0)
    return values / np.where(largest > 0, largest, 1.0), largest


def spider_figure(models: Mapping[str, Mapping[str, Any] | None]) -> Figure:
    """Return a radar plot of representations: one axis per measure, from 0 to the models' largest value."""
    values = np.array(
        [[None if row is None else row.get(name) for name in MEASURES] for row in models.values()], dtype=np.float64
    )
    scaled, largest = scaled_by_maximum(values)
    angles = np.arange(len(MEASURES)) * 2 * np.pi / len(MEASURES)
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots(subplot_kw={"projection": "polar"})
    for i, row in enumerate(scaled):
        axes.plot(np.append(angles, 0), np.append(row, row[0]), **line_style(i), linewidth=1.5)
    axes.set_ylim(0, 1.04)
    axes.set_yticks([0.25, 0.5, 0.75, 1], [""] * 4)
    titles = [f"{name.replace('_', ' ')}\n0 to {top:.4g}" for name, top in zip(MEASURES, largest, strict=True)]
    axes.set_xticks(angles, titles)
    axes.tick_params(axis="x", pad=8)
    for tick, angle in zip(axes.get_xticklabels(), angles, strict=True):
        # Labels extend away from the circle: those on the right are left-aligned, those on the left right-aligned.
        tick.set_horizontalalignment(("right", "center", "left")[1 + round(np.cos(angle))])
    _legend_below(figure, {i: name for i, (name, row) in enumerate(models.items()) if row is not None})
    return figure


def growth_figure(evaluations: Mapping[str, Mapping[str, Any]], sets: Sequence[str]) -> Figure:
    """Return a plot of top-1 over the number of distinct training images, one panel per set.

    Models without training images are omitted. A line joins models with the same `_ingredients`.
    """
    trained = {i: one for i, one in enumerate(evaluations.values()) if one["model"]["num_images"]}
    num_columns = min(3, len(sets))
    num_rows = -(-len(sets) // num_columns)
    size = (10 if num_columns > 1 else 6, 0.4 + 2.7 * num_rows)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.08))
    panels = figure.subplots(num_rows, num_columns, squeeze=False).flat
    for axes in list(panels)[len(sets) :]:
        axes.remove()
    for i, (axes, name) in enumerate(zip(figure.axes, sets, strict=True)):
        _growth_panel(axes, trained, name)
        axes.set(
            xlabel="training images" if i + num_columns >= len(sets) else "",
            ylabel="top-1" if i % num_columns == 0 else "",
        )
    _legend_below(figure, {i: name for i, name in enumerate(evaluations) if i in trained})
    return figure


def _growth_panel(axes: Axes, evaluations: Mapping[int, Mapping[str, Any]], name: str) -> None:
    points = [
        (_ingredients(one), one["model"]["num_images"], one["sets"][name]["top1"]) for one in evaluations.values()
    ]
    for _, alike in groupby(sorted(points), key=lambda point: point[0]):
        axes.plot(*zip(*(point[1:] for point in alike), strict=True), color="0.75", linewidth=1, zorder=1)
    for i, one in evaluations.items():
        _dots(axes, [one["model"]["num_images"]], [one["sets"][name]], i)
    nums = [num for _, num, _ in points]
    axes.set_xscale("log")
    # At least a factor of 4, which contains a 1, 2 or 5 of some decade.
    axes.set_xlim(min(nums) / 2, max(nums) * 2)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(nums) < 10 * min(nums) else (1,)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_title(label(name), fontsize=10)
    _in_percent(axes)


def _ingredients(evaluation: Mapping[str, Any]) -> str:
    """Return what models on one line have in common; the recipe does not matter for models trained on real images."""
    model = evaluation["model"]
    recipe = [] if model["trained_on"] == "real" else [model["guidance_scale"], model["templates"]]
    return repr([model["trained_on"], model["architecture"], model["label_space"], model["augmentation"], recipe])
