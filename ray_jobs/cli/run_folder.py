"""The folder of a run's files: its lock, its checks, and writing without overwriting existing files."""

import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from generation import files
from generation.files import new_path
from generation.recipes.model_files import find_local
from generation.recipes.recipe import Recipe, differences, read_recipe
from generation.shards import storage
from generation.shards.storage import Storage
from ray_jobs.cli.uploads import in_package
from training.job import CHECKPOINTS, TRAIN_FOLDER

logger = logging.getLogger(__name__)

REMEDY = "Choose another folder with output=... (or --out)."

CHECKPOINT = "checkpoint.ckpt"
"""A finished run's checkpoint in its folder."""

LOCK = "lock"
"""Lock file in a run's folder, locked by its job; a leftover file without a job means nothing."""

PROBE_SECONDS = 2.0
"""How long to retry a lock that others hold while checking it; each check takes only a moment."""

UNPROTECTED = "a second job could write to this folder at the same time."
"""Consequence of a file system without locks, for jobs that write there."""


def resolve(path: str, remedy: str = REMEDY) -> Path:
    """Return the absolute path; a submitted job's relative paths are below the home folder.

    A job submitted with `--working-dir` runs in a temporary copy that Ray deletes.
    """
    if not path:
        raise ValueError(f"The folder's path is empty. {remedy}")
    if "://" in path:
        raise ValueError(
            f"'{path}' is a URL; use a folder's path, on storage that all nodes share if there are several nodes."
        )
    try:
        return ((Path.home() if in_package() else Path.cwd()) / Path(path).expanduser()).resolve()
    except RuntimeError as error:
        raise ValueError(f"'{path}' is not a valid path: {error}. {remedy}") from error


def resolve_input(path: str) -> Path:
    """Return the absolute path of an input: uploaded with the job, shipped with the code, or on disk (`find_local`).

    A path that does not exist is resolved as in `resolve`.
    """
    found = find_local(path)
    return Path(os.path.abspath(found)) if found else resolve(path, "Choose another one.")


def resolve_place(path: str) -> str:
    """Return a URL unchanged, and anything else as an absolute path."""
    return path if "://" in path else str(resolve(path))


def check_output(run_dir: Path, config_yaml: str | None = None) -> None:
    """Raise ValueError if a run cannot be written to this folder; leave nothing behind.

    The leftovers of a job with the same config that was killed before it started (a lock and the config) are accepted
    if `lock_run_folder` gets the lock.
    """
    try:
        check_not_in_use(run_dir)
        if run_dir.is_dir() and any(run_dir.iterdir()) and not _never_started(run_dir, config_yaml):
            raise ValueError(f"output '{run_dir}' already contains {_contents_and_remedy(run_dir)}")
        existing = next(path for path in (run_dir, *run_dir.parents) if path.exists())
        if not existing.is_dir():
            raise ValueError(f"output '{run_dir}' cannot be created: '{existing}' is a file. {REMEDY}")
        check_writable(existing)
    except OSError as error:
        raise ValueError(f"output '{run_dir}' cannot be used: {error.strerror}. {REMEDY}") from error


def _never_started(run_dir: Path, config_yaml: str | None) -> bool:
    """Return whether a folder contains only the files of `lock_run_folder`, for this config."""
    config = run_dir / "config.yaml"
    names = {path.name for path in run_dir.iterdir()}
    if names == {LOCK, config.name} and config_yaml is not None:
        return config.read_bytes() == config_yaml.encode()
    return names == {LOCK}


def _contents_and_remedy(run_dir: Path) -> str:
    """Return what prevents a new run in a folder, and the remedy."""
    is_begun = (run_dir / "config.yaml").is_file() and (run_dir / "recipe.json").is_file()
    if is_begun and not (run_dir / CHECKPOINT).exists():
        return f"an unfinished run. Continue it with resume=true. {REMEDY.replace('Choose', 'Or choose')}"
    return f"files, which are not overwritten. {REMEDY}"


