"""Lay evaluations side by side: `python -m ray_jobs.report runs/A/evaluation runs/B/evaluation ... --out DIR`.

Each is a folder that `ray_jobs.evaluate` or `ray_jobs.train` wrote, or a run's folder for its newest evaluation. Writes
`report.html`, `evaluations.json` and `evaluations.csv`; needs no cluster.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evaluation.pages.model_page import csv_text
from evaluation.pages.plots import MEASURES
from evaluation.pages.side_by_side import side_by_side_page
from generation.files import write_whole
from ray_jobs.cli.errors import user_errors
from ray_jobs.cli.options import split_options
from ray_jobs.job.run_folder import check_output, resolve

EACH = "*"
"""In `NEEDED`, any key of a dict."""

NUMBER = (int, float)

NEEDED = {
    "model": {
        **dict.fromkeys(("name", "architecture", "checkpoint", "label_space", "trained_on", "recipe_sha256"), str),
        **dict.fromkeys(("num_classes", "image_size", "num_images", "num_trained"), int),
        "guidance_scale": [NUMBER],
        "templates": [str],
        "augmentation": str,
    },
    "circumstances": {"commit": str, "machine": str, "date": str},
    "sets": {
        EACH: {
            "num_images": int,
            "num_shared_classes": int,
            "top1": NUMBER,
            "top1_interval": ([NUMBER, NUMBER], None),
            "per_class": [{"label": int, "class_name": str, "num_images": int, "top1": (*NUMBER, None)}],
        }
    },
    "representation": (
        {"set": str, **dict.fromkeys(("num_images", "num_dimensions", *MEASURES), (*NUMBER, None))},
        None,
    ),
    "transfer": (
        {
            "sets": {
                EACH: {
                    "top1": NUMBER,
                    **dict.fromkeys(("num_classes", "num_trainval", "num_test"), (int, None)),
                    "split": (str, None),
                }
            },
            "log_odds_average": (*NUMBER, None),
        },
        None,
    ),
}
"""What pages read of an evaluation: dicts by key, lists by element (or, of several, by place), tuples of choices.

What may be None may be missing.
"""


def main() -> None:
    """Compose the job: evaluations, a page."""
    with user_errors():
        options, places = split_options(sys.argv[1:], ("out",))
        if not places or "out" not in options:
            raise ValueError("Usage: python -m ray_jobs.report EVALUATION [EVALUATION ...] --out DIR")
        folder = resolve(options["out"])
        check_output(folder)
        paths = [find_evaluation(resolve(place)) for place in places]
        evaluations = [read_evaluation(path) for path in paths]
        files = side_by_side_files(evaluations)
    for path, evaluation in zip(paths, evaluations, strict=True):
        print(f"{evaluation['model']['name']}: {path}")
    with user_errors():
        write_files(folder, files)
    print(f"Everything is in {folder}: {', '.join(files)}")


def find_evaluation(place: Path) -> Path:
    """Return an evaluation's file, of a run the newest; ValueError if there is none."""
    of_run = [path for path in place.glob("evaluation*/evaluation.json") if _number(path)]
    candidates = [place, place / "evaluation.json", *sorted(of_run, key=_number, reverse=True)]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise ValueError(f"'{place}' holds no evaluation.json. Make it with python -m ray_jobs.evaluate.")
    return found


def _number(path: Path) -> int:
    """Return the number in the name of an evaluation's folder: the first has none and is 1, another folder is 0."""
    named = re.fullmatch(r"evaluation(?:-(\d+))?", path.parent.name)
    return int(named[1] or 1) if named else 0


def read_evaluation(path: Path) -> dict[str, Any]:
    """Return an evaluation that has what pages need; ValueError for another file."""
    try:
        evaluation = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"'{path}' cannot be read: {error}.") from error
    if isinstance(evaluation, dict) and isinstance(evaluation.get("model"), dict):
        # Before evaluations said so, there were generated images alone.
        evaluation["model"].setdefault("trained_on", "generated")
    if fault := next(faults(evaluation, NEEDED), None):
        raise ValueError(
            f"'{path}' was not written by this version's ray_jobs.evaluate: {fault} is missing, or of another type. "
            "Evaluate the model again."
        )
    return evaluation


def faults(value: Any, needed: Any, place: str = "") -> Iterator[str]:
    """Return the places at which a JSON is not as `NEEDED` has it."""
    if isinstance(needed, tuple):
        if all(any(faults(value, choice, place)) for choice in needed):
            yield from faults(value, needed[0], place)
    elif isinstance(needed, dict) and isinstance(value, dict):
        for key, of_key in needed.items():
            for name in value if key == EACH else [key]:
                yield from faults(value.get(name), of_key, f"{place}.{name}".lstrip("."))
    elif isinstance(needed, list) and isinstance(value, list) and len(needed) in (1, len(value)):
        for i, one in enumerate(value):
            yield from faults(one, needed[i % len(needed)], f"{place}[{i}]")
    elif not is_of(value, needed):
        yield place or "the whole"


def is_of(value: Any, needed: Any) -> bool:
    """Return whether a value is of a type, or None where None is needed; a bool is no number."""
    if not isinstance(needed, type):
        return needed is None and value is None
    return isinstance(value, needed) and not isinstance(value, bool)


def side_by_side_files(evaluations: list[dict[str, Any]]) -> dict[str, bytes]:
    """Return a page, a JSON and a CSV of several evaluations, by the names of their files."""
    texts = {
        "report.html": side_by_side_page(evaluations),
        "evaluations.json": json.dumps(evaluations, indent=2) + "\n",
        "evaluations.csv": csv_text(evaluations),
    }
    return {name: text.encode() for name, text in texts.items()}


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Write files to a folder that is made for them."""
    for name, content in files.items():
        write_whole(folder / name, lambda file, content=content: file.write(content))


if __name__ == "__main__":
    main()
