"""What tests wait for, and what they do meanwhile."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def wait_until(is_so: Callable[[], object], seconds: float = 60.0) -> None:
    """Return when something is so; AssertionError after so long."""
    give_up_at = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < give_up_at, f"still not so after {seconds:g} s"
        time.sleep(0.1)


@contextmanager
def repeated_meanwhile(step: Callable[[], object], every_seconds: float) -> Iterator[None]:
    """Call a function again and again in a thread of its own, until it returns something true or the body ends."""
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
