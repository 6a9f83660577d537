"""How a job ends early: one clear line where the user can do something, else a trace and a file that keeps it."""

import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from evaluation.model import EvaluationError
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
            _end(_known_cause(error) or error)


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
            if found := _known_cause(error):
                _end(found)
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
    message = " ".join(str(error).split())
    print(f"error: {message}{not_uploaded(message)}", file=sys.stderr, flush=True)
    sys.exit(USER_ERROR_STATUS)
