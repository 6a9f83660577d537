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
                "top1": float(counts.top1_by_class[label]) if counts.num_images[label] else None,
            }
            for label, name in enumerate(class_names)
        ],
    }


def print_evaluation(evaluation: dict[str, Any]) -> None:
    """Print a row a class, and the whole set's."""
    table = Table(title=f"Real images: {evaluation['dataset']}")
    for column in ("class", "images", "top-1 hits", "top-1"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for row in evaluation["per_class"]:
        top1 = "-" if row["top1"] is None else f"{row['top1']:.4f}"
        table.add_row(row["class_name"], str(row["num_images"]), str(row["num_top1"]), top1)
    num_top1 = sum(row["num_top1"] for row in evaluation["per_class"])
    table.add_section()
    table.add_row("all", str(evaluation["num_real_images"]), str(num_top1), f"{evaluation['top1']:.4f}")
    console = Console()
    console.print(table)
    console.print(f"top-1 {evaluation['top1']:.4f}, top-5 {evaluation['top5']:.4f}")
