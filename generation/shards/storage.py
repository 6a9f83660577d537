"""Where a data set is kept: a folder, S3, or whatever else fsspec reaches. A file appears there whole or not at all.

Knows names and bytes, and nothing of what they mean.
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

from generation.files import FULL, TEMPORARY, check_writable, write_new, write_whole

logger = logging.getLogger(__name__)

PASSED_ON = ("AWS_", "FSSPEC_", "GOOGLE_", "AZURE_")
"""Environment variables that begin so say where a store is and who asks: processes on other nodes get them too."""

OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "memory")
"""Kinds of URL where an upload appears at once; elsewhere a file is written under another name, then moved."""

LOCK = f"{TEMPORARY}lock"
"""The file that a job has locked while it works in a folder; no listing has it."""

NO_EXCLUSIVE_CREATION = (NotImplementedError, TypeError, ValueError)
"""What stores' libraries end with that cannot create a file only where there is none."""

S3_OPTIONS: dict[str, Any] = {"config_kwargs": {"connect_timeout": 5, "retries": {"max_attempts": 3}}}
"""A bucket that cannot be reached is told within seconds; a request that fails is made again."""


class StorageError(RuntimeError):
    """Something could not be read or written: the message says what, and what to do."""


class Storage:
    """A folder of files under one path or URL, from any process of the cluster."""

    def __init__(self, url: str) -> None:
        """Take an absolute path or a URL such as s3://bucket/folder; nothing is opened yet."""
        self.url = url.removeprefix("file://").removeprefix("local://").rstrip("/")
        self.environment = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}

    @property
    def is_local(self) -> bool:
        """Whether it is a folder that this machine mounts."""
        return "://" not in self.url

    @property
    def is_object_store(self) -> bool:
        """Whether it has no real folders, and an upload appears at once."""
        return self.url.split("://")[0] in OBJECT_STORES

    def inside(self, folder: str) -> "Storage":
        """Return a folder of this one."""
        return Storage(f"{self.url}/{folder}")

    def names(self, folder: str = "") -> set[str]:
        """Return the names of files and folders in a folder, none half-written; none if there is no such folder."""
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
        """Return whether a file is there."""
        with self._errors(f"'{self._path(name)}' cannot be checked"):
            filesystem, path = self._open(name)
            filesystem.invalidate_cache()
            return filesystem.exists(path)

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> bytes:
        """Return what a file holds, or its bytes from `start` to before `stop`; StorageError if there is none."""
        with self._errors(f"'{self._path(name)}' cannot be read"):
            filesystem, path = self._open(name)
            return filesystem.cat_file(path, start=start, end=stop)

    def write(self, name: str, content: bytes) -> None:
        """Write a file at once, in the place of one that there may be."""
        with self._errors(f"'{self._path(name)}' cannot be written"):
            self._put(name, content, is_new=False)

    def write_new(self, name: str, content: bytes) -> bool:
        """Write a file unless there is one, and return whether it was written."""
        with self._errors(f"'{self._path(name)}' cannot be written"):
            try:
                self._put(name, content, is_new=True)
            except Exception as error:  # what a file that is there ends in differs from store to store
                if self.exists(name):
                    return False
                if self.is_local or not isinstance(error, NO_EXCLUSIVE_CREATION):
                    raise
                self.write(name, content)
                _warn_not_exclusive(self.url, f"{type(error).__name__}: {error}")
            return True

    def _put(self, name: str, content: bytes, is_new: bool) -> None:
        """Write a file, which appears at once; one that must be new ends in a store's own error where there is one."""
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
        """Raise StorageError if nothing can be written here, leaving no trace but perhaps the empty folder."""
        with self._errors(f"'{self.url}' cannot be written"):
            if self.is_local:
                folder = Path(self.url)
                check_writable(next(path for path in (folder, *folder.parents) if path.exists()))
                return
            filesystem, path = self._open_to_write(f"{TEMPORARY}{uuid4().hex}")
            filesystem.pipe_file(path, b"")
            filesystem.rm_file(path)

    def remove_leftovers(self, began_at: float) -> None:
        """Remove what writers that were killed before this moment, in seconds of `time.time()`, have left half-written.

        On disk alone: nothing half-written stays in an object store.
        """
        for path in Path(self.url).rglob(f"{TEMPORARY}*") if self.is_local else ():
            if path.name == LOCK:  # the caller's own
                continue
            with self._errors(f"'{path}' cannot be removed"), suppress(FileNotFoundError):  # its writer may be at work
                if path.stat().st_mtime < began_at:
                    path.unlink()

    def _path(self, name: str) -> str:
        return f"{self.url}/{name}" if name else self.url

    def _open_to_write(self, name: str) -> tuple[Any, str]:
        """Return the same, with the file's folder made where stores have folders."""
        filesystem, path = self._open(name)
        if not self.is_object_store:
            filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
        return filesystem, path

    def _open(self, name: str) -> tuple[Any, str]:
        """Return fsspec's file system and its path to a file."""
        os.environ.update(self.environment)
        fsspec.config.set_conf_env(fsspec.config.conf)  # which otherwise is read when fsspec is imported
        options: dict[str, Any] = {}
        if self.url.startswith("s3://"):  # fsspec keeps file systems by their options, not by what they read elsewhere
            options = S3_OPTIONS | {"endpoint_url": self.environment.get("AWS_ENDPOINT_URL")}
        return url_to_fs(self._path(name), **options)

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Make whatever a store's library ends with one line."""
        try:
            yield
        except StorageError:
            raise
        except Exception as error:  # each store's library has errors of its own
            message = " ".join(str(error).split())[:200]
            raise StorageError(f"{what} ({type(error).__name__}: {message}). {_remedy(error)}") from error


@cache  # said once
def _warn_not_exclusive(url: str, reason: str) -> None:
    logger.warning("'%s' does not support exclusive creation (%s): two jobs may write the same file.", url, reason)


def _remedy(error: Exception) -> str:
    if isinstance(error, ImportError):
        return "Install the package named above; s3:// needs the extra s3."
    if isinstance(error, OSError) and error.errno in FULL:
        return "Free disk space and run again: complete files are kept, only missing ones are generated."
    return "Check the path, its permissions and the network. For your own S3 server, set AWS_ENDPOINT_URL."
