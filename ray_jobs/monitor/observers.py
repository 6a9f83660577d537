"""Who observes a run, each in a thread of its own. Knows no run."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from ray_jobs.cli.errors import keep_trace
from ray_jobs.monitor.progress import RunProgress

logger = logging.getLogger(__name__)

LAST_LOOK_SECONDS = 5.0
"""How long an observer may take for the last look before the job goes on without it."""

MOST_WAITING = 8
"""Looks that wait for an observer; beyond, the oldest are left out."""


class Observer:
    """Shows looks at a run to one observer, in a thread that neither the run nor another observer waits for."""

    def __init__(self, observe: Callable[[RunProgress], object], end: Callable[[], object] | None = None) -> None:
        """Show each look by `observe`, and call `end` after the last one; both in the observer's thread."""
        self.observe = observe
        self.end = end
        self._looks: queue.SimpleQueue[RunProgress | None] = queue.SimpleQueue()
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def show(self, look: RunProgress) -> None:
        """Show a look, soon; none once it is to end."""
        if self._is_ending:
            return
        with suppress(queue.Empty):
            while self._looks.qsize() >= MOST_WAITING:
                self._looks.get_nowait()
        self._looks.put(look)

    def close(self, drops: bool = False) -> None:
        """Have it end after the looks that wait, or without them."""
        self._is_ending = True
        with suppress(queue.Empty):
            while drops:
                self._looks.get_nowait()
        self._looks.put(None)

    def join(self, seconds: float = LAST_LOOK_SECONDS) -> None:
        """Wait for its end; with a warning where it does not come in time."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            logger.warning("%s did not stop in time; the run continues without it.", name_of(self.observe))

    def _run(self) -> None:
        try:
            while (look := self._looks.get()) is not None:
                self.observe(look)
        except (Exception, SystemExit) as error:  # rich exits where nobody reads what it prints
            name, trace = name_of(self.observe), keep_trace(error)
            logger.warning("%s failed and was disabled; the run continues. %s", name, trace)
        if self.end is not None:
            with suppress(Exception, SystemExit):
                self.end()


def close_all(observers: Sequence[Observer], drops: bool) -> None:
    """End observers, all at once."""
    for observer in observers:
        observer.close(drops)
    gives_up_at = time.monotonic() + LAST_LOOK_SECONDS
    for observer in observers:
        observer.join(max(0.0, gives_up_at - time.monotonic()))


def name_of(observe: Callable[[RunProgress], object]) -> str:
    """Return what a person calls it."""
    owner = getattr(observe, "__self__", None)
    return type(owner).__name__ if owner is not None else getattr(observe, "__name__", repr(observe))
