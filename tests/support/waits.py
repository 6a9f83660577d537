"""Wait for conditions, and repeat actions meanwhile."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def wait_until(holds: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until a condition holds; AssertionError after `seconds`."""
    give_up_at = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up_at, f"condition still false after {seconds:g} s"
        time.sleep(0.1)


@contextmanager
def repeated_meanwhile(step: Callable[[], object], every_seconds: float) -> Iterator[None]:
    """Call a function repeatedly in a thread until it returns a true value or the body ends."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(every_seconds):
            if step():
                return

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
