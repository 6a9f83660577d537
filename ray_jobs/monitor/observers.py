"""Observers of a run, each in its own thread."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from ray_jobs.cli.errors import keep_trace
from ray_jobs.monitor.progress import RunProgress

logger = logging.getLogger(__name__)

LAST_SNAPSHOT_SECONDS = 5.0
"""How long an observer may take for the last snapshot before the job continues without it."""

MAX_QUEUED = 8
"""Snapshots queued per observer; beyond that the oldest are dropped."""


class Observer:
    """Passes snapshots of a run to one observer, in its own thread: it delays neither the run nor other observers."""

    def __init__(self, observe: Callable[[RunProgress], object], end: Callable[[], object] | None = None) -> None:
        """Call `observe` with each snapshot, and `end` after the last one; both in the observer's thread."""
        self.observe = observe
        self.end = end
        self._snapshots: queue.SimpleQueue[RunProgress | None] = queue.SimpleQueue()
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def show(self, snapshot: RunProgress) -> None:
        """Queue a snapshot; ignored after `close`."""
        if self._is_ending:
            return
        with suppress(queue.Empty):
            while self._snapshots.qsize() >= MAX_QUEUED:
                self._snapshots.get_nowait()
        self._snapshots.put(snapshot)

    def close(self, drops: bool = False) -> None:
        """End the observer after the queued snapshots, or drop them."""
        self._is_ending = True
        with suppress(queue.Empty):
            while drops:
                self._snapshots.get_nowait()
        self._snapshots.put(None)

    def join(self, seconds: float = LAST_SNAPSHOT_SECONDS) -> None:
        """Wait for the observer to end; warn on timeout."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            logger.warning("%s did not stop in time; the run continues without it.", name_of(self.observe))

    def _run(self) -> None:
        try:
            while (snapshot := self._snapshots.get()) is not None:
                self.observe(snapshot)
        except (Exception, SystemExit) as error:  # rich exits on a closed output
            name, trace = name_of(self.observe), keep_trace(error)
            logger.warning("%s failed and was disabled; the run continues. %s", name, trace)
        if self.end is not None:
            with suppress(Exception, SystemExit):
                self.end()


def close_all(observers: Sequence[Observer], drops: bool) -> None:
    """End observers concurrently."""
    for observer in observers:
        observer.close(drops)
    deadline = time.monotonic() + LAST_SNAPSHOT_SECONDS
    for observer in observers:
        observer.join(max(0.0, deadline - time.monotonic()))


def name_of(observe: Callable[[RunProgress], object]) -> str:
    """Return an observer's name for messages."""
    owner = getattr(observe, "__self__", None)
    return type(owner).__name__ if owner is not None else getattr(observe, "__name__", repr(observe))
