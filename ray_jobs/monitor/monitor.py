"""Looks at a run once a second, at its training and its pool, and shows each look to its observers.

Training and pool need none of it: what a worker reports goes to the pool directly.
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
"""How long an answer of the inbox is waited for at a time."""

LONGEST_BLIND_SECONDS = 60.0
"""How long a run that is through waits for a last look at a pool that does not answer."""


class RunMonitor:
    """A context: while it is open, a thread of this process looks at the run."""

    def __init__(self, pool: GenerationService | None, *observers: Observer) -> None:
        """Watch a pool, None where nothing is generated, and a training run that reports to `self.report`.

        An observer that fails is left out from then on, with a warning; one that takes long misses looks. Neither holds
        up the run or another observer.
        """
        self.pool = pool
        self.observers = observers
        self._inbox = open_inbox()
        self._num_reports = 0
        self.report = Sender(self._inbox)
        """What a training worker calls with its progress."""

        counts = self._counts()
        self._latest = RunProgress(time.monotonic(), None, 0, 0.0, 0, counts, 0, 0.0)
        self._training: TrainingProgress | None = None
        """What training reported last."""

        self._ended: list[TrainingProgress] = []
        """What it reported at ends of epochs at which the pool has not been looked at yet."""

        self._unseen: set[str] = set()
        """What could not be seen at the last look."""

        self.epochs: list[RunProgress] = []
        """The run at the end of each epoch."""

        self._num_made_before = counts.num_images_made
        self._generating_since: float | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "RunMonitor":
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        """Look once more and stop; after an error, stop at once."""
        has_failed = error_type is not None
        self._closing.set()
        if not has_failed:
            self._thread.join(LONGEST_BLIND_SECONDS)
        close_all(self.observers, drops=has_failed)
        with suppress(RayError):
            ray.kill(self._inbox)

    def last(self) -> RunProgress:
        """Return the last look; RuntimeError if training reported nothing."""
        if self._training is None:
            raise RuntimeError("Training ended without reporting any progress.")
        return dataclasses.replace(self._latest, training=self._training)

    def _watch(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._closing.is_set()  # reports that came before are read once more
            for report in self._reports(0.0 if is_last else POLL_SECONDS) or [None]:
                if report is not None:
                    self._note(report)
                if self._look():
                    for observer in self.observers:
                        observer.show(self._latest)

    def _reports(self, wait_seconds: float) -> list[TrainingProgress]:
        """Return what training has reported since the last call; wait so long for it."""
        with self._seen("Training's progress reports do not arrive"):
            answer = self._inbox.read.remote(self._num_reports, wait_seconds)
            reports = cast(list[TrainingProgress], ray.get(answer, timeout=READ_SECONDS))
            self._num_reports += len(reports)
            return reports
        self._closing.wait(wait_seconds)
        return []

    def _look(self) -> bool:
        """Look at the pool; return whether it is to be seen."""
        with self._seen("The generator pool does not respond"):
            self._latest = self._observe()
            self.epochs += [dataclasses.replace(self._latest, training=ended) for ended in self._ended]
            self._ended.clear()
            return True
        return False

    @contextmanager
    def _seen(self, complaint: str) -> Iterator[None]:
        """Warn, once, where something cannot be seen for a while.

        Ray Serve's controller may be started anew, or have no time to answer: training does not end for that, and what
        fails for good ends the stream.
        """
        try:
            yield
            self._unseen.discard(complaint)
        except (GenerationFailedError, RayError, RayServeException) as error:
            if complaint not in self._unseen and not self._closing.is_set():
                logger.warning("%s; the run continues: %s", complaint, error)
            self._unseen.add(complaint)

    def _note(self, report: TrainingProgress) -> None:
        if report.epoch != (self._training.epoch if self._training else 0):
            self._ended.append(report)
        self._training = report

    def _observe(self) -> RunProgress:
        counts, observed_at = self._counts(), time.monotonic()
        num_made = counts.num_images_made - self._num_made_before
        num_actors, num_awaited = (self.pool.num_actors(), self.pool.num_awaited()) if self.pool else (0, 0)
        up_seconds = self._latest.actor_seconds + num_actors * (observed_at - self._latest.observed_at)
        per_second = self._per_second(num_made)
        return RunProgress(
            observed_at, self._training, num_actors, up_seconds, num_awaited, counts, num_made, per_second
        )

    def _counts(self) -> GenerationCounts:
        return self.pool.counts() if self.pool else GenerationCounts()

    def _per_second(self, num_made: int) -> float:
        if num_made and self._generating_since is None:
            self._generating_since = time.monotonic() - POLL_SECONDS
        return num_made / (time.monotonic() - self._generating_since) if self._generating_since else 0.0
