"""Lay evaluations side by side: `python -m ray_jobs.report runs/A/evaluation runs/B/evaluation ... --out DIR`.

Each is a folder that `ray_jobs.evaluate` or `ray_jobs.train` wrote, or a run's folder. Writes `report.html`,
`evaluations.json` and `evaluations.csv`; needs no cluster.
"""

import json
import sys
from pathlib import Path
from typing import Any

from evaluation.pages import csv_text
from evaluation.side_by_side import side_by_side_page
from ray_jobs.options import split_options
from ray_jobs.run_directory import check_output, resolve
from ray_jobs.user_errors import user_errors


def main() -> None:
    """Compose the job: evaluations, a page."""
    with user_errors():
        options, places = split_options(sys.argv[1:], ("out",))
        if not places or "out" not in options:
            raise ValueError("Usage: python -m ray_jobs.report EVALUATION [EVALUATION ...] --out DIR")
        folder = resolve(options["out"])
        check_output(folder)
        evaluations = [read_evaluation(resolve(place)) for place in places]
    write_side_by_side(folder, evaluations)
    print(f"Everything is in {folder}: report.html, evaluations.json, evaluations.csv")


def read_evaluation(place: Path) -> dict[str, Any]:
    """Return an evaluation; ValueError if there is none."""
    path = next((path for path in candidates(place) if path.is_file()), None)
    if path is None:
        raise ValueError(f"'{place}' holds no evaluation.json. Make it with python -m ray_jobs.evaluate.")
    try:
        evaluation = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"'{path}' cannot be read: {error}.") from error
    if not isinstance(evaluation, dict) or not {"model", "circumstances", "sets"} <= evaluation.keys():
        raise ValueError(f"'{path}' was not written by this version's ray_jobs.evaluate. Evaluate the model again.")
    return evaluation


def candidates(place: Path) -> tuple[Path, ...]:
    """Return where an evaluation may be."""
    return place, place / "evaluation.json", place / "evaluation" / "evaluation.json"


def write_side_by_side(folder: Path, evaluations: list[dict[str, Any]]) -> None:
    """Write a page, a JSON and a CSV of several evaluations."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.html").write_text(side_by_side_page(evaluations))
    (folder / "evaluations.json").write_text(json.dumps(evaluations, indent=2) + "\n")
    (folder / "evaluations.csv").write_text(csv_text(evaluations))


if __name__ == "__main__":
    main()
