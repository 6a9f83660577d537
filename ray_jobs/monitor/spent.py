"""What a run has spent over time, as a CSV in its folder: images, device time, and the state of training."""

import csv
import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ray_jobs.cli.config import JobConfig
from ray_jobs.cli.run_folder import write_anew
from ray_jobs.monitor.progress import Interval, RunProgress
from training.progress import TrainingProgress

SPENT_FILE = "spent.csv"
"""The file's name in a run's folder."""

ROW_SECONDS, ROWS_IN_A_RUN = 1.0, 1_000
"""Rows are 1 s apart, or a thousandth of the elapsed time if longer: a month has some ten thousand rows. The ends of
logical epochs add one each.
"""


@dataclass(frozen=True)
class Spent:
    """Totals of a run at one moment, including the jobs before it was resumed."""

    seconds: float
    """Time in which a job was running, from when its generators were ready."""

    num_trained: float
    """Images trained on, without steps that an interruption undid."""

    num_generated: float
    generation_device_seconds: float
    """Devices (or fractions) of generator actors times their running time; an actor on a CPU counts as one device."""

    training_device_seconds: float
    """The same for training workers."""


@dataclass(frozen=True)
class SpentRow(Spent):
    """A row of the file: totals, and the state at that moment. Older files have the totals of `Spent` only."""

    waiting_seconds: float = 0.0
    """Part of `learning_seconds` in which the first worker waited for images."""

    learning_seconds: float = 0.0
    """Time spent on training and on waiting for training images; held-out images excluded."""

    epoch: float = 0.0
    """Logical epochs finished."""

    num_actors: float | None = None
    """Running generator actors."""

    loss: float | None = None
    """Training loss of the last step; None if it is not finite."""

    held_out_top1: float | None = None
    """Accuracy on held-out samples at the end of the last epoch, 0..1; None before the first."""


ZERO = SpentRow(0, 0, 0, 0, 0)
TOTALS = [entry.name for entry in dataclasses.fields(Spent)]
COLUMNS = [entry.name for entry in dataclasses.fields(SpentRow)]
MAY_BE_EMPTY = [entry.name for entry in dataclasses.fields(SpentRow) if entry.default is None]


class SpentFile:
    """Adds rows to the file, as an observer of `ray_jobs.monitor.monitor`."""

    def __init__(self, path: Path, config: JobConfig) -> None:
        """Continue after the last row if the run was resumed."""
        self.path = path
        self.num_in_all = config.training.num_trained
        self.rows = _rows_of(path)
        self.before = self.rows[-1] if self.rows else ZERO
        self.waiting_seconds, self.learning_seconds = self.before.waiting_seconds, self.before.learning_seconds
        self.devices_per_actor = config.generation.gpus_per_actor or 1.0
        self.num_training_devices = config.training.num_workers * (config.training.gpus_per_worker or 1.0)
        self.began_at: float | None = None
        self.last: RunProgress | None = None
        self.written_at, self.is_through = 0.0, False

    def observe(self, run: RunProgress) -> None:
        """Write a row if one is due, at the end of each epoch, and at the last step."""
        if self.began_at is None:
            self.began_at = run.observed_at
        interval = Interval(self.last or dataclasses.replace(run, training=None), run)
        self.last = run
        self.waiting_seconds += interval.waiting_seconds
        self.learning_seconds += interval.learning_seconds
        if run.training is None:
            return
        seconds, was_through = run.observed_at - self.began_at, self.is_through
        self.is_through = run.training.num_trained >= self.num_in_all
        is_due = self.is_through or seconds - self.written_at >= max(ROW_SECONDS, seconds / ROWS_IN_A_RUN)
        ends_epoch = interval.num_epochs > 0 and not interval.is_interrupted
        if ends_epoch or (is_due and not was_through):
            self.written_at = seconds
            self._append(self._row(run, run.training, seconds))

    def _row(self, run: RunProgress, training: TrainingProgress, seconds: float) -> SpentRow:
        """Return the row of a moment this many seconds after the job's first snapshot."""
        before = self.before
        return SpentRow(
            seconds=before.seconds + seconds,
            num_trained=training.num_trained,
            num_generated=before.num_generated + run.num_generated,
            generation_device_seconds=before.generation_device_seconds + run.actor_seconds * self.devices_per_actor,
            training_device_seconds=before.training_device_seconds + seconds * self.num_training_devices,
            waiting_seconds=self.waiting_seconds,
            learning_seconds=self.learning_seconds,
            epoch=training.epoch,
            num_actors=run.num_actors,
            loss=training.loss if math.isfinite(training.loss) else None,
            held_out_top1=training.held_out_top1,
        )

    def _append(self, row: SpentRow) -> None:
        self.rows.append(row)
        lines = [[_text(value) for value in dataclasses.astuple(each)] for each in self.rows]
        write_anew(self.path, "".join(f"{','.join(line)}\n" for line in [COLUMNS, *lines]))


def read_spent(path: Path) -> list[SpentRow]:
    """Return a file's rows; a run that has just started has one row of zeros."""
    return _rows_of(path) or [ZERO]


def _rows_of(path: Path) -> list[SpentRow]:
    """Return the complete rows: a full disk or a kill may have truncated one."""
    text = path.read_text() if path.exists() else ""
    rows = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
    whole = [row for row in rows if None not in row and all(map(_is_valid, row, row.values()))]
    return [SpentRow(**{name: float(value) for name, value in row.items() if value}) for row in whole]


def _is_valid(column: str, text: str | None) -> bool:
    return (text == "" and column in MAY_BE_EMPTY) or re.fullmatch(r"[-+.e0-9]+", text or "") is not None


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"


def spent_at(rows: Sequence[Spent], num_trained: int) -> Spent:
    """Return what had been spent after `num_trained` images, interpolated between rows; beyond the last row, that row.

    Repeated steps of an interrupted run count: the result includes what was spent on them.
    """
    reached = [i for i, row in enumerate(rows) if row.num_trained >= num_trained]
    if not reached:
        return dataclasses.replace(_between(rows[-1], rows[-1], 0.0), num_trained=num_trained)
    behind = [i for i, row in enumerate(rows) if row.num_trained < num_trained]
    last_behind = max((i for i in behind if i < reached[-1]), default=-1)
    before, after = rows[last_behind] if last_behind >= 0 else ZERO, rows[last_behind + 1]
    share = (num_trained - before.num_trained) / max(after.num_trained - before.num_trained, 1e-9)
    return _between(before, after, share)


def _between(before: Spent, after: Spent, share: float) -> Spent:
    """Return the totals at a share of the way from one row to another, 0..1."""
    values = ((name, getattr(before, name), getattr(after, name)) for name in TOTALS)
    return Spent(**{name: value + share * (later - value) for name, value, later in values})
