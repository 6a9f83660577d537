"""Files on disk that appear whole or not at all, also where the file system lacks something. Knows no other stores.

What fails is an `OSError` that names the file.
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
"""What names begin with while their file is being written."""

LACKING = (errno.EPERM, errno.EACCES, errno.EEXIST, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
"""How file systems answer what they cannot do, such as exFAT, SMB and buckets that are mounted."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Have a file written in the place of one that there may be."""
    with naming(path), _written_beside(path, write) as unfinished:
        move(unfinished, path)


def move(source: Path, path: Path) -> None:
    """Give a file another name in its folder, in the place of one that there may be."""
    try:
        os.replace(source, path)
    except OSError as error:
        if error.errno not in LACKING:
            raise
        with path.open("wb") as file:
            _fill(file, path, source)
        source.unlink()
        _warn(path.parent, "renaming over a file", error.strerror, "a job killed while it writes leaves half a file")


def write_new(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Have a file written whose name must be free; FileExistsError if it is not."""
    with naming(path), _written_beside(path, write) as unfinished:
        try:
            os.link(unfinished, path)
        except OSError as error:
            if isinstance(error, FileExistsError) or error.errno not in LACKING:
                raise
            with _created(path) as file:
                _fill(file, path, unfinished)


def check_writable(folder: Path) -> None:
    """Raise OSError if nothing can be written to an existing folder, leaving no trace."""
    with naming(folder), _written_beside(folder / "check", lambda file: file.write(bytes(4096))):
        pass


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make an error of the file system name the file, as a full disk's does not; torch hides it behind its own."""
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
    """Have a file written under a name of its own, which is gone afterwards unless the file has got another."""
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
        if isinstance(error, FileExistsError) or error.errno not in LACKING:
            raise
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        _warn(path.parent, "exclusive creation", error.strerror, "two jobs may write the same file")
        return path.open("wb")


def _fill(file: BinaryIO, path: Path, source: Path) -> None:
    """Copy what was written, or leave no half of it."""
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
        if error.errno not in LACKING:
            raise


@cache
def _warn(folder: Path, lacking: str, reason: str, unprotected: str) -> None:
    """Say once what a folder's file system does without."""
    logger.warning("'%s' is on a file system without %s (%s): %s.", folder, lacking, reason, unprotected)


def new_path(folder: Path, stem: str, suffix: str) -> Path:
    """Return `stem.suffix` in the folder, numbered from 2 on where it exists already."""
    path, number = folder / f"{stem}{suffix}", 2
    while path.exists():
        path, number = folder / f"{stem}-{number}{suffix}", number + 1
    return path
