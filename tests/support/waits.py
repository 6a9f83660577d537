"""What tests wait for."""

import time
from collections.abc import Callable


def wait_until(is_so: Callable[[], object], seconds: float = 60.0) -> None:
    """Return when something is so; AssertionError after so long."""
    give_up_at = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < give_up_at, f"still not so after {seconds:g} s"
        time.sleep(0.1)
