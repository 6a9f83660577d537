"""Show evaluations side by side: `python -m ray_jobs.report runs/A/evaluation runs/B/evaluation ... --out DIR`.

Each is a folder written by `ray_jobs.evaluate` or `ray_jobs.train`, or a run's folder for its newest evaluation. Writes
`report.html`, `evaluations.json` and `evaluations.csv`; needs no cluster.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from ray_jobs.cli.command_line import run_and_exit

    run_and_exit("report")

import json
import re
from collections.abc import Sequence
from pathlib import Path

from evaluation.pages.model_page import csv_text
from evaluation.pages.side_by_side import side_by_side_page
from evaluation.result import Evaluation, read_evaluation
from ray_jobs.cli.errors import user_errors
from ray_jobs.cli.run_folder import resolve, write_anew


def main(places: Sequence[str], out: Path) -> None:
    """Run the command: read the evaluations and write a page that compares them."""
    with user_errors():
        paths = [find_evaluation(resolve(place)) for place in places]
        evaluations = [read_file(path) for path in paths]
        files = side_by_side_files(evaluations)
    for path, evaluation in zip(paths, evaluations, strict=True):
        print(f"{evaluation['model']['name']}: {path}")
    with user_errors():
        for name, text in files.items():
            write_anew(out / name, text)
    print(f"Everything is in {out}: {', '.join(files)}")


def find_evaluation(place: Path) -> Path:
    """Return the file of an evaluation, or of a run's newest; ValueError if there is none."""
    of_run = [path for path in place.glob("evaluation*/evaluation.json") if _number(path)]
    candidates = [place, place / "evaluation.json", *sorted(of_run, key=_number, reverse=True)]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise ValueError(f"'{place}' has no evaluation.json. Run figment evaluate first.")
    return found


def _number(path: Path) -> int:
    """Return the number in an evaluation folder's name: 1 without a number, 0 for other folders."""
    named = re.fullmatch(r"evaluation(?:-(\d+))?", path.parent.name)
    return int(named[1] or 1) if named else 0


def read_file(path: Path) -> Evaluation:
    """Return the evaluation in a file; ValueError if the file is something else."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ValueError(f"'{path}' cannot be read: {error}.") from error
    try:
        return read_evaluation(text)
    except ValueError as error:
        raise ValueError(
            f"'{path}' was not written by this version's ray_jobs.evaluate: {error}. Evaluate the model again."
        ) from error


def side_by_side_files(evaluations: list[Evaluation]) -> dict[str, str]:
    """Return the texts of page, JSON and CSV of several evaluations, by file name."""
    return {
        "report.html": side_by_side_page(evaluations),
        "evaluations.json": json.dumps(evaluations, indent=2) + "\n",
        "evaluations.csv": csv_text(evaluations),
    }
