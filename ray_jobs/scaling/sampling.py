"""What is looked at now and then while something else is at work."""

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import psutil

Reading = TypeVar("Reading")


class Readings(Generic[Reading]):
    """A context: while it is open, a thread notes what a reading gives."""

    def __init__(self, read: Callable[[], Reading], interval_seconds: float) -> None:
        self.noted: list[Reading] = []
        self._read = read
        self._interval_seconds = interval_seconds
        self._closing = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Readings[Reading]":
        """Start noting."""
        self._thread.start()
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        """Stop; raises what a reading ended with, unless another error is on its way."""
        self._closing.set()
        self._thread.join()
        if self._error is not None and error_type is None:
            raise self._error

    def _watch(self) -> None:
        try:
            while not self._closing.wait(self._interval_seconds):
                self.noted.append(self._read())
        except Exception as error:
            self._error = error


def resident_bytes() -> int:
    """Return this process's resident memory."""
    return psutil.Process().memory_info().rss


def growth_bytes(sizes_bytes: Sequence[int]) -> int:
    """Return by how much the largest of sizes in time exceeds the one at a tenth of the time."""
    return max(sizes_bytes) - sizes_bytes[len(sizes_bytes) // 10]
