"""Progress lines of a job, with the seconds since its process started."""

import time

import psutil

STARTED_AT = psutil.Process().create_time()
"""Start of this process, as `time.time()` in seconds."""


def announce(text: str) -> None:
    """Print a line about the job's progress, after the seconds since its process started."""
    print(f"{time.time() - STARTED_AT:6.1f} s  {text}", flush=True)
