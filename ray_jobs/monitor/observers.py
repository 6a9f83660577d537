"""Who observes a run, each in a thread of its own. Knows no run."""

import logging
import threading
from collections.abc import Callable

from ray_jobs.cli.errors import keep_trace
from ray_jobs.monitor.progress import RunProgress

logger = logging.getLogger(__name__)

LAST_LOOK_SECONDS = 5.0
"""How long an observer may take for the last look before the job goes on without it."""


class Observer:
    """Shows one observer the newest look whenever it is done with the one before."""

    def __init__(self, observe: Callable[[RunProgress], object]) -> None:
        self.observe = observe
        self._changed = threading.Condition()
        self._newest: RunProgress | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def show(self, look: RunProgress) -> None:
        """Show a look, soon, in the place of one that has not been seen yet."""
        with self._changed:
            self._newest = look
            self._changed.notify()

    def close(self) -> None:
        """End after the last look, which a slow observer may miss."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(LAST_LOOK_SECONDS)

    def _run(self) -> None:
        while (look := self._next()) is not None:
            try:
                self.observe(look)
            except (Exception, SystemExit) as error:  # rich exits where nobody reads what it prints
                name, trace = name_of(self.observe), keep_trace(error)
                logger.warning("%s failed and is switched off; the run goes on. %s", name, trace)
                return

    def _next(self) -> RunProgress | None:
        """Return the newest look once there is one that was not shown; None when there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._closing)
            look, self._newest = self._newest, None
            return look


def name_of(observe: Callable[[RunProgress], object]) -> str:
    """Return what a person calls it."""
    owner = getattr(observe, "__self__", None)
    return type(owner).__name__ if owner is not None else getattr(observe, "__name__", repr(observe))
