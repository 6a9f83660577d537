"""Samples a run's training and pool once a second and passes each snapshot to observers.

Training and pool do not depend on it: a worker's reports go to the pool directly.
"""

import dataclasses
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import cast

import ray
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from generation.engine.generator import GenerationFailedError
from generation.pool.keeper import GenerationCounts
from generation.pool.service import GenerationService
from ray_jobs.monitor.inbox import Sender, open_inbox
from ray_jobs.monitor.observers import Observer, close_all
from ray_jobs.monitor.progress import RunProgress
from training.progress import TrainingProgress

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
READ_SECONDS = 10.0
"""Timeout for a read of the inbox."""

LAST_SNAPSHOT_SECONDS = 60.0
"""How long the end of a run waits for a last snapshot if the pool does not respond."""


class RunMonitor:
    """A context manager: inside it, a thread of this process takes snapshots of the run."""

    def __init__(self, pool: GenerationService | None, *observers: Observer) -> None:
        """Watch a pool (None if nothing is generated) and a training run that reports to `self.report`.

        An observer that fails is disabled with a warning; a slow one misses snapshots. Neither delays the run or other
        observers.
        """
        self.pool = pool
        self.observers = observers
        self._inbox = open_inbox()
        self._num_reports = 0
        self.report = Sender(self._inbox)
        """Listener for a training worker's progress."""

        counts = self._counts()
        self._latest = RunProgress(time.monotonic(), None, 0, 0.0, 0, counts, 0, 0.0)
        self._training: TrainingProgress | None = None
        """Training's last report."""

        self._ended: list[TrainingProgress] = []
        """Reports at the ends of epochs for which there is no snapshot of the pool yet."""

        self._unresponsive: set[str] = set()
        """Problems of the last snapshot: what did not respond."""

        self.epochs: list[RunProgress] = []
        """The run's progress at the end of each epoch."""

        self._num_made_before = counts.num_images_made
        self._generating_since: float | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "RunMonitor":
        """Start taking snapshots."""
        self._thread.start()
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        """Take a last snapshot and stop; after an error, stop at once."""
        has_failed = error_type is not None
        self._closing.set()
        if not has_failed:
            self._thread.join(LAST_SNAPSHOT_SECONDS)
        close_all(self.observers, drops=has_failed)
        with suppress(RayError):
            ray.kill(self._inbox)

    def last(self) -> RunProgress:
        """Return the last snapshot; RuntimeError if training reported nothing."""
        if self._training is None:
            raise RuntimeError("Training ended without reporting any progress.")
        return dataclasses.replace(self._latest, training=self._training)

    def _watch(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._closing.is_set()  # then read the remaining reports once more
            for report in self._reports(0.0 if is_last else POLL_SECONDS) or [None]:
                if report is not None:
                    self._add_report(report)
                if self._take_snapshot():
                    for observer in self.observers:
                        observer.show(self._latest)

    def _reports(self, wait_seconds: float) -> list[TrainingProgress]:
        """Return training's new reports; wait up to `wait_seconds` for one."""
        with self._warn_once("Training's progress reports do not arrive"):
            pending = self._inbox.read.remote(self._num_reports, wait_seconds)
            reports = cast(list[TrainingProgress], ray.get(pending, timeout=READ_SECONDS))
            self._num_reports += len(reports)
            return reports
        self._closing.wait(wait_seconds)
        return []

    def _take_snapshot(self) -> bool:
        """Update the latest snapshot; return whether the pool responded."""
        with self._warn_once("The generator pool does not respond"):
            self._latest = self._snapshot()
            self.epochs += [dataclasses.replace(self._latest, training=ended) for ended in self._ended]
            self._ended.clear()
            return True
        return False

    @contextmanager
    def _warn_once(self, problem: str) -> Iterator[None]:
        """Warn once while something does not respond.

        Ray Serve's controller may restart or be too busy to respond: that does not end training, and a permanent
        failure ends the stream.
        """
        try:
            yield
            self._unresponsive.discard(problem)
        except (GenerationFailedError, RayError, RayServeException) as error:
            if problem not in self._unresponsive and not self._closing.is_set():
                logger.warning("%s; the run continues: %s", problem, error)
            self._unresponsive.add(problem)

    def _add_report(self, report: TrainingProgress) -> None:
        if report.epoch != (self._training.epoch if self._training else 0):
            self._ended.append(report)
        self._training = report

    def _snapshot(self) -> RunProgress:
        counts, observed_at = self._counts(), time.monotonic()
        num_made = counts.num_images_made - self._num_made_before
        num_actors, num_pending = (self.pool.num_actors(), self.pool.num_pending()) if self.pool else (0, 0)
        up_seconds = self._latest.actor_seconds + num_actors * (observed_at - self._latest.observed_at)
        per_second = self._per_second(num_made)
        return RunProgress(
            observed_at, self._training, num_actors, up_seconds, num_pending, counts, num_made, per_second
        )

    def _counts(self) -> GenerationCounts:
        return self.pool.counts() if self.pool else GenerationCounts()

    def _per_second(self, num_made: int) -> float:
        if num_made and self._generating_since is None:
            self._generating_since = time.monotonic() - POLL_SECONDS
        return num_made / (time.monotonic() - self._generating_since) if self._generating_since else 0.0
