"""Storage of a data set: a folder, S3, or any other fsspec file system. Files are written atomically.

Handles file names and bytes, whatever the files contain.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec.config
from fsspec.core import url_to_fs

from generation.errors import FigmentError
from generation.files import FULL, TEMPORARY, check_writable, write_new, write_whole

logger = logging.getLogger(__name__)

FORWARDED_PREFIXES = ("AWS_", "FSSPEC_", "GOOGLE_", "AZURE_")
"""Prefixes of environment variables with endpoints and credentials, forwarded to processes on other nodes."""

OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "memory")
"""URL schemes with atomic uploads. Elsewhere a file is written under a temporary name, then moved."""

LOCK = f"{TEMPORARY}lock"
"""Lock file of the job that writes to a folder; excluded from listings."""

NO_EXCLUSIVE_CREATION = (NotImplementedError, TypeError, ValueError)
"""Errors of file systems that do not support exclusive creation."""

S3_OPTIONS: dict[str, Any] = {"config_kwargs": {"connect_timeout": 5, "retries": {"max_attempts": 3}}}
"""Fail within seconds if a bucket is unreachable; retry failed requests."""


class StorageError(FigmentError):
    """A file could not be read or written, or has unexpected content; the message gives the remedy."""


class Storage:
    """A folder at a path or URL, accessible from every process of the cluster."""

    def __init__(self, url: str) -> None:
        """Accept an absolute path or a URL such as s3://bucket/folder; open nothing yet."""
        self.url = url.removeprefix("file://").removeprefix("local://").rstrip("/")
        self.environment = {name: value for name, value in os.environ.items() if name.startswith(FORWARDED_PREFIXES)}

    @property
    def is_local(self) -> bool:
        """True for a path on a file system of this machine."""
        return "://" not in self.url

    @property
    def is_object_store(self) -> bool:
        """True for stores with atomic uploads and no real folders."""
        return self.url.split("://")[0] in OBJECT_STORES

    def inside(self, folder: str) -> "Storage":
        """Return the storage of a subfolder."""
        return Storage(f"{self.url}/{folder}")

    def names(self, folder: str = "") -> set[str]:
        """Return the names of files and folders in a folder, without temporary files; empty if it does not exist."""
        with self._errors(f"'{self._path(folder)}' cannot be listed"):
            filesystem, path = self._open(folder)
            filesystem.invalidate_cache()
            try:
                found = [name.rstrip("/") for name in filesystem.ls(path, detail=False)]
            except FileNotFoundError:
                return set()
            names = {name.rsplit("/", 1)[-1] for name in found if name != path.rstrip("/")}  # S3 may list the folder
            return {name for name in names if not name.startswith(TEMPORARY)}

    def exists(self, name: str) -> bool:
        """Return whether a file exists."""
        with self._errors(f"'{self._path(name)}' cannot be checked"):
            filesystem, path = self._open(name)
            filesystem.invalidate_cache()
            return filesystem.exists(path)

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> bytes:
        """Return a file's bytes, optionally from `start` to before `stop`; StorageError if it cannot be read."""
        with self._errors(f"'{self._path(name)}' cannot be read"):
            filesystem, path = self._open(name)
            return filesystem.cat_file(path, start=start, end=stop)

    def write(self, name: str, content: bytes) -> None:
        """Write a file atomically, replacing an existing one."""
        with self._errors(f"'{self._path(name)}' cannot be written"):
            self._put(name, content, is_new=False)

    def write_new(self, name: str, content: bytes) -> bool:
        """Write a file unless it exists; return whether it was written."""
        with self._errors(f"'{self._path(name)}' cannot be written"):
            try:
                self._put(name, content, is_new=True)
            except Exception as error:  # each store has its own error for a file that exists
                if self.exists(name):
                    return False
                if self.is_local or not isinstance(error, NO_EXCLUSIVE_CREATION):
                    raise
                self.write(name, content)
                _warn_not_exclusive(self.url, f"{type(error).__name__}: {error}")
            return True

    def _put(self, name: str, content: bytes, is_new: bool) -> None:
        """Write a file atomically; with `is_new`, raise the store's own error if it exists."""
        if self.is_local:
            write = write_new if is_new else write_whole
            write(Path(self._path(name)), lambda file: file.write(content))
            return
        filesystem, path = self._open_to_write(name)
        if is_new:
            filesystem.pipe_file(path, content, mode="create")
        elif self.is_object_store:
            filesystem.pipe_file(path, content)
        else:
            folder, _, last = path.rpartition("/")
            temporary = f"{folder}/{TEMPORARY}{last}-{uuid4().hex}"
            filesystem.pipe_file(temporary, content)
            filesystem.mv(temporary, path)

    def check_writable(self) -> None:
        """Raise StorageError if the storage is not writable; leave at most an empty folder behind."""
        with self._errors(f"'{self.url}' cannot be written"):
            if self.is_local:
                folder = Path(self.url)
                check_writable(next(path for path in (folder, *folder.parents) if path.exists()))
                return
            filesystem, path = self._open_to_write(f"{TEMPORARY}{uuid4().hex}")
            filesystem.pipe_file(path, b"")
            filesystem.rm_file(path)

    def remove_leftovers(self, began_at: float) -> None:
        """Remove temporary files last written before `began_at` (seconds of `time.time()`), left by killed writers.

        Local folders only: object stores keep no partial uploads.
        """
        for path in Path(self.url).rglob(f"{TEMPORARY}*") if self.is_local else ():
            if path.name == LOCK:  # held by the caller
                continue
            # FileNotFoundError: the file's writer still runs and has just renamed it.
            with self._errors(f"'{path}' cannot be removed"), suppress(FileNotFoundError):
                if path.stat().st_mtime < began_at:
                    path.unlink()

    def _path(self, name: str) -> str:
        return f"{self.url}/{name}" if name else self.url

    def _open_to_write(self, name: str) -> tuple[Any, str]:
        """Return the same as `_open`; create the file's folder in stores that have folders."""
        filesystem, path = self._open(name)
        if not self.is_object_store:
            filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
        return filesystem, path

    def _open(self, name: str) -> tuple[Any, str]:
        """Return fsspec's file system and its path of a file."""
        os.environ.update(self.environment)
        fsspec.config.set_conf_env(fsspec.config.conf)  # fsspec otherwise reads it only at import
        options: dict[str, Any] = {}
        if self.url.startswith("s3://"):  # fsspec caches file systems by option, not by environment
            options = S3_OPTIONS | {"endpoint_url": self.environment.get("AWS_ENDPOINT_URL")}
        return url_to_fs(self._path(name), **options)

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Turn any error of a store's library into a one-line StorageError."""
        try:
            yield
        except StorageError:
            raise
        except Exception as error:  # each store's library has its own errors
            message = " ".join(str(error).split())[:200]
            raise StorageError(f"{what} ({type(error).__name__}: {message}). {_remedy(error)}") from error


@cache  # log once
def _warn_not_exclusive(url: str, reason: str) -> None:
    logger.warning("'%s' does not support exclusive creation (%s): two jobs may write the same file.", url, reason)


def _remedy(error: Exception) -> str:
    if isinstance(error, ImportError):
        return "Install the package named above; s3:// needs the extra s3."
    if isinstance(error, OSError) and error.errno in FULL:
        return "Free disk space and run again: complete files are kept, only missing files are generated."
    return "Check the path, its permissions and the network. For your own S3 server, set AWS_ENDPOINT_URL."
