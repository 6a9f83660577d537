"""Atomic file writes, with fallbacks for file systems that lack an operation. For local paths only.

Failures raise an `OSError` that names the file.
"""

import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

logger = logging.getLogger(__name__)

TEMPORARY = ".writing-"
"""Prefix of a file's name while it is being written."""

UNSUPPORTED = (errno.EPERM, errno.EACCES, errno.EEXIST, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of operations that a file system does not support, such as exFAT, SMB or a mounted bucket."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file atomically, replacing an existing one."""
    with name_in_errors(path), _written_beside(path, write) as unfinished:
        move(unfinished, path)


def move(source: Path, path: Path) -> None:
    """Rename a file within its folder, replacing an existing one."""
    try:
        os.replace(source, path)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        with path.open("wb") as file:
            _fill(file, path, source)
        source.unlink()
        _warn(path.parent, "atomic rename", error.strerror, "a job killed during a write leaves a truncated file")


def write_new(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a new file atomically; raise FileExistsError if it exists."""
    with name_in_errors(path), _written_beside(path, write) as unfinished:
        try:
            os.link(unfinished, path)
        except OSError as error:
            if isinstance(error, FileExistsError) or error.errno not in UNSUPPORTED:
                raise
            with _created(path) as file:
                _fill(file, path, unfinished)


def check_writable(folder: Path) -> None:
    """Raise OSError if an existing folder is not writable; leave nothing behind."""
    with name_in_errors(folder), _written_beside(folder / "check", lambda file: file.write(bytes(4096))):
        pass


@contextmanager
def name_in_errors(path: Path) -> Iterator[None]:
    """Add the file's name to file-system errors that lack it, also to those that torch wraps in a RuntimeError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError) or cause.errno is None:
            raise
        if cause.filename is not None and not Path(os.fsdecode(cause.filename)).name.startswith(TEMPORARY):
            raise
        raise OSError(cause.errno, os.strerror(cause.errno), str(path)) from error


@contextmanager
def _written_beside(path: Path, write: Callable[[BinaryIO], Any]) -> Iterator[Path]:
    """Write to a temporary file beside `path` and yield it; delete it afterwards unless it was renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{TEMPORARY}{path.name}-{uuid4().hex}")
    try:
        with unfinished.open("wb") as file:
            write(file)
            _sync(file)
        yield unfinished
    finally:
        unfinished.unlink(missing_ok=True)


def _created(path: Path) -> BinaryIO:
    try:
        return path.open("xb")
    except OSError as error:
        if isinstance(error, FileExistsError) or error.errno not in UNSUPPORTED:
            raise
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        _warn(path.parent, "exclusive creation", error.strerror, "two jobs may write the same file")
        return path.open("wb")


def _fill(file: BinaryIO, path: Path, source: Path) -> None:
    """Copy `source` into the open file; delete `path` on failure."""
    try:
        with source.open("rb") as content:
            shutil.copyfileobj(content, file)
        _sync(file)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _sync(file: BinaryIO) -> None:
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


@cache
def _warn(folder: Path, lacking: str, reason: str, unprotected: str) -> None:
    """Warn once per folder about an operation that its file system lacks."""
    logger.warning("The file system of '%s' does not support %s (%s): %s.", folder, lacking, reason, unprotected)


def new_path(folder: Path, stem: str, suffix: str) -> Path:
    """Return an unused path in the folder: `stem` + `suffix`, or `stem-2` + `suffix` and so on."""
    path, number = folder / f"{stem}{suffix}", 2
    while path.exists():
        path, number = folder / f"{stem}-{number}{suffix}", number + 1
    return path
