"""How a job ends when the user asked for what cannot be: one clear line, exit status 2."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from generation.generator import GenerationFailedError

USER_ERROR_STATUS = 2


@contextmanager
def user_errors() -> Iterator[None]:
    """End the process with status 2 and one line where the body finds that the job cannot run."""
    try:
        yield
    except (ValueError, GenerationFailedError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        sys.exit(USER_ERROR_STATUS)
