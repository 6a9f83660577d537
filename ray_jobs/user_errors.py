"""How a job ends early: one clear line where the user can do something, else a trace and a file that keeps it."""

import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from evaluation.model import EvaluationError
from generation.files import FORBIDDEN, FULL
from generation.generator import GenerationFailedError
from generation.storage import StorageError
from ray_jobs.run_directory import new_path
from ray_jobs.termination import TERMINATED_STATUS, TERMINATION
from ray_jobs.uploads import not_uploaded

KNOWN_AT_WORK = (GenerationFailedError, StorageError, EvaluationError)
"""What tells a user what to do, wherever it happens."""

USER_ERROR_STATUS = 2
INTERRUPTED_STATUS = 130
"""As shells have it: 128 and the number of SIGINT."""

TRACE_IS_IN = "The whole trace is in"


@contextmanager
def user_errors(folder: Path | None = None) -> Iterator[None]:
    """End the process with status 2 and one line where the body finds that the job cannot run."""
    TERMINATION.handle()
    with errors_at_work(folder=folder):
        try:
            yield
        except ValueError as error:
            if TERMINATION.has_begun:
                raise
            _end(_cause(error, _is_known) or error)


@contextmanager
def errors_at_work(kept: str = "", folder: Path | None = None) -> Iterator[None]:
    """Do the same while a job is at work, for what generators and storage end with: Ray wraps it in traces.

    `kept` is what Ctrl-C or SIGTERM leaves, and how to go on, in one line. The trace of an error that nobody foresaw
    is written to a new file in `folder`, else in the temporary folder, and ends with a line that says so.
    """
    with TERMINATION.keeping(kept):
        try:
            yield
        except KeyboardInterrupt:
            _end_interrupted(TERMINATION.kept)
        except Exception as error:
            if TERMINATION.has_begun:  # what was cut short raises errors of its own
                sys.exit(TERMINATED_STATUS)
            if found := _cause(error, _is_known) or _cause(error, _is_of_a_disk):
                _end(found, TERMINATION.kept)
            if not any(note.startswith(TRACE_IS_IN) for note in getattr(error, "__notes__", [])):
                error.add_note(f"{keep_trace(error, folder)} {TERMINATION.kept}".rstrip())
            raise


def keep_trace(error: Exception, folder: Path | None = None) -> str:
    """Write an error's trace to a new file, and return a sentence that names the file."""
    try:
        if folder is None or not folder.is_dir():
            folder = Path(tempfile.mkdtemp(prefix="figment-error-"))
        path = new_path(folder, "error", ".log")
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8", errors="replace")
    except OSError as not_written:
        return f"{TRACE_IS_IN} no file: {not_written}."
    return f"{TRACE_IS_IN} {path}."


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its kind if it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


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
    message = " ".join(text.split())
    print(f"error: {message}{not_uploaded(message)}", file=sys.stderr, flush=True)
    sys.exit(USER_ERROR_STATUS)
