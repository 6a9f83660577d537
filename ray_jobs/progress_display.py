"""One line about the run for the person watching: rewritten in place on a terminal, printed now and then elsewhere."""

import threading
import time
from dataclasses import dataclass
from queue import Empty

from ray.util.queue import Queue
from rich.console import Console
from rich.live import Live

from generation.service import GenerationService
from training.config import TrainingConfig
from training.progress import TrainingProgress

POLL_SECONDS = 1.0
PLAIN_LINE_SECONDS = 10.0
"""How often a line is printed where there is no terminal; an epoch's end always prints one."""


@dataclass(frozen=True)
class RunProgress:
    """Generation and training at one moment."""

    training: TrainingProgress
    num_actors: int
    generated_per_second: float
    """Images the actors made a second, since the stream's first ones."""


class ProgressDisplay:
    """A context: while it is open, a thread of this process shows how the run goes."""

    def __init__(self, service: GenerationService, config: TrainingConfig) -> None:
        """Watch a pool, and a training run that puts its progress into `self.queue`."""
        self.service = service
        self.config = config
        self.queue = Queue(actor_options={"num_cpus": 0})
        self._latest: RunProgress | None = None
        self._num_made_before = service.counts().num_images_made
        self._generating_since: float | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "ProgressDisplay":
        """Start showing."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Show the last state and stop."""
        self._closing.set()
        self._thread.join()
        self.queue.shutdown(grace_period_s=1)

    def last(self) -> RunProgress:
        """Return the last progress there was; RuntimeError if training never said any."""
        if self._latest is None:
            raise RuntimeError("Training ended without saying how it went.")
        return self._latest

    def _watch(self) -> None:
        console = Console()
        with Live(console=console, refresh_per_second=2, transient=True) as live:
            printed_at, printed_epoch = 0.0, 0
            while not self._closing.is_set() or not self.queue.empty():
                progress, generated_per_second = self._next(), self._generated_per_second()
                if progress is None:
                    continue
                self._latest = RunProgress(progress, self.service.num_actors(), generated_per_second)
                line = progress_line(self._latest, self.config)
                live.update(line)
                is_new_epoch = progress.epoch != printed_epoch
                if is_new_epoch or (not console.is_terminal and time.time() - printed_at >= PLAIN_LINE_SECONDS):
                    printed_at, printed_epoch = time.time(), progress.epoch
                    console.print(line, soft_wrap=True)

    def _next(self) -> TrainingProgress | None:
        try:
            return self.queue.get(timeout=POLL_SECONDS)
        except Empty:
            return None

    def _generated_per_second(self) -> float:
        num_made = self.service.counts().num_images_made - self._num_made_before
        if num_made and self._generating_since is None:
            self._generating_since = time.monotonic() - POLL_SECONDS
        return num_made / (time.monotonic() - self._generating_since) if self._generating_since else 0.0


def announce(started_at: float, text: str) -> None:
    """Print a stage of the job with the seconds since `started_at`, of `time.time()`."""
    print(f"{time.time() - started_at:6.1f} s  {text}", flush=True)


def progress_line(progress: RunProgress, config: TrainingConfig) -> str:
    """Return the run in one line."""
    training = progress.training
    seconds_left = (config.num_trained - training.num_trained) / max(training.trained_per_second, 1e-9)
    held_out = "-" if training.held_out_top1 is None else f"{training.held_out_top1:.3f}"
    return (
        f"{training.num_trained / config.num_trained:4.0%}  epoch {training.epoch}/{config.num_epochs}  "
        f"{training.num_trained:,}/{config.num_trained:,} trained  "
        f"generated {progress.generated_per_second:.1f}/s  trained {training.trained_per_second:.1f}/s  "
        f"waiting {training.waiting_fraction:.0%}  actors {progress.num_actors}  loss {training.loss:.3f}  "
        f"held-out top-1 {held_out}  {int(seconds_left) // 60}:{int(seconds_left) % 60:02} left"
    )
