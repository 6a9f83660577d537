"""Building blocks of evaluation pages: tables, numbers as text, shared sections.

Returns text; reads and writes no files.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any

from evaluation.result import Evaluation

STYLE = """
:root { color-scheme: light dark; }
body { font: 14px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
p { max-width: 62rem; overflow-wrap: anywhere; }
h1, h2, h3 { overflow-wrap: anywhere; }
table { border-collapse: collapse; margin: .5rem 0; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #8884; text-align: right; white-space: pre-line; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: Canvas; }
td:first-child, .text td { overflow-wrap: break-word; max-width: 24rem; }
td:first-child { min-width: 11rem; }
.text th, .text td { text-align: left; vertical-align: top; }
.facts td + td { max-width: 52rem; }
.wide { overflow-x: auto; }
.wide svg { max-width: none; }
svg { max-width: 100%; height: auto; background: white; }
.dense th, .dense td { padding: .3rem .35rem; }
.dense td:first-child { min-width: 8rem; }
pre { overflow: auto; max-height: 40rem; }
summary { cursor: pointer; }
"""


def page(title: str, body: str, style: str = STYLE) -> str:
    """Return a self-contained HTML page; `body` is HTML, `title` is text."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><style>{style}</style></head>
<body>
<h1>{escape(title)}</h1>
{body}
</body></html>
"""


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]], bold: Collection[tuple[int, int]] = ()) -> str:
    """Return a table that scrolls if it is too wide; cells are text, `bold` lists (row, column) of bold cells."""
    titles = f"<thead><tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr></thead>\n" if head else ""
    lines = "".join(
        "<tr>" + "".join(_cell(text, (i, j) in bold) for j, text in enumerate(row)) + "</tr>\n"
        for i, row in enumerate(rows)
    )
    return f'<div class="wide"><table>{titles}<tbody>{lines}</tbody></table></div>'


def _cell(text: str, is_bold: bool) -> str:
    return f"<td><b>{escape(text)}</b></td>" if is_bold else f"<td>{escape(text)}</td>"


def details(summary: str, content: str) -> str:
    """Return collapsible HTML; `summary` is text."""
    return f"<details><summary>{escape(summary)}</summary>\n{content}\n</details>"


def markdown_text(text: str) -> str:
    """Return Markdown that shows a text literally in one line, also in a table cell."""
    return re.sub(r"([\\`*_\[\]<>|~$&])", r"\\\1", " ".join(text.split()))


def markdown_code(text: str) -> str:
    """Return Markdown that shows a text in one line as code; backticks in it are safe."""
    line = " ".join(text.split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line else f"{fence}{line}{fence}"


def percent(fraction: float | None, interval: Sequence[float] | None = None) -> str:
    """Return a fraction as a percentage, with its interval (also in percent) on a second line; `-` for None."""
    if fraction is None:
        return "-"
    ends = ",\N{NO-BREAK SPACE}".join(f"{100 * end:.2f}" for end in interval or ())
    return f"{fraction:.2%}\n[{ends}]" if ends else f"{fraction:.2%}"


def points(difference: float, interval: Sequence[float] | None) -> str:
    """Return a difference of fractions in percentage points, with its interval on a second line."""
    ends = ",\N{NO-BREAK SPACE}".join(f"{100 * end:.2f}" for end in interval or ())
    return f"{100 * difference:+.2f}" + (f"\n[{ends}]" if ends else "")


def number(value: float | None) -> str:
    """Return a count with thousands separators, or a float with four digits; `-` for None."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def by_unique_name(evaluations: Sequence[Evaluation]) -> dict[str, Evaluation]:
    """Return evaluations by their model's name; repeated names get a number."""
    by_name: dict[str, Evaluation] = {}
    for evaluation in evaluations:
        name, count = evaluation["model"]["name"], 1
        while (unique := name if count == 1 else f"{name} ({count})") in by_name:
            count += 1
        by_name[unique] = evaluation
    return by_name


def section(title: str, content: str) -> str:
    """Return HTML under a title; the title is text."""
    return f"<h2>{escape(title)}</h2>\n{content}"


def facts_of(evaluation: Evaluation) -> dict[str, str]:
    """Return the facts about a model and its evaluation that precede the results."""
    model, circumstances = evaluation["model"], evaluation["circumstances"]
    scales, templates = (f"{scale:g}" for scale in model["guidance_scale"]), "\n".join(model["templates"])
    taught = {"guidance scale": ", ".join(scales), "templates": templates} if model["trained_on"] != "real" else {}
    num_images, num_uses = number(model["num_images"]), number(model["num_trained"])
    return {
        "architecture": model["architecture"],
        "classes": f"{number(model['num_classes'])}, {model['label_space']}",
        "image size": f"{model['image_size']} px",
        "trained on": f"{num_images} {model['trained_on']} images, {num_uses} uses",
        **taught,
        "augmentation": model["augmentation"],
        "recipe": model["recipe_sha256"][:12],
        "checkpoint": model["checkpoint"],
        "commit": circumstances["commit"],
        "machine": circumstances["machine"],
        "date": circumstances["date"],
    }


def set_title(name: str, *rows: Mapping[str, Any]) -> str:
    """Return a transfer set's name, with the origin of its split on a second line if known."""
    splits = sorted({row["split"] for row in rows if row.get("split")})
    return f"{name}\n{' or '.join(splits)} split" if splits else name


def robustness(models: Mapping[str, Evaluation], sets: Sequence[str]) -> str:
    """Return a section with a plot of top-1 over sets, one color per model; empty for fewer than two points."""
    results = {name: one["sets"] for name, one in models.items()}
    if sum(name in of_model for of_model in results.values() for name in sets) < 2:
        return ""
    from evaluation.pages.plots import robustness_figure, svg  # imports matplotlib

    return section("Robustness", svg(robustness_figure(results, sets)))


def representation_table(models: Mapping[str, Evaluation]) -> str:
    """Return a table of representation metrics, one row per model."""
    from evaluation.pages.plots import MEASURES

    columns = ["set", "num_images", "num_dimensions", *MEASURES]
    head = ["model", "set", "images", "dimensions", *(name.replace("_", " ") for name in MEASURES)]
    rows = []
    for name, one in models.items():
        measured = one.get("representation") or {}
        values = [measured.get(column) for column in columns]
        rows.append([name, values[0] or "-", *(number(value) for value in values[1:])])
    return html_table(head, rows) + "<p>Coding length in nats; the others have no unit.</p>"
