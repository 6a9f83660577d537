"""How a job fails: one line for errors that the user can fix, otherwise a traceback that is also written to a file."""

import io
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from generation.errors import FigmentError
from generation.files import FORBIDDEN, FULL, new_path
from ray_jobs.cli.termination import TERMINATION
from ray_jobs.cli.uploads import not_uploaded

USER_ERROR_STATUS = 2

RAY_DATA_ADDS = "\nFailed to apply UDF transform after"
"""Start of the text that Ray Data appends to the message of a task's error."""

TRACE_NOTE = "The full traceback"
"""Start of the note on an error that names the file with its traceback."""


@contextmanager
def user_errors(hint: str = "", folder: Path | None = None) -> Iterator[None]:
    """Exit with status 2 and one line if the body raises ValueError or an error that `errors_at_work` handles."""
    TERMINATION.handle()
    print_any_text()
    with errors_at_work(hint, folder):
        try:
            yield
        except ValueError as error:
            if TERMINATION.has_begun:
                raise
            found = _known(error) or error
            _end(f"{found}{not_uploaded(str(found))}")


@contextmanager
def errors_at_work(hint: str = "", folder: Path | None = None) -> Iterator[None]:
    """Exit with status 2 and one line for a FigmentError or a full disk, which Ray wraps in its own errors.

    `hint` is one line about what remains after Ctrl-C or SIGTERM and how to resume. The traceback of any other error is
    written to a new file in `folder`, or in the temporary folder, and a note on the error names the file.
    """
    with TERMINATION.with_hint(hint):
        try:
            yield
        except KeyboardInterrupt:
            TERMINATION.begin(signal.SIGINT)
        except Exception as error:
            if TERMINATION.has_begun:  # interrupted work raises errors too
                sys.exit(TERMINATION.status)
            if found := _known(error):
                _end(str(found).partition(RAY_DATA_ADDS)[0])
            if found := _of_a_disk(error):
                _end(f"{_place_and_remedy(found)} {TERMINATION.hint}")
            if not any(note.startswith(TRACE_NOTE) for note in getattr(error, "__notes__", [])):
                error.add_note(f"{keep_trace(error, folder)} {TERMINATION.hint}".rstrip())
            raise


def print_any_text() -> None:
    """Escape characters that stdout or stderr cannot encode, so that a folder's name cannot end a run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def keep_trace(error: BaseException, folder: Path | None = None) -> str:
    """Write an error's traceback to a new file, and return a sentence that names the file."""
    try:
        if folder is None or not folder.is_dir():
            folder = Path(tempfile.mkdtemp(prefix="figment-error-"))
        path = new_path(folder, "error", ".log")
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8", errors="replace")
    except OSError as not_written:
        return f"{TRACE_NOTE} could not be written: {not_written}."
    return f"{TRACE_NOTE} is in {path}."


def one_line(error: Exception, folder: Path) -> str:
    """Return an error as one line; an unexpected one's traceback is written to a new file in `folder`."""
    if found := _known(error):
        return " ".join(str(found).partition(RAY_DATA_ADDS)[0].split())
    if found := _of_a_disk(error):
        return _place_and_remedy(found)
    *_, cause = _chain(error, with_context=False)
    if isinstance(cause, ValueError):
        return " ".join(str(cause).split())
    return f"{type(cause).__name__}: {first_line(cause)} {keep_trace(error, folder)}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _known(error: BaseException) -> BaseException | None:
    """Return the FigmentError among an error and its causes, if any."""
    return next((each for each in _chain(error, with_context=True) if isinstance(each, FigmentError)), None)


def _of_a_disk(error: BaseException) -> BaseException | None:
    """Return the full-disk or permission error among an error and its causes, if any."""
    return next(filter(_is_of_a_disk, _chain(error, with_context=False)), None)


def _chain(error: BaseException | None, with_context: bool) -> Iterator[BaseException]:
    """Yield an error and its causes; with context, also the errors that were being handled."""
    while error is not None:
        cause = getattr(error, "cause", None)  # Ray's errors are of their cause's class too, with a trace as message
        if cause is None:
            yield error
        has_context = with_context and not error.__suppress_context__
        error = cause or error.__cause__ or (error.__context__ if has_context else None)


def _is_of_a_disk(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in FULL or (error.errno in FORBIDDEN and error.filename is not None)
    return type(error).__name__ == "OutOfDiskError"  # Ray's, which is not imported: benchmarks of a device do without


def _place_and_remedy(error: BaseException) -> str:
    if not isinstance(error, OSError):
        return (
            "Ray's object store and the disk that it spills to are full. Free space in each node's RAY_TMPDIR, or /tmp."
        )
    place = f"'{error.filename}'" if error.filename else "A file"
    if error.errno in FULL:
        return f"{place} cannot be written: {error.strerror}. Free some space."
    return f"{place} cannot be used: {error.strerror}. Use another path, or give this account access."


def _end(message: str) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    sys.exit(USER_ERROR_STATUS)
