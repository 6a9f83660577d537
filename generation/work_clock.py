"""Total time that threads spend at work or waiting."""

import threading
import time
from collections.abc import Callable


class WorkClock:
    """Measures the time during which at least one thread is inside this context manager."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._num_at_work = 0
        self._seconds = self._counted_until = 0.0

    def __enter__(self) -> None:
        with self._lock:
            self._count()
            self._num_at_work += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._count()
            self._num_at_work -= 1

    @property
    def is_running(self) -> bool:
        """True while any thread is inside."""
        return self._num_at_work > 0

    @property
    def seconds(self) -> float:
        """Seconds measured so far."""
        with self._lock:
            self._count()
            return self._seconds

    def take(self) -> float:
        """Return the seconds measured since the last call, and reset to zero."""
        with self._lock:
            self._count()
            taken, self._seconds = self._seconds, 0.0
        return taken

    def _count(self) -> None:
        now = self._now()
        if self._num_at_work:
            self._seconds += now - self._counted_until
        self._counted_until = now
