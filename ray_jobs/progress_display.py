"""One line about the run for the person watching: rewritten in place on a terminal, printed now and then elsewhere."""

import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from queue import Empty

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.util.queue import Queue
from rich.console import Console
from rich.live import Live

from generation.autoscaling import TrainerClock
from generation.generator import GenerationFailedError
from generation.service import GenerationService, beside_driver
from ray_jobs.run_progress import RunProgress
from ray_jobs.source import NoPool, StreamSource
from ray_jobs.user_errors import keep_trace
from training.config import TrainingConfig
from training.progress import TrainingProgress

POLL_SECONDS = 1.0
PLAIN_LINE_SECONDS = 10.0
"""How often a line is printed where there is no terminal; an epoch's end always prints one."""


logger = logging.getLogger(__name__)

LONGEST_BLIND_SECONDS = 60.0
"""How long a run that is through waits for a last look at a pool that does not answer."""


class ProgressLine:
    """One line on a terminal, rewritten at each look; elsewhere printed now and then, and at each epoch's end."""

    def __init__(self, config: TrainingConfig) -> None:
        """Take the settings of the run that the line shows."""
        self.console = Console(markup=False, emoji=False)
        self.live = Live(console=self.console, refresh_per_second=2, transient=True)
        self.config = config
        self._printed_at = 0.0
        self._epoch = 0

    def look(self, progress: RunProgress) -> None:
        """Show how the run goes."""
        line = progress_line(progress, self.config)
        self.live.start()
        self.live.update(line)
        epoch = progress.training.epoch if progress.training else 0
        is_due = not self.console.is_terminal and time.monotonic() - self._printed_at >= PLAIN_LINE_SECONDS
        if epoch != self._epoch or is_due:
            self._printed_at, self._epoch = time.monotonic(), epoch
            self.console.print(line, soft_wrap=True)

    def close(self) -> None:
        """Take the line off the terminal, if there is still one."""
        with suppress(Exception, SystemExit):
            self.live.stop()


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


def announce(started_at: float, text: str) -> None:
    """Print a stage of the job with the seconds since `started_at`, of `time.time()`."""
    print(f"{time.time() - started_at:6.1f} s  {text}", flush=True)


def progress_line(progress: RunProgress, config: TrainingConfig) -> str:
    """Return the run in one line."""
    training = progress.training
    awaited = f" of {progress.num_actors + progress.num_awaited}" if progress.num_awaited else ""
    generation = f"generated {progress.generated_per_second:.1f}/s  actors {progress.num_actors}{awaited}"
    if training is None:
        return f"  0%  waiting for the first images  {generation}"
    seconds_left = (config.num_trained - training.num_trained) / max(training.trained_per_second, 1e-9)
    reservoir = (
        f"drawn from {training.num_in_reservoir:,}  overlap {training.batch_overlap:.0%}  "
        if config.most_uses > 1
        else ""
    )
    held_out = "-" if training.held_out_top1 is None else f"{training.held_out_top1:.3f}"
    return (
        f"{training.num_trained / config.num_trained:4.0%}  epoch {training.epoch}/{config.num_epochs}  "
        f"{training.num_trained:,}/{config.num_trained:,} trained  "
        f"{generation}  trained {training.trained_per_second:.1f}/s  "
        f"waiting {training.waiting_fraction:.0%}  reuse {training.reuse:.2f}  {reservoir}loss {training.loss:.3f}  "
        f"held-out top-1 {held_out}  {int(seconds_left) // 60}:{int(seconds_left) % 60:02} left"
    )