def check_writable(folder: Path) -> None:
    """Raise ValueError if no file can be written to an existing folder; leave nothing behind."""
    try:
        files.check_writable(folder)
    except OSError as error:
        is_full = error.errno in files.FULL
        remedy = f"Free disk space. {REMEDY.replace('Choose', 'Or choose')}" if is_full else REMEDY
        raise ValueError(f"'{folder}' cannot be written: {error.strerror}. {remedy}") from error


def check_begun(run_dir: Path) -> None:
    """Raise ValueError if a folder has no run to resume, or one that a job is using."""
    if not (run_dir / "config.yaml").is_file():
        raise ValueError(f"output '{run_dir}' contains no run to resume. Leave resume out, or choose a run's folder.")
    check_not_in_use(run_dir)


def check_unfinished(run_dir: Path, recipe: Recipe) -> None:
    """Raise ValueError if a folder has no run to resume, or one of another recipe."""
    check_begun(run_dir)
    _check_not_finished(run_dir)
    check_writable(run_dir)
    began = run_dir / "recipe.json"
    if began.is_file() and (found := differences(read_recipe(began).to_value(), recipe.to_value())):
        name, (theirs, ours) = next(iter(found.items()))
        raise ValueError(f"The run in '{run_dir}' has another recipe: {name} was {theirs!r}, is now {ours!r}. {REMEDY}")


def _check_not_finished(run_dir: Path) -> None:
    if (run_dir / CHECKPOINT).exists():
        raise ValueError(
            f"The run in '{run_dir}' is finished: it has a checkpoint.ckpt. Evaluate it with ray_jobs.evaluate, or "
            "choose another folder."
        )


@dataclass(frozen=True)
class RunLock:
    """A job's lock on its run folder, with the config it wrote there."""

    file: TextIO
    undo: ExitStack
    """Restores the folder to its earlier state."""


def lock_run_folder(run_dir: Path, config_yaml: str, resume: bool = False) -> RunLock:
    """Create and lock the folder, and write its config.yaml; ValueError if another run was faster or is using it.

    A resumed run writes a second config beside the first. The lock lasts until `unlock` or the end of the process,
    however it ends: the kernel holds the lock, not the file, which a killed job leaves behind. On shared storage it
    works between nodes if the storage supports locks for all of them, as NFS does unless mounted with `nolock` or
    `local_lock`; the server frees the locks of a lost node, NFS after a lease of a minute or two. Tested on one machine
    only.
    """
    with ExitStack() as undo:
        lock = _lock_in_folder(run_dir, LOCK, undo)
        _check_not_finished(run_dir)  # another job may have finished it meanwhile
        path = new_path(run_dir, "config", ".yaml") if resume else run_dir / "config.yaml"
        try:
            _write_new(path, config_yaml)
        except FileExistsError as error:
            if not (_has_lock(lock) and _never_started(run_dir, config_yaml)):
                raise ValueError(f"output '{run_dir}' was just taken by another run. {REMEDY}") from error
        undo.callback(path.unlink)
        return RunLock(lock, undo.pop_all())


def unlock(run_lock: RunLock) -> None:
    """Release the folder of a finished job, and remove its lock file."""
    _remove_lock(run_lock.file)


@contextmanager
def undo_on_error(run_lock: RunLock) -> Iterator[None]:
    """Restore the folder if the job fails to start."""
    try:
        yield
    except BaseException:
        run_lock.undo.close()
        raise


