"""How a run's accuracy on real images grew: every checkpoint that it kept is evaluated, also while it goes on."""

import csv
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from evaluation.inference.trained_model import EvaluatedModel, open_model
from evaluation.pages.html import html_table, page, percent, section
from evaluation.pages.plots import curve_figure, svg
from evaluation.result import SetResult
from generation.files import new_path
from ray_jobs.job.run_folder import is_at_work, write_anew
from ray_jobs.monitor.spent import SPENT_FILE, read_spent, spent_at
from training.checkpoint import checkpoint_files
from training.job import KEPT

LOOK_SECONDS = 10.0
"""How often a run that is at work is looked at for a new checkpoint."""

UNSEEN = "a job at work is not seen. Kept checkpoints are evaluated now; the same command does it again for later ones."
"""What it means for those who follow a run that files have no locks."""

ALONG = {
    "num_trained": "images trained on",
    "num_generated": "images generated",
    "device_seconds": "device seconds, generation and training",
    "seconds": "seconds",
}
"""What accuracy is drawn over."""


@dataclass(frozen=True)
class Point:
    """A run's accuracy at one moment."""

    spent: Mapping[str, float]
    """By the names of `Spent` and `ALONG`."""

    sets: Mapping[str, SetResult]
    """By set, as in evaluation.json: `top1`, `top1_interval`, `num_images`."""


def kept_checkpoints(run_dir: Path) -> Iterator[Path]:
    """Yield the checkpoints that a run has kept, oldest first, and those that it keeps or writes again while at work.

    The last one is among them once the run is finished.
    """
    seen: dict[Path, int] = {}
    last = run_dir / "checkpoint.ckpt"
    while True:
        was_at_work = is_at_work(run_dir, UNSEEN)  # asked first: a run may keep one, and end, in between
        kept = [*reversed(checkpoint_files(run_dir / KEPT)), *([last] if last.is_file() else [])]
        new = [path for path in kept if seen.get(path) != path.stat().st_mtime_ns]
        for path in new:
            seen[path] = path.stat().st_mtime_ns  # a run that goes on from before it writes it again
            yield path
        if not (new or was_at_work):
            return
        if not new:
            time.sleep(LOOK_SECONDS)


def first_kept(run_dir: Path) -> Path:
    """Return the oldest checkpoint that a run has kept, waiting for it while the run is at work; ValueError if none."""
    for path in kept_checkpoints(run_dir):
        return path
    raise ValueError(
        f"'{run_dir}' has no checkpoints to evaluate. Train with evaluation.every_images=N, which keeps some."
    )


def follow(
    run_dir: Path, evaluate: Callable[[EvaluatedModel], Mapping[str, SetResult]], say: Callable[[str], None]
) -> Path:
    """Evaluate all that a run has kept, and what it keeps while it is at work; return the folder of curve and page.

    `evaluate` returns an evaluation's `sets`. `accuracy.csv`, a line a checkpoint and set, and the page are whole after
    each checkpoint.
    """
    folder = new_path(run_dir, "curve", "")
    points: dict[int, Point] = {}
    for path in kept_checkpoints(run_dir):
        model = open_model(path)
        num_trained = model.facts["num_trained"]
        if path.parent == run_dir and num_trained in points:
            continue
        spent = spent_at(read_spent(run_dir / SPENT_FILE), num_trained)
        device_seconds = spent.generation_device_seconds + spent.training_device_seconds
        points[num_trained] = Point(asdict(spent) | {"device_seconds": device_seconds}, evaluate(model))
        curve = [points[number] for number in sorted(points)]
        folder.mkdir(exist_ok=True)
        write_anew(folder / "accuracy.csv", curve_text(curve))
        write_anew(folder / "report.html", curve_page(run_dir.name, curve))
        say(f"{num_trained:,} images trained on: {folder}/report.html, accuracy.csv")
    return folder


def curve_text(points: Sequence[Point]) -> str:
    """Return CSV of `Spent`, the set, its images, top-1 and its interval, fractions in 0..1."""
    file = io.StringIO()
    head = [*points[0].spent, "set", "num_images", "top1", "lo", "hi"]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    for point in points:
        spent = [f"{value:.10g}" for value in point.spent.values()]
        for name, of_set in point.sets.items():
            writer.writerow([*spent, name, of_set["num_images"], of_set["top1"], *of_set["top1_interval"]])
    return file.getvalue()


def curve_page(name: str, points: Sequence[Point]) -> str:
    """Return a page with a table, and accuracy over all that was spent on it."""
    sets = list(points[0].sets)
    rows = [
        [f"{value:,.0f}" for value in (point.spent[key] for key in ALONG)]
        + [percent(point.sets[each]["top1"], point.sets[each]["top1_interval"]) for each in sets]
        for point in points
    ]
    figures = [
        curve_figure(
            [(each, [point.spent[key] for point in points], [point.sets[each] for point in points]) for each in sets],
            title,
        )
        for key, title in ALONG.items()
        if points[-1].spent[key] > 0
    ]
    note = (
        "<p>Top-1 with Wilson's interval of 95%. Devices count for as long as generator actors and training workers "
        "were up, an actor on CPUs as one device.</p>"
    )
    table = html_table([*ALONG.values(), *sets], rows)
    return page(f"{name}: accuracy along the run", section("Top-1", table + note + "".join(map(svg, figures))))
