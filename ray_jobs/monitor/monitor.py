"""Looks at a run once a second, at its training and its pool, and shows each look to its watchers."""

import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing
from queue import Empty

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.util.queue import Queue

from generation.engine.generator import GenerationFailedError
from generation.pool.service import GenerationService, beside_driver
from generation.pool.sizing import TrainerClock
from ray_jobs.cli.errors import keep_trace
from ray_jobs.job.source import NoPool, StreamSource
from ray_jobs.monitor.display import ProgressLine
from ray_jobs.monitor.progress import RunProgress
from training.config import TrainingConfig
from training.progress import TrainingProgress

POLL_SECONDS = 1.0


logger = logging.getLogger(__name__)

LONGEST_BLIND_SECONDS = 60.0
"""How long a run that is through waits for a last look at a pool that does not answer."""


class ProgressDisplay:
    """A context: while it is open, a thread of this process shows how the run goes."""

    def __init__(
        self,
        source: GenerationService | StreamSource | NoPool,
        config: TrainingConfig,
        *watchers: Callable[[RunProgress], None],
    ) -> None:
        """Watch where samples come from, and a training run that puts its progress into `self.queue`.

        Each watcher gets every look, after the line is shown. One that fails is left out from then on, with a warning:
        it never ends the run.
        """
        self.source = source
        self.line = ProgressLine(config)
        self.watchers = [self.line.look, *watchers]
        self.queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": beside_driver()})
        counts = source.counts()
        self._latest = RunProgress(time.monotonic(), None, 0, 0.0, 0, counts, 0, 0.0)
        self._training: TrainingProgress | None = None
        """What training said last."""

        self._ended: list[TrainingProgress] = []
        """What it said at ends of epochs at which the pool has not been looked at yet."""

        self._is_blind = False
        self.epochs: list[RunProgress] = []
        """The run at the end of each epoch."""

        self._num_made_before = counts.num_images_made
        self._generating_since: float | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "ProgressDisplay":
        """Start showing; the pool is to wait for what the trainer says."""
        self.source.hear(TrainerClock(0.0, 0.0))
        self._thread.start()
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        """Show the last state and stop; after an error, stop at once."""
        self._closing.set()
        if error_type is None:
            self._thread.join(LONGEST_BLIND_SECONDS)
            self.queue.shutdown(grace_period_s=1)

    def last(self) -> RunProgress:
        """Return the last progress; RuntimeError if training said nothing."""
        if self._training is None:
            raise RuntimeError("Training ended without having said how it went.")
        return dataclasses.replace(self._latest, training=self._training)

    def _watch(self) -> None:
        with closing(self.line):
            while not self._closing.is_set() or not self.queue.empty():
                self._hear()
                if self._look():
                    self._tell_watchers()

    def _tell_watchers(self) -> None:
        for watch in list(self.watchers):
            try:
                watch(self._latest)
            except (Exception, SystemExit) as error:  # rich exits where nobody reads what it prints
                self.watchers.remove(watch)
                logger.warning("%s failed and is switched off; the run goes on. %s", _name_of(watch), keep_trace(error))

    def _hear(self) -> None:
        """Wait up to `POLL_SECONDS` for training's progress, and hand it on to the pool."""
        try:
            said = self.queue.get(timeout=POLL_SECONDS)
        except Empty:
            return
        epoch_before = self._training.epoch if self._training else 0
        self._training = said
        self.source.hear(TrainerClock(said.learning_seconds, said.lacking_seconds))
        if said.epoch != epoch_before:
            self._ended.append(said)

    def _look(self) -> bool:
        """Look at the pool; return whether it is to be seen.

        Ray Serve's controller may be started anew, or have no time to answer: training does not end for that.
        """
        try:
            self._latest = self._observe()
        except (GenerationFailedError, RayError, RayServeException) as error:  # what fails for good ends the stream
            if not self._is_blind:
                logger.warning("The pool does not answer, and the run goes on: %s", error)
            self._is_blind = True
            return False
        self._is_blind = False
        self.epochs += [dataclasses.replace(self._latest, training=said) for said in self._ended]
        self._ended.clear()
        return True

    def _observe(self) -> RunProgress:
        counts, observed_at = self.source.counts(), time.monotonic()
        num_made = counts.num_images_made - self._num_made_before
        num_actors, num_awaited = self.source.num_actors(), self.source.num_awaited()
        up_seconds = self._latest.actor_seconds + num_actors * (observed_at - self._latest.observed_at)
        per_second = self._per_second(num_made)
        return RunProgress(
            observed_at, self._training, num_actors, up_seconds, num_awaited, counts, num_made, per_second
        )

    def _per_second(self, num_made: int) -> float:
        if num_made and self._generating_since is None:
            self._generating_since = time.monotonic() - POLL_SECONDS
        return num_made / (time.monotonic() - self._generating_since) if self._generating_since else 0.0


def _name_of(watch: Callable[[RunProgress], None]) -> str:
    owner = getattr(watch, "__self__", None)
    return type(owner).__name__ if owner is not None else getattr(watch, "__name__", repr(watch))
