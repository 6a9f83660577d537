"""A grid of small experiments as a page of Markdown with plots. Knows no images."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from evaluation.findings import CLEAN, Cell, findings
from evaluation.page_parts import markdown_text
from evaluation.plots import label, svg
from generation.files import write_whole

MEASURES: dict[str, Callable[[Cell], float]] = {
    "clean": lambda cell: cell.clean,
    "shifted": lambda cell: cell.shifted,
}


def markdown(cells: Sequence[Cell], circumstances: Mapping[str, str], plots: Sequence[str]) -> str:
    """Return the page; `plots` are files beside it."""
    facts = "; ".join(f"{name} {markdown_text(value)}" for name, value in circumstances.items())
    shifts = ", ".join(name.split("/")[-1] for name in cells[0].top1 if name != CLEAN)
    sizes = ", ".join(dict.fromkeys(cell.size for cell in cells if cell.data == "generated"))
    parts = [
        "# The paper in miniature",
        f"Made by `make miniature`: {facts}.",
        f"Top-1 in per cent on 540 real digits, clean / mean over shifts ({shifts}). All classifiers take as many "
        f"steps; {sizes} are different images. Strong is the paper's augmentation, of as many local crops as the "
        "config says.",
        _table(cells),
        "\n\n".join(f"![{name}]({name})" for name in plots),
        "## What it shows of the paper's findings",
        "Differences are means over pairs of classifiers that differ in nothing else, with their standard error. Pairs "
        "share test images, and partly training images: take errors for a lower bound. Shown: above zero by more "
        "errors than the two-sided 95% quantile of Student's t, which is 12.7 for two pairs, 2.6 for six and 2.0 for "
        "many. Classifiers with plain and with strong augmentation are judged apart, and so are shifts that prompts "
        "were taught: the digits model knows inverted digits, backgrounds and noise by their prompts.",
        *(f"- **{each.claim}** {each.verdict.capitalize()}. {each.evidence}" for each in findings(cells)),
        "## Each shift",
        _shift_table(cells),
    ]
    return "\n\n".join(parts) + "\n"


def _table(cells: Sequence[Cell]) -> str:
    columns = sorted({(cell.num_images, cell.size, cell.augmentation) for cell in cells if cell.data == "generated"})
    head = ["images", "prompt", "guidance", *(f"{size} ({number:,}), {way}" for number, size, way in columns)]
    found = {(cell.form, cell.guidance, cell.size, cell.augmentation): cell for cell in cells}
    kinds = dict.fromkeys((cell.form, cell.guidance) for cell in cells if cell.data == "generated")
    rows = [
        ["generated", form, f"{guidance:g}", *(_both(found[form, guidance, size, way]) for _, size, way in columns)]
        for form, guidance in kinds
    ]
    for cell in cells:
        if cell.data == "real":
            rows.append(["real", f"{cell.num_images:,} images, {cell.augmentation}", "", _both(cell)])
    return _lines(head, rows)


def _shift_table(cells: Sequence[Cell]) -> str:
    names = list(cells[0].top1)
    rows = [
        [cell.data, cell.form, f"{cell.guidance:g}" if cell.form else "", cell.size, cell.augmentation]
        + [f"{100 * cell.top1[name]:.1f}" for name in names]
        for cell in cells
    ]
    return _lines(["images", "prompt", "guidance", "size", "augmentation", *names], rows)


def _both(cell: Cell) -> str:
    return f"{100 * cell.clean:.1f} / {100 * cell.shifted:.1f}"


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    filled = [[*row, *[""] * (len(head) - len(row))] for row in rows]
    shown = [[markdown_text(cell) for cell in row] for row in [head, *filled]]
    return "\n".join("| " + " | ".join(row) + " |" for row in [shown[0], ["---"] * len(head), *shown[1:]])


def write_plots(folder: Path, cells: Sequence[Cell]) -> list[str]:
    """Write accuracy over the number of images, clean and shifted; return the files' names."""
    names = []
    for name, measure in MEASURES.items():
        text = svg(size_figure(cells, name, measure))
        write_whole(folder / f"{name}.svg", lambda file, text=text: file.write(text.encode()))
        names.append(f"{name}.svg")
    return names


def size_figure(cells: Sequence[Cell], name: str, measure: Callable[[Cell], float]) -> Figure:
    """Return top-1 over the number of images: a panel a prompt form, a colour a guidance scale, dashes for strong."""
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
                    (cell.num_images, 100 * measure(cell))
                    for cell in cells
                    if (cell.data, cell.form, cell.guidance, cell.augmentation) == wanted
                )
                color = "black" if data == "real" else f"C{i}"
                axes.plot(*zip(*points, strict=True), style, marker=".", color=color, label=f"{title}, {way}")
        axes.set_xscale("log")
        axes.set_title(label(form))
        axes.set_xlabel("different images")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(f"top-1 on {name} digits, %")
    panels[-1].legend(fontsize=7)
    return figure
