"""What goes on in threads beside something else: work of any kind, and readings now and then."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import psutil

MOST_THREADS = 1_000

Reading = TypeVar("Reading")


class Background:
    """A context: threads beside its body, which hear of its end and are waited for."""

    def __init__(self) -> None:
        self.is_over = threading.Event()
        """Is set at the body's end, for those at work to look at, or to wait for."""

        self._threads = ThreadPoolExecutor(MOST_THREADS)
        self._works: list[Future[None]] = []

    def start(self, work: Callable[[], None]) -> None:
        """Have a thread of its own do something."""
        self._works.append(self._threads.submit(work))

    def __enter__(self) -> "Background":
        """Begin."""
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        """End all; raises what one of them ended with, unless another error is on its way."""
        self.is_over.set()
        errors = [work.exception() for work in self._works]  # and of those that they start meanwhile
        self._threads.shutdown()
        for error in errors:
            if error is not None and error_type is None:
                raise error


@contextmanager
def readings(read: Callable[[], Reading], interval_seconds: float) -> Iterator[list[Reading]]:
    """Note now and then what a reading gives, beside the body."""
    noted: list[Reading] = []

    def watch() -> None:
        while not beside.is_over.wait(interval_seconds):
            noted.append(read())

    with Background() as beside:
        beside.start(watch)
        yield noted


def resident_bytes() -> int:
    """Return this process's resident memory."""
    return psutil.Process().memory_info().rss


def growth_bytes(sizes_bytes: Sequence[int]) -> int:
    """Return by how much the largest of sizes in time exceeds the one at a tenth of the time."""
    return max(sizes_bytes) - sizes_bytes[len(sizes_bytes) // 10]
