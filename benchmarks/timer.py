"""Seconds spent in one method, the device's work included."""

import time
from collections.abc import Callable
from typing import Any

import torch


class Timer:
    """Adds up the time spent in one method of an object, the device's work included."""

    def __init__(self, owner: Any, method: str) -> None:
        self.seconds = 0.0
        self.owner, self.method = owner, method
        self.call = getattr(owner, method)
        setattr(owner, method, self)

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        """Call the method; what the device has left to do from before is not the method's."""
        wait_for_device()
        started_at = time.perf_counter()
        result = self.call(*arguments, **settings)
        wait_for_device()
        self.seconds += time.perf_counter() - started_at
        return result

    def remove(self) -> None:
        """Put the method back."""
        setattr(self.owner, self.method, self.call)


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long work takes, the device's part included."""
    wait_for_device()
    started_at = time.perf_counter()
    work()
    wait_for_device()
    return time.perf_counter() - started_at


def wait_for_device() -> None:
    """Return when the GPU, if there is one, has done all its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