def _lock_in_folder(folder: Path, name: str, undo: ExitStack) -> TextIO:
    """Lock a file in a folder, which is created if missing; `undo` gets the steps that restore the folder."""
    if not folder.exists():
        undo.callback(_remove_empty, folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = _lock_file(folder / name)
    undo.callback(_remove_lock, lock)
    return lock


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # not empty
        folder.rmdir()


@contextmanager
def locked(place: Storage) -> Iterator[None]:
    """Keep other jobs out of a data set's folder during the block; ValueError if one is using it.

    Object stores have no locks. Readers of data sets ignore the lock's name, so a folder with nothing else counts as
    empty.
    """
    if not place.is_local:
        yield
        return
    with ExitStack() as undo:
        _lock_in_folder(Path(place.url), storage.LOCK, undo)
        yield


def check_not_in_use(run_dir: Path) -> None:
    """Raise ValueError if a job is using a folder."""
    if is_in_use(run_dir, UNPROTECTED):
        raise _in_use_error(run_dir)


def is_in_use(run_dir: Path, warning: str) -> bool:
    """Return whether a job is using a folder; without file locks, log `warning` and return False."""
    return _is_file_locked(run_dir / LOCK, warning)


def _is_file_locked(path: Path, warning: str) -> bool:
    """Check with a shared lock, which does not block other checks; `_lock_file` waits for its end."""
    try:
        lock = path.open()
    except (FileNotFoundError, NotADirectoryError):
        return False
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError as error:
            _warn_no_locks(path.parent, error.strerror, warning)
    return False


def _in_use_error(folder: Path) -> ValueError:
    return ValueError(f"Another job is using '{folder}'. Stop it first, or choose another folder.")


def _lock_file(path: Path) -> TextIO:
    """Return a file locked by this process; ValueError if another process holds the lock for more than a check.

    The previous holder may remove the file while we wait with it open: then others cannot find our lock, so open the
    file again. A file system without locks, such as Lustre mounted without `flock`, protects nothing.
    """
    deadline = time.monotonic() + PROBE_SECONDS
    while True:
        lock = path.open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            if time.monotonic() > deadline or _is_file_locked(path, UNPROTECTED):
                raise _in_use_error(path.parent) from error
            time.sleep(PROBE_SECONDS / 100)
            continue
        except OSError as error:
            _warn_no_locks(path.parent, error.strerror, UNPROTECTED)
            return lock
        if _is_open_file(path, lock):
            return lock
        lock.close()


def _has_lock(lock: TextIO) -> bool:
    """Return whether the file system supports locks and this process holds this one."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@cache
def _warn_no_locks(folder: Path, reason: str, warning: str) -> None:
    """Log the warning once per folder."""
    logger.warning("'%s' does not support file locks (%s): %s", folder, reason, warning)


def _is_open_file(path: Path, file: TextIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _remove_lock(lock: TextIO) -> None:
    """Remove a lock file, then close it: in this order nobody locks a file that is removed afterwards."""
    Path(lock.name).unlink(missing_ok=True)
    lock.close()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a new file of indented JSON; FileExistsError if it exists."""
    _write_new(path, json.dumps(content, indent=2) + "\n")


def _write_new(path: Path, text: str) -> None:
    files.write_new(path, lambda file: file.write(text.encode()))


def write_once(path: Path, text: str) -> None:
    """Write a file whose name identifies its content; ValueError if it exists with other content."""
    if path.is_file() and path.read_bytes() == text.encode():
        return
    try:
        _write_new(path, text)
    except FileExistsError as error:
        if not path.is_file() or path.read_bytes() != text.encode():
            raise ValueError(f"'{path}' exists and is not overwritten. Choose another file with --out FILE.") from error
    except OSError as error:
        raise ValueError(
            f"'{path}' cannot be written: {error.strerror}. Choose another file with --out FILE."
        ) from error


def write_anew(path: Path, text: str) -> None:
    """Write or replace a file of the same job, so that it is complete at any time."""
    files.write_whole(path, lambda file: file.write(text.encode()))


def keep_checkpoint(checkpoint: Path, run_dir: Path) -> Path:
    """Move the last checkpoint to its final path, and remove the folders of a run in progress."""
    kept = run_dir / CHECKPOINT
    files.move(checkpoint, kept)
    shutil.rmtree(run_dir / CHECKPOINTS)
    shutil.rmtree(run_dir / TRAIN_FOLDER, ignore_errors=True)
    return kept
