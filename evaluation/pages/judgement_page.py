"""Quality report of generated images, as one self-contained HTML page of numbers without images."""

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.pages.html import html_table, number, page, percent

COLUMNS = {
    "recognised": ("recognised", percent),
    "real_recognised": ("real images recognised", percent),
    "precision": ("precision", percent),
    "recall": ("recall", percent),
    "density": ("density", number),
    "coverage": ("coverage", percent),
    "frechet_distance": ("Fréchet distance", number),
    "diversity": ("diversity", number),
    "real_diversity": ("diversity of real images", number),
    "num_generated": ("generated images", number),
    "num_real": ("real images", number),
}

MEANINGS = """
<p>Recognised is the fraction of images that the reference classifier assigns to their class. Precision and recall
(arXiv 1904.06991), density and coverage (arXiv 2002.09797) use the classifier's features and the {num_neighbours}
nearest neighbours. Recall and coverage measure how much of the variety of the real images the generated images cover.
Fréchet distances (arXiv 1706.08500) are comparable only if they use the features of the same classifier and the same
numbers of images. Diversity is the mean distance between the features of two images of a class.</p>
"""


def quality_page(results: Mapping[str, Any]) -> str:
    """Return the HTML page for the results of `ray_jobs.judge`."""
    facts = [[name, str(value)] for name, value in {**results["facts"], **results["circumstances"]}.items()]
    found = results["judgement"]
    by_class = sorted(found["per_class"], key=lambda row: row["coverage"])
    overall = found["overall"] | {"class_name": f"all {number(len(by_class))}"}
    body = [
        f'<div class="text facts">{html_table([], facts)}</div>',
        "<h2>All classes</h2>",
        _table("classes", [overall]),
        MEANINGS.format(num_neighbours=found["num_neighbours"]),
        "<h2>By class, lowest coverage first</h2>",
        _table("class", by_class),
    ]
    return page("Quality of generated images", "\n".join(body))


def _table(first_column: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return an HTML table with narrow columns, so that all columns fit on a page."""
    head = [first_column, *(title for title, _ in COLUMNS.values())]
    cells = [[row["class_name"], *(write(row[name]) for name, (_, write) in COLUMNS.items())] for row in rows]
    return f'<div class="dense">{html_table(head, cells)}</div>'
