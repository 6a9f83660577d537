"""What a run has spent over time, as a CSV in its folder: images generated and trained on, and device time."""

import csv
import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ray_jobs.cli.config import JobConfig
from ray_jobs.cli.run_folder import write_anew
from ray_jobs.monitor.progress import RunProgress

SPENT_FILE = "spent.csv"
"""The file's name in a run's folder."""

ROW_SECONDS, ROWS_IN_A_RUN = 1.0, 1_000
"""Rows are 1 s apart, or a thousandth of the elapsed time if longer: a month has some ten thousand rows."""


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


ZERO = Spent(0, 0, 0, 0, 0)


class SpentFile:
    """Adds rows to the file, as an observer of `ray_jobs.monitor.monitor`."""

    def __init__(self, path: Path, config: JobConfig) -> None:
        """Continue after the last row if the run was resumed."""
        self.path = path
        self.num_in_all = config.training.num_trained
        self.rows = _rows_of(path)
        self.before = self.rows[-1] if self.rows else ZERO
        self.devices_per_actor = config.generation.gpus_per_actor or 1.0
        self.num_training_devices = config.training.num_workers * (config.training.gpus_per_worker or 1.0)
        self.began_at: float | None = None
        self.written_at, self.is_through = 0.0, False

    def observe(self, run: RunProgress) -> None:
        """Write a row if one is due, and at the end of the run."""
        if self.began_at is None:
            self.began_at = run.observed_at
        seconds = run.observed_at - self.began_at
        is_due = seconds - self.written_at >= max(ROW_SECONDS, seconds / ROWS_IN_A_RUN)
        if run.training is None or self.is_through:
            return
        self.is_through = run.training.num_trained >= self.num_in_all
        if not (is_due or self.is_through):
            return
        self.written_at = seconds
        self._append(
            Spent(
                seconds=self.before.seconds + seconds,
                num_trained=run.training.num_trained,
                num_generated=self.before.num_generated + run.num_generated,
                generation_device_seconds=self.before.generation_device_seconds
                + run.actor_seconds * self.devices_per_actor,
                training_device_seconds=self.before.training_device_seconds + seconds * self.num_training_devices,
            )
        )

    def _append(self, spent: Spent) -> None:
        self.rows.append(spent)
        lines = [[f"{value:.10g}" for value in dataclasses.astuple(row)] for row in self.rows]
        names = [entry.name for entry in dataclasses.fields(Spent)]
        write_anew(self.path, "".join(f"{','.join(line)}\n" for line in [names, *lines]))


def read_spent(path: Path) -> list[Spent]:
    """Return a file's rows; a run that has just started has one row of zeros."""
    return _rows_of(path) or [ZERO]


def _rows_of(path: Path) -> list[Spent]:
    """Return the complete rows: a full disk or a kill may have truncated one."""
    text = path.read_text() if path.exists() else ""
    rows = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
    whole = [row for row in rows if None not in row and all(_is_number(value) for value in row.values())]
    return [Spent(**{name: float(value) for name, value in row.items()}) for row in whole]


def _is_number(text: str | None) -> bool:
    return re.fullmatch(r"[-+.e0-9]+", text or "") is not None


def spent_at(rows: Sequence[Spent], num_trained: int) -> Spent:
    """Return what had been spent after `num_trained` images, interpolated between rows; beyond the last row, that row.

    Repeated steps of an interrupted run count: the result includes what was spent on them.
    """
    reached = [i for i, row in enumerate(rows) if row.num_trained >= num_trained]
    if not reached:
        return dataclasses.replace(rows[-1], num_trained=num_trained)
    behind = [i for i, row in enumerate(rows) if row.num_trained < num_trained]
    last_behind = max((i for i in behind if i < reached[-1]), default=-1)
    before, after = rows[last_behind] if last_behind >= 0 else ZERO, rows[last_behind + 1]
    share = (num_trained - before.num_trained) / max(after.num_trained - before.num_trained, 1e-9)
    return Spent(
        **{name: value + share * (getattr(after, name) - value) for name, value in dataclasses.asdict(before).items()}
    )
