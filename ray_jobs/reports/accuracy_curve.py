"""Evaluate each kept checkpoint of a run on real images, also while the run is training."""

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
from ray_jobs.cli.run_folder import is_in_use, write_anew
from ray_jobs.monitor.spent import SPENT_FILE, read_spent, spent_at
from training.checkpoint import checkpoint_files
from training.job import KEPT, run_name

POLL_SECONDS = 10.0
"""Interval of checks for new checkpoints of an active run."""

NO_LOCKS = "an active run cannot be detected. Kept checkpoints are evaluated now; run the command again later on."
"""End of the warning that the run's folder does not support file locks."""

X_AXES = {
    "num_trained": "images trained on",
    "num_generated": "images generated",
    "device_seconds": "device-seconds of generation and training",
    "seconds": "seconds",
}
"""Label of each plot's x axis, by its key in `Point.spent`."""


@dataclass(frozen=True)
class Point:
    """The results of one checkpoint."""

    spent: Mapping[str, float]
    """Totals of the run at this checkpoint: the fields of `Spent`, and `device_seconds`."""

    sets: Mapping[str, SetResult]
    """Results by name of the real set; of each, `top1`, `top1_interval` and `num_images` are used."""


def kept_checkpoints(run_dir: Path) -> Iterator[Path]:
    """Yield a run's kept checkpoints, oldest first, then `checkpoint.ckpt` if there is one.

    While the run is active, wait for checkpoints that it writes or rewrites, and yield these too.
    """
    seen: dict[Path, int] = {}
    last = run_dir / "checkpoint.ckpt"
    while True:
        was_active = is_in_use(run_dir, NO_LOCKS)  # before the listing: a run may write a checkpoint and then end
        kept = [*reversed(checkpoint_files(run_dir / KEPT)), *([last] if last.is_file() else [])]
        new = [path for path in kept if seen.get(path) != path.stat().st_mtime_ns]
        for path in new:
            seen[path] = path.stat().st_mtime_ns  # a run that resumes from an earlier step rewrites the file
            yield path
        if not (new or was_active):
            return
        if not new:
            time.sleep(POLL_SECONDS)


def first_kept(run_dir: Path) -> Path:
    """Return a run's oldest kept checkpoint, else `checkpoint.ckpt`; ValueError if there is neither.

    Waits for a checkpoint while the run is active.
    """
    for path in kept_checkpoints(run_dir):
        return path
    raise ValueError(
        f"'{run_dir}' has no checkpoints to evaluate. Train with evaluation.every_images=N to keep checkpoints."
    )


def follow(
    run_dir: Path, evaluate: Callable[[EvaluatedModel], Mapping[str, SetResult]], log: Callable[[str], None]
) -> Path:
    """Evaluate all kept checkpoints, following an active run to its end; return the folder with the results.

    `evaluate` returns the results of a model by name of the real set. `accuracy.csv`, with one line per checkpoint and
    set, and `report.html` are rewritten after each checkpoint.
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
        write_anew(folder / "report.html", curve_page(run_name(run_dir), curve))
        log(f"{num_trained:,} images trained on: wrote {folder}/report.html, accuracy.csv")
    return folder


def curve_text(points: Sequence[Point]) -> str:
    """Return CSV: the fields of `Spent`, device-seconds, set, number of images, top-1 and its 95% interval (0..1)."""
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
    """Return an HTML page with a table of all points, and a plot of top-1 over each of `X_AXES`."""
    sets = list(points[0].sets)
    rows = [
        [f"{value:,.0f}" for value in (point.spent[key] for key in X_AXES)]
        + [percent(point.sets[each]["top1"], point.sets[each]["top1_interval"]) for each in sets]
        for point in points
    ]
    figures = [
        curve_figure(
            [(each, [point.spent[key] for point in points], [point.sets[each] for point in points]) for each in sets],
            title,
        )
        for key, title in X_AXES.items()
        if points[-1].spent[key] > 0
    ]
    note = (
        "<p>Top-1 with 95% Wilson intervals. Device-seconds are the running times of generator actors and training "
        "workers, times their number of devices; an actor on CPUs counts as one device.</p>"
    )
    table = html_table([*X_AXES.values(), *sets], rows)
    return page(f"{name}: accuracy over the run", section("Top-1", table + note + "".join(map(svg, figures))))
