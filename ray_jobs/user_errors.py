"""How a job ends when the user asked for what cannot be: one clear line, exit status 2."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from evaluation.model import EvaluationError
from generation.files import FORBIDDEN, FULL
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
    except KeyboardInterrupt:
        _end_interrupted("")
    except Exception as error:
        of_the_user = error if isinstance(error, ValueError) else _cause(error, _is_of_a_disk)
        if found := _cause(error, _is_known) or of_the_user:
            _end(found)
        raise


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
        if found := _cause(error, _is_known) or _cause(error, _is_of_a_disk):
            _end(found, kept)
        raise


def _cause(error: BaseException | None, is_it: Callable[[BaseException], bool]) -> BaseException | None:
    """Return the first of what led to an error that is of a kind."""
    while error is not None:
        cause = getattr(error, "cause", None)  # Ray's errors are of their cause's class too, with a trace as message
        if is_it(error) and cause is None:
            return error
        error = cause or error.__cause__ or error.__context__
    return None


def _is_known(error: BaseException) -> bool:
    return isinstance(error, KNOWN_AT_WORK)


def _is_of_a_disk(error: BaseException) -> bool:
    """Return whether a place is full, or may not be used."""
    if isinstance(error, OSError):
        return error.errno in FULL or (error.errno in FORBIDDEN and error.filename is not None)
    return type(error).__name__ == "OutOfDiskError"  # Ray's, which is not imported: benchmarks of a device do without


def _of_a_disk(error: BaseException) -> str:
    """Return the place, and what to do."""
    if not isinstance(error, OSError):
        return (
            "Ray's memory for objects and the disk beside it are full. Make room in RAY_TMPDIR of each node, or /tmp."
        )
    place = f"'{error.filename}'" if error.filename else "A file"
    if error.errno in FULL:
        return f"{place} cannot be written: {error.strerror}. Make room."
    return f"{place} cannot be used: {error.strerror}. Give another place, or this account the right to it."


def _end_interrupted(kept: str) -> NoReturn:
    print(f"interrupted. {kept}".rstrip(), file=sys.stderr, flush=True)
    sys.exit(INTERRUPTED_STATUS)


def _end(error: BaseException, kept: str = "") -> NoReturn:
    text = f"{_of_a_disk(error)} {kept}" if _is_of_a_disk(error) else str(error)
    print(f"error: {' '.join(text.split())}", file=sys.stderr, flush=True)
    sys.exit(USER_ERROR_STATUS)
