"""Time spent in a method or function, including the GPU's work."""

import time
from collections.abc import Callable
from typing import Any

import torch


class Timer:
    """Adds up the time spent in one method of an object, including the GPU's work."""

    def __init__(self, owner: Any, method: str) -> None:
        self.seconds = 0.0
        self.owner, self.method = owner, method
        self.call = getattr(owner, method)
        setattr(owner, method, self)

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        """Call the method and add its time; pending GPU work is finished first and not counted."""
        wait_for_device()
        started_at = time.perf_counter()
        result = self.call(*arguments, **settings)
        wait_for_device()
        self.seconds += time.perf_counter() - started_at
        return result

    def remove(self) -> None:
        """Restore the original method."""
        setattr(self.owner, self.method, self.call)


def seconds_of(work: Callable[[], object]) -> float:
    """Return the duration of a call, including the GPU's work."""
    wait_for_device()
    started_at = time.perf_counter()
    work()
    wait_for_device()
    return time.perf_counter() - started_at


def wait_for_device() -> None:
    """Wait until the GPU, if there is one, has finished all work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
