"""How a job ends when the user asked for what cannot be: one clear line, exit status 2."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from evaluation.model import EvaluationError
from generation.generator import GenerationFailedError
from generation.storage import StorageError

KNOWN_AT_WORK = (GenerationFailedError, StorageError, EvaluationError)
"""What tells a user what to do, wherever it happens."""

USER_ERROR_STATUS = 2
INTERRUPTED_STATUS = 130
"""As shells have it: 128 and the number of SIGINT."""


@contextmanager
def user_errors() -> Iterator[None]:
    """End the process with status 2 and one line where the body finds that the job cannot run."""
    try:
        yield
    except (ValueError, *KNOWN_AT_WORK) as error:
        _end(_known_cause(error) or error)
    except KeyboardInterrupt:
        _end_interrupted("")


@contextmanager
def errors_at_work(kept: str = "") -> Iterator[None]:
    """Do the same while a job is at work, for what generators and storage end with: Ray wraps it in traces.

    `kept` is what Ctrl-C leaves, and how to go on, in one line.
    """
    try:
        yield
    except KeyboardInterrupt:
        _end_interrupted(kept)
    except Exception as error:
        if found := _known_cause(error):
            _end(found)
        raise


def _known_cause(error: BaseException | None) -> BaseException | None:
    """Return what a user can do something about, among what led to an error."""
    while error is not None:
        cause = getattr(error, "cause", None)  # Ray's errors are of their cause's class too, with a trace as message
        if isinstance(error, KNOWN_AT_WORK) and cause is None:
            return error
        error = cause or error.__cause__ or error.__context__
    return None


def _end_interrupted(kept: str) -> NoReturn:
    print(f"interrupted. {kept}".rstrip(), file=sys.stderr, flush=True)
    sys.exit(INTERRUPTED_STATUS)


def _end(error: BaseException) -> NoReturn:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    sys.exit(USER_ERROR_STATUS)
