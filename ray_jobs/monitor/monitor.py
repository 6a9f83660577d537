"""Looks at a run once a second, at its training and its pool, and shows each look to its observers.

Training and pool need none of it: what a worker reports goes to the pool directly.
"""

import dataclasses
import logging
import threading
import time
from collections.abc import Callable

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from generation.engine.generator import GenerationFailedError
from generation.pool.keeper import GenerationCounts
from generation.pool.service import GenerationService
from ray_jobs.monitor.inbox import Sender, open_inbox, take
from ray_jobs.monitor.observers import Observer
from ray_jobs.monitor.progress import RunProgress
from training.progress import TrainingProgress

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0

LONGEST_BLIND_SECONDS = 60.0
"""How long a run that is through waits for a last look at a pool that does not answer."""


class RunMonitor:
    """A context: while it is open, a thread of this process looks at the run."""

    def __init__(self, pool: GenerationService | None, *observers: Callable[[RunProgress], object]) -> None:
        """Watch a pool, None where nothing is generated, and a training run that reports to `self.report`.

        Each observer gets the newest look in a thread of its own. One that fails is left out from then on, with a
        warning; one that takes long misses looks. Neither holds up the run or another observer.
        """
        self.pool = pool
        self.observers = [Observer(observe) for observe in observers]
        self.inbox = open_inbox()
        self.report = Sender(self.inbox)
        """What a training worker calls with its progress."""

        counts = self._counts()
        self._latest = RunProgress(time.monotonic(), None, 0, 0.0, 0, counts, 0, 0.0)
        self._training: TrainingProgress | None = None
        """What training reported last."""

        self._ended: list[TrainingProgress] = []
        """What it reported at ends of epochs at which the pool has not been looked at yet."""

        self._is_blind = False
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
        self._closing.set()
        if error_type is None:
            self._thread.join(LONGEST_BLIND_SECONDS)
            for observer in self.observers:
                observer.close()

    def last(self) -> RunProgress:
        """Return the last look; RuntimeError if training reported nothing."""
        if self._training is None:
            raise RuntimeError("Training ended without having reported how it went.")
        return dataclasses.replace(self._latest, training=self._training)

    def _watch(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._closing.wait(POLL_SECONDS)  # reports that came before are read once more
            if self._look():
                for observer in self.observers:
                    observer.show(self._latest)

    def _look(self) -> bool:
        """Read reports and look at the pool; return whether both were to be seen.

        Ray Serve's controller may be started anew, or have no time to answer: training does not end for that.
        """
        try:
            for report in take(self.inbox):
                self._note(report)
            self._latest = self._observe()
        except (GenerationFailedError, RayError, RayServeException) as error:  # what fails for good ends the stream
            if not self._is_blind:
                logger.warning("The pool does not answer, and the run goes on: %s", error)
            self._is_blind = True
            return False
        self._is_blind = False
        self.epochs += [dataclasses.replace(self._latest, training=ended) for ended in self._ended]
        self._ended.clear()
        return True

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
