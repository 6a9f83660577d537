"""A grid of small experiments as a page of Markdown with plots. Knows no images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from evaluation.pages.html import markdown_text
from evaluation.pages.plots import label, svg
from generation.files import write_whole
from ray_jobs.reports.findings import WHERE, Cell, findings, kinds_of, names_of, shift_of


def markdown(cells: Sequence[Cell], circumstances: Mapping[str, str], plots: Sequence[str]) -> str:
    """Return the page; `plots` are files beside it."""
    facts = "; ".join(f"{name} {markdown_text(value)}" for name, value in circumstances.items())
    sizes = ", ".join(dict.fromkeys(cell.size for cell in cells if cell.data == "generated"))
    parts = [
        "# The paper in miniature",
        f"Made by `make miniature`: {facts}.",
        f"Top-1 in per cent on 540 real digits, {_order(cells)}. All classifiers take as many steps; {sizes} are "
        "numbers of different images, and the larger sets contain the smaller. Strong is the paper's augmentation, of "
        "as many local crops as the config says.",
        _table(cells),
        "\n\n".join(f"![{name}]({name})" for name in plots),
        "## What it shows of the paper's findings",
        "A pair is two classifiers that differ in nothing else; differences are means over pairs, with the least and "
        "the most. There is one seed for all, and pairs share test images and partly training images: they are no "
        "independent repetitions, and how many agree says nothing of other seeds. Clean digits, shifts that no prompt "
        "was taught and shifts that prompts were taught are judged apart (the digits model knows inverted digits, "
        "backgrounds and noise by their prompts), and so are plain and strong augmentation where these are not what is "
        "compared. Strong augmentation helps generated images more in a pair of them that gains more by it than real "
        "images in the mean.",
        *(f"- **{each.claim}** {each.verdict.capitalize()}. {each.evidence}" for each in findings(cells)),
        "## Each shift",
        _shift_table(cells),
    ]
    return "\n\n".join(parts) + "\n"


def _order(cells: Sequence[Cell]) -> str:
    """Return what the numbers of a cell of the table are, in their order."""
    shifts = {kind: ", ".join(map(shift_of, names_of(kind, cells[0].top1))) for kind in kinds_of(cells)}
    return " / ".join("clean" if kind == "clean" else f"mean {WHERE[kind]} ({names})" for kind, names in shifts.items())


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
    """Write accuracy over the number of images for each kind of real sets; return the files' names."""
    names = []
    for kind in kinds_of(cells):
        text = svg(size_figure(cells, kind))
        write_whole(folder / f"{kind}.svg", lambda file, text=text: file.write(text.encode()))
        names.append(f"{kind}.svg")
    return names


def size_figure(cells: Sequence[Cell], kind: str) -> Figure:
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
                    (cell.num_images, 100 * cell.over(kind))
                    for cell in cells
                    if (cell.data, cell.form, cell.guidance, cell.augmentation) == wanted
                )
                color = "black" if data == "real" else f"C{i}"
                axes.plot(*zip(*points, strict=True), style, marker=".", color=color, label=f"{title}, {way}")
        axes.set(xscale="log", title=label(form), xlabel="different images")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(f"top-1 {WHERE[kind]}, %")
    panels[-1].legend(fontsize=7)
    return figure
