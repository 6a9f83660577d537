"""Writes a run's page into its folder: at the end of logical epochs, as an observer, and at the end of the job."""

import time
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from evaluation.result import Evaluation
from generation.engine.scores import ScoreCounts
from generation.recipes.recipe import Recipe
from ray_jobs.cli.announce import announce
from ray_jobs.cli.config import JobConfig
from ray_jobs.cli.errors import keep_trace
from ray_jobs.cli.run_folder import write_anew
from ray_jobs.monitor.progress import RunProgress
from ray_jobs.monitor.spent import SPENT_FILE, read_spent
from ray_jobs.reports.run_page import RunFacts, mark_of, run_page
from training.job import run_name

PAGE_SECONDS = 10.0
"""Shortest time between two pages of a run in progress; drawing one takes a second or two."""


class RunPage:
    """Rewrites the page of a run in progress, as an observer of `ray_jobs.monitor.monitor`."""

    def __init__(
        self,
        run_dir: Path,
        config: JobConfig,
        recipe: Recipe,
        advice: Callable[[], str],
        scores: Callable[[], ScoreCounts],
    ) -> None:
        self.run_dir, self.config, self.recipe, self.advice, self.scores = run_dir, config, recipe, advice, scores
        self._epoch = -1
        self._written_at = -PAGE_SECONDS
        self._is_outdated = False

    def observe(self, run: RunProgress) -> None:
        """Write the page after the first step and each epoch, but not after the last step: the job's end writes it."""
        if run.training is None or run.training.num_trained >= self.config.training.num_trained:
            return
        self._is_outdated |= run.training.epoch != self._epoch
        self._epoch = run.training.epoch
        if self._is_outdated and run.observed_at - self._written_at >= PAGE_SECONDS:
            write_page(self.run_dir, self.config, self.recipe, self.advice(), self.scores())
            self._written_at, self._is_outdated = run.observed_at, False


def write_page(
    run_dir: Path,
    config: JobConfig,
    recipe: Recipe,
    advice: str,
    scores: ScoreCounts,
    end: tuple[Mapping[str, Any], Evaluation | None] | None = None,
) -> None:
    """Write or replace the page, from the files in the run's folder.

    `end` is the summary and the evaluation of a finished run.
    """
    summary, evaluation = end or (None, None)
    sheet = run_dir / "samples.png"
    facts = RunFacts(
        name=run_name(run_dir),
        config=config,
        recipe=recipe,
        rows=read_spent(run_dir / SPENT_FILE),
        advice=advice,
        scores=scores,
        written_at=time.strftime("%Y-%m-%d at %H:%M:%S"),
        samples_png=sheet.read_bytes() if sheet.is_file() else None,
        summary=summary,
        evaluation=evaluation,
        pages=sorted(path.relative_to(run_dir).as_posix() for path in run_dir.glob("*/report.html")),
    )
    write_anew(page_path(run_dir, recipe), run_page(facts))


def write_last_page(
    run_dir: Path,
    config: JobConfig,
    recipe: Recipe,
    scores: ScoreCounts,
    summary: Mapping[str, Any],
    evaluation: Evaluation | None,
) -> None:
    """Write the page of a finished run; an error is printed, and its trace kept."""
    try:
        write_page(run_dir, config, recipe, summary["advice"], scores, (summary, evaluation))
    except Exception as error:  # a failure here must not lose the trained model
        announce(f"report.html was not written: {error}. {keep_trace(error, run_dir)}")


def page_path(run_dir: Path, recipe: Recipe) -> Path:
    """Return report.html, or report-2.html and so on if a file of that name is not a page of this run."""
    names = (f"report{f'-{i}' if i > 1 else ''}.html" for i in count(1))
    mark = mark_of(recipe).encode()
    paths = (run_dir / name for name in names)
    return next(path for path in paths if not path.exists() or (path.is_file() and mark in path.read_bytes()))
