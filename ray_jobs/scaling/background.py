"""Background threads for a block of code, and periodic sampling of a value."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import psutil

MAX_THREADS = 1_000

Value = TypeVar("Value")


class Background:
    """A context manager whose threads run beside its body; at the body's end it signals them to stop and joins them."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        """Set when the body ends; threads poll it or wait for it."""

        self._threads = ThreadPoolExecutor(MAX_THREADS)
        self._futures: list[Future[None]] = []

    def start(self, work: Callable[[], None]) -> None:
        """Run a function in its own thread."""
        self._futures.append(self._threads.submit(work))

    def __enter__(self) -> "Background":
        """Return self."""
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        """Stop and join all threads; raise the first thread's error unless the body raised one."""
        self.stopped.set()
        # `exception` waits for the thread; the list includes threads that other threads start meanwhile.
        errors = [future.exception() for future in self._futures]
        self._threads.shutdown()
        for error in errors:
            if error is not None and error_type is None:
                raise error


@contextmanager
def sampling(read: Callable[[], Value], interval_seconds: float) -> Iterator[list[Value]]:
    """Call `read` at this interval while the body runs; yield the list that collects its results."""
    values: list[Value] = []

    def collect() -> None:
        while not background.stopped.wait(interval_seconds):
            values.append(read())

    with Background() as background:
        background.start(collect)
        yield values


def resident_bytes() -> int:
    """Return this process's resident memory."""
    return psutil.Process().memory_info().rss


def growth_bytes(sizes_bytes: Sequence[int]) -> int:
    """Return the largest size minus the size after the first tenth; sizes are in time order."""
    return max(sizes_bytes) - sizes_bytes[len(sizes_bytes) // 10]
