"""How a run's accuracy on real images grew: every checkpoint that it kept is evaluated, also while it goes on."""

import csv
import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.figure import Figure

from evaluation.inference.trained_model import Model, open_model
from evaluation.pages.html import html_table, page, percent, section
from evaluation.pages.plots import interval_bars, look, svg
from evaluation.result import SetResult
from generation.files import new_path
from ray_jobs.job.run_folder import is_at_work, write_anew
from ray_jobs.monitor.spent import SPENT_FILE, Spent, read_spent, spent_at
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

    spent: Spent
    sets: Mapping[str, SetResult]
    """By set, as in evaluation.json: `top1`, `top1_interval`, `num_images`."""

    def row(self) -> dict[str, float]:
        """Return what had been spent, by the names of `ALONG` and `Spent`."""
        spent = asdict(self.spent)
        return spent | {"device_seconds": self.spent.generation_device_seconds + self.spent.training_device_seconds}


def kept_checkpoints(run_dir: Path) -> list[Path]:
    """Return the checkpoints that a run has kept, oldest first, and its last one where it is finished."""
    last = run_dir / "checkpoint.ckpt"
    return [*reversed(checkpoint_files(run_dir / KEPT)), *([last] if last.is_file() else [])]


def first_kept(run_dir: Path) -> Path:
    """Return the oldest checkpoint that a run has kept, waiting for it while the run is at work; ValueError if none."""
    while True:
        was_at_work = is_at_work(run_dir, UNSEEN)  # asked first: a run may keep one, and end, in between
        if found := kept_checkpoints(run_dir):
            return found[0]
        if not was_at_work:
            raise ValueError(
                f"'{run_dir}' has no checkpoints to evaluate. Train with evaluation.every_images=N, which keeps some."
            )
        time.sleep(LOOK_SECONDS)


def follow(run_dir: Path, evaluate: Callable[[Model], Mapping[str, SetResult]], say: Callable[[str], None]) -> Path:
    """Evaluate all that a run has kept, and what it keeps while it is at work; return the folder of curve and page.

    `evaluate` returns an evaluation's `sets`. Curve and page are whole after each checkpoint.
    """
    folder = new_path(run_dir, "curve", "")
    points: dict[int, Point] = {}
    seen: dict[Path, int] = {}
    while True:
        was_at_work = is_at_work(run_dir, UNSEEN)
        new = [path for path in kept_checkpoints(run_dir) if seen.get(path) != path.stat().st_mtime_ns]
        for path in new:
            seen[path] = path.stat().st_mtime_ns  # a run that goes on from before it writes it again
            model = open_model(path)
            num_trained = model.facts["num_trained"]
            if path.parent == run_dir and num_trained in points:
                continue
            spent = spent_at(read_spent(run_dir / SPENT_FILE), num_trained)
            points[num_trained] = Point(spent, evaluate(model))
            write_curve(folder, run_dir.name, [points[number] for number in sorted(points)])
            say(f"{num_trained:,} images trained on: {folder}/report.html, accuracy.csv")
        if not (new or was_at_work):
            return folder
        if not new:
            time.sleep(LOOK_SECONDS)


def write_curve(folder: Path, name: str, points: Sequence[Point]) -> None:
    """Write `accuracy.csv`, a line a checkpoint and set, and `report.html`."""
    folder.mkdir(exist_ok=True)
    write_anew(folder / "accuracy.csv", curve_text(points))
    write_anew(folder / "report.html", curve_page(name, points))


def curve_text(points: Sequence[Point]) -> str:
    """Return CSV of `Spent`, the set, its images, top-1 and its interval, fractions in 0..1."""
    file = io.StringIO()
    head = [*points[0].row(), "set", "num_images", "top1", "lo", "hi"]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    for point in points:
        spent = [f"{value:.10g}" for value in point.row().values()]
        for name, of_set in point.sets.items():
            writer.writerow([*spent, name, of_set["num_images"], of_set["top1"], *of_set["top1_interval"]])
    return file.getvalue()


def curve_page(name: str, points: Sequence[Point]) -> str:
    """Return a page with a table, and accuracy over all that was spent on it."""
    sets = list(points[0].sets)
    rows = [
        [f"{value:,.0f}" for value in (point.row()[key] for key in ALONG)]
        + [percent(point.sets[each]["top1"], point.sets[each]["top1_interval"]) for each in sets]
        for point in points
    ]
    drawn = [key for key in ALONG if points[-1].row()[key] > 0]
    note = (
        "<p>Top-1 with Wilson's interval of 95%. Devices count for as long as generator actors and training workers "
        "were up, an actor on CPUs as one device.</p>"
    )
    table = html_table([*ALONG.values(), *sets], rows)
    return page(f"{name}: accuracy along the run", section("Top-1", table + note + "".join(figure(points, drawn))))


def figure(points: Sequence[Point], along: Sequence[str]) -> list[str]:
    """Return top-1 over each of these, as SVG, a line a set."""
    drawn = []
    for key in along:
        panel = Figure(figsize=(9, 3.5), layout="constrained")
        axes = panel.subplots()
        for i, name in enumerate(points[0].sets):
            rows = [point.sets[name] for point in points]
            places = [point.row()[key] for point in points]
            axes.errorbar(
                places, [row["top1"] for row in rows], yerr=interval_bars(rows), **look(i), capsize=2.5, label=name
            )
        axes.set_xlabel(ALONG[key])
        axes.set_ylabel("top-1 on real images")
        axes.grid(alpha=0.3)
        axes.legend()
        drawn.append(svg(panel))
    return drawn
