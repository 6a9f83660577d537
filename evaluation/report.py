"""An evaluation's numbers as JSON and as a table."""

from typing import Any

from rich.console import Console
from rich.table import Table

from evaluation.metrics import HitCounts


def evaluation_json(counts: HitCounts, class_names: tuple[str, ...], dataset: str) -> dict[str, Any]:
    """Return accuracies as fractions in 0..1 with the counts they come from; a class without images has null."""
    return {
        "dataset": dataset,
        "num_real_images": int(counts.num_images.sum()),
        "top1": counts.top1,
        "top5": counts.top5,
        "per_class": [
            {
                "label": label,
                "class_name": name,
                "num_images": int(counts.num_images[label]),
                "num_top1": int(counts.num_top1[label]),
                "num_top5": int(counts.num_top5[label]),
                "top1": _fraction(counts.num_top1[label], counts.num_images[label]),
                "top5": _fraction(counts.num_top5[label], counts.num_images[label]),
            }
            for label, name in enumerate(class_names)
        ],
    }


def _fraction(num_hits: int, num_images: int) -> float | None:
    return float(num_hits / num_images) if num_images else None


def print_evaluation(evaluation: dict[str, Any]) -> None:
    """Print a row a class, and the whole set's."""
    table = Table(title=f"Real images: {evaluation['dataset']}")
    for column in ("class", "images", "top-1", "top-5"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for row in evaluation["per_class"]:
        table.add_row(row["class_name"], str(row["num_images"]), _percent(row["top1"]), _percent(row["top5"]))
    table.add_section()
    table.add_row("all", str(evaluation["num_real_images"]), _percent(evaluation["top1"]), _percent(evaluation["top5"]))
    Console().print(table)


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{fraction:.2%}"
