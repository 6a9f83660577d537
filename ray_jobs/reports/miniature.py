"""Markdown page with plots for a grid of small experiments. Uses their results only."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from evaluation.pages.html import markdown_text
from evaluation.pages.plots import label, svg
from generation.files import write_whole
from ray_jobs.reports.findings import KINDS, Cell, findings, kinds_of, names_of, shift_of


def markdown(cells: Sequence[Cell], circumstances: Mapping[str, str], plots: Sequence[str]) -> str:
    """Return the page; `plots` are file names in the page's folder."""
    facts = "; ".join(f"{name} {markdown_text(value)}" for name, value in circumstances.items())
    sizes = ", ".join(dict.fromkeys(cell.size for cell in cells if cell.data == "generated"))
    parts = [
        "# The paper in miniature",
        f"Made by `make miniature`: {facts}.",
        f"Top-1 in percent on 540 real digits, {_order(cells)}. All classifiers train for the same number of steps; "
        f"{sizes} are numbers of distinct images, and larger sets contain the smaller ones. Strong is the paper's "
        "augmentation with the number of local crops in the config.",
        _table(cells),
        "\n\n".join(f"![{name}]({name})" for name in plots),
        "## What it shows of the paper's findings",
        "A pair is two classifiers that differ only in the compared setting; differences are means over pairs, with "
        "minimum and maximum. All use one seed, and pairs share test images and some training images: they are not "
        "independent repetitions, and the number of pairs that agree says nothing about other seeds. Clean digits, "
        "shifts that no prompt names and shifts that prompts name have separate findings (the digits model "
        "learned inverted digits, backgrounds and noise from prompts that name them), and separate verdicts for plain "
        "and strong augmentation unless these are compared. Strong augmentation helps generated images more in a pair "
        "of generated sets if their gain exceeds the mean gain on real images.",
        *(f"- **{each.claim}** {each.verdict.capitalize()}. {each.evidence}" for each in findings(cells)),
        "## Each shift",
        _shift_table(cells),
    ]
    return "\n\n".join(parts) + "\n"


def _order(cells: Sequence[Cell]) -> str:
    """Return the meaning of the numbers in a table cell, in order."""
    shifts = {kind: ", ".join(map(shift_of, names_of(kind, cells[0].top1))) for kind in kinds_of(cells)}
    return " / ".join("clean" if kind == "clean" else f"mean {KINDS[kind]} ({names})" for kind, names in shifts.items())


def _table(cells: Sequence[Cell]) -> str:
    columns = sorted({(cell.num_images, cell.size, cell.augmentation) for cell in cells if cell.data == "generated"})
    head = ["images", "prompt", "guidance", *(f"{size} ({number:,}), {way}" for number, size, way in columns)]
    found = {(cell.form, cell.guidance, cell.size, cell.augmentation): cell for cell in cells}
    kinds = dict.fromkeys((cell.form, cell.guidance) for cell in cells if cell.data == "generated")
    rows = [
        ["generated", form, f"{guidance:g}", *(_by_kind(found[form, guidance, size, way]) for _, size, way in columns)]
        for form, guidance in kinds
    ]
    for cell in cells:
        if cell.data == "real":
            rows.append(["real", f"{cell.num_images:,} images, {cell.augmentation}", "", _by_kind(cell)])
    return _lines(head, rows)


def _shift_table(cells: Sequence[Cell]) -> str:
    names = list(cells[0].top1)
    rows = [
        [cell.data, cell.form, f"{cell.guidance:g}" if cell.form else "", cell.size, cell.augmentation]
        + [f"{100 * cell.top1[name]:.1f}" for name in names]
        for cell in cells
    ]
    return _lines(["images", "prompt", "guidance", "size", "augmentation", *names], rows)


def _by_kind(cell: Cell) -> str:
    return " / ".join(f"{100 * cell.over(kind):.1f}" for kind in kinds_of([cell]))


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    filled = [[*row, *[""] * (len(head) - len(row))] for row in rows]
    shown = [[markdown_text(cell) for cell in row] for row in [head, *filled]]
    return "\n".join("| " + " | ".join(row) + " |" for row in [shown[0], ["---"] * len(head), *shown[1:]])


def write_plots(folder: Path, cells: Sequence[Cell]) -> list[str]:
    """Write a plot of accuracy over the number of images for each kind of real sets; return the file names."""
    names = []
    for kind in kinds_of(cells):
        text = svg(size_figure(cells, kind))
        write_whole(folder / f"{kind}.svg", lambda file, text=text: file.write(text.encode()))
        names.append(f"{kind}.svg")
    return names


def size_figure(cells: Sequence[Cell], kind: str) -> Figure:
    """Return a figure of top-1 over the number of images.

    One panel per prompt form, one colour per guidance scale; dashed lines for strong augmentation.
    """
    forms = list(dict.fromkeys(cell.form for cell in cells if cell.data == "generated"))
    figure = Figure(figsize=(4 * len(forms), 4), layout="constrained")
    panels = figure.subplots(1, len(forms), sharey=True, squeeze=False)[0]
    for axes, form in zip(panels, forms, strict=True):
        scales = dict.fromkeys(cell.guidance for cell in cells if cell.form == form)
        lines = [("generated", form, guidance, f"guidance {guidance:g}") for guidance in scales]
        for i, (data, of_form, guidance, title) in enumerate([*lines, ("real", "", 0.0, "real")]):
            for way, style in (("plain", "-"), ("strong", "--")):
                wanted = (data, of_form, guidance, way)
                points = sorted(
                    (cell.num_images, 100 * cell.over(kind))
                    for cell in cells
                    if (cell.data, cell.form, cell.guidance, cell.augmentation) == wanted
                )
                color = "black" if data == "real" else f"C{i}"
                axes.plot(*zip(*points, strict=True), style, marker=".", color=color, label=f"{title}, {way}")
        axes.set(xscale="log", title=label(form), xlabel="different images")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(f"top-1 {KINDS[kind]}, %")
    panels[-1].legend(fontsize=7)
    return figure
