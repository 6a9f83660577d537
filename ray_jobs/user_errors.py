"""How a job ends when the user asked for what cannot be: one clear line, exit status 2."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from ray.exceptions import RayError

from generation.generator import GenerationFailedError

USER_ERROR_STATUS = 2


@contextmanager
def user_errors() -> Iterator[None]:
    """End the process with status 2 and one line where the body finds that the job cannot run."""
    try:
        yield
    except (ValueError, GenerationFailedError) as error:
        _end(error)


@contextmanager
def generation_errors() -> Iterator[None]:
    """Do the same while a job is at work, for what a generator found: Ray wraps it in traces of its workers."""
    try:
        yield
    except Exception as error:
        if found := _generation_failure(error):
            _end(found)
        raise


def _generation_failure(error: BaseException | None) -> BaseException | None:
    """Return the generator's own error among what led to an error."""
    while error is not None:
        if isinstance(error, GenerationFailedError) and not isinstance(error, RayError):
            return error
        error = getattr(error, "cause", None) or error.__cause__ or error.__context__
    return None


def _end(error: BaseException) -> NoReturn:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    sys.exit(USER_ERROR_STATUS)
