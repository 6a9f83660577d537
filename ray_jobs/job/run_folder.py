"""The folder that holds all a run writes. What is there already is never touched."""

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

LOCK = "lock"
"""The file in a run's folder that its job has locked; without a job it means nothing."""

LOOKS_SECONDS = 2.0
"""How long a lock is tried for that others only look at: each of them has it for a moment."""

UNPROTECTED = "a second job could write to this folder at the same time."
"""What it means for those who write there that files have no locks."""


def resolve(path: str, remedy: str = REMEDY) -> Path:
    """Return the absolute path; a submitted job's relative ones are under the home folder.

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
    """Return the absolute path of what a job only reads: as `find_local` sees it, uploaded with the job or shipped.

    What is nowhere is named as `resolve` would.
    """
    found = find_local(path)
    return Path(os.path.abspath(found)) if found else resolve(path, "Choose another one.")


def resolve_place(path: str) -> str:
    """Return a URL as it is, and anything else as an absolute path."""
    return path if "://" in path else str(resolve(path))


def check_output(run_dir: Path, config_yaml: str | None = None) -> None:
    """Raise ValueError if a run cannot be written to this folder, leaving no trace.

    What a job of the same config left that was killed before it began, a lock and that config, is no obstacle where
    `claim` gets the lock.
    """
    try:
        check_idle(run_dir)
        if run_dir.is_dir() and any(run_dir.iterdir()) and not _never_began(run_dir, config_yaml):
            raise ValueError(f"output '{run_dir}' already contains {_what_is_in(run_dir)}")
        existing = next(path for path in (run_dir, *run_dir.parents) if path.exists())
        if not existing.is_dir():
            raise ValueError(f"output '{run_dir}' cannot be created: '{existing}' is a file. {REMEDY}")
        check_writable(existing)
    except OSError as error:
        raise ValueError(f"output '{run_dir}' cannot be used: {error.strerror}. {REMEDY}") from error


def _never_began(run_dir: Path, config_yaml: str | None) -> bool:
    """Return whether a folder holds only what `claim` writes, for this config."""
    config = run_dir / "config.yaml"
    names = {path.name for path in run_dir.iterdir()}
    if names == {LOCK, config.name} and config_yaml is not None:
        return config.read_bytes() == config_yaml.encode()
    return names == {LOCK}


def _what_is_in(run_dir: Path) -> str:
    """Return what keeps a new run out of a folder, and the remedy."""
    is_begun = (run_dir / "config.yaml").is_file() and (run_dir / "recipe.json").is_file()
    if is_begun and not (run_dir / "checkpoint.ckpt").exists():
        return f"an unfinished run. Continue it with resume=true. {REMEDY.replace('Choose', 'Or choose')}"
    return f"files, which are not overwritten. {REMEDY}"


def check_writable(folder: Path) -> None:
    """Raise ValueError if no file can be written to an existing folder, leaving no trace."""
    try:
        files.check_writable(folder)
    except OSError as error:
        is_full = error.errno in files.FULL
        remedy = f"Free disk space. {REMEDY.replace('Choose', 'Or choose')}" if is_full else REMEDY
        raise ValueError(f"'{folder}' cannot be written: {error.strerror}. {remedy}") from error


def check_unfinished(run_dir: Path, recipe: Recipe) -> None:
    """Raise ValueError if a folder holds no run that can go on, or one of another recipe."""
    if not (run_dir / "config.yaml").is_file():
        raise ValueError(f"output '{run_dir}' contains no run to resume. Leave resume out, or choose a run's folder.")
    check_idle(run_dir)
    _check_not_finished(run_dir)
    check_writable(run_dir)
    began = run_dir / "recipe.json"
    if began.is_file() and (found := differences(read_recipe(began).to_value(), recipe.to_value())):
        name, (theirs, ours) = next(iter(found.items()))
        raise ValueError(f"The run in '{run_dir}' has another recipe: {name} was {theirs!r}, is now {ours!r}. {REMEDY}")


def _check_not_finished(run_dir: Path) -> None:
    if (run_dir / "checkpoint.ckpt").exists():
        raise ValueError(
            f"The run in '{run_dir}' is finished: it has a checkpoint.ckpt. Evaluate it with ray_jobs.evaluate, or "
            "choose another folder."
        )


@dataclass(frozen=True)
class Claim:
    """A folder that a job has for itself, and the config that it wrote there."""

    lock: TextIO
    undo: ExitStack
    """Leaves the folder as it was."""


def claim(run_dir: Path, config_yaml: str, goes_on: bool = False) -> Claim:
    """Make the folder and write its config.yaml; ValueError if another run was faster, or is still at work in it.

    A run that goes on writes beside its first config the one it goes on with. Nobody else can claim the folder until
    it is released, or the process ends, however that comes: the kernel holds the lock, and not the file, which a
    killed job leaves behind. On storage that several nodes mount that holds between nodes where the storage has locks
    for all of them, as NFS has unless it is mounted with `nolock` or `local_lock`; of a node that is lost the server
    frees them, NFS after its lease of a minute or two. Tried on one machine alone.
    """
    with ExitStack() as undo:
        lock = _locked_in(run_dir, LOCK, undo)
        _check_not_finished(run_dir)  # nor by a job that has let go of it since this one began
        path = new_path(run_dir, "config", ".yaml") if goes_on else run_dir / "config.yaml"
        try:
            _write_new(path, config_yaml)
        except FileExistsError as error:
            if not (_protects(lock) and _never_began(run_dir, config_yaml)):
                raise ValueError(f"output '{run_dir}' was just taken by another run. {REMEDY}") from error
        undo.callback(path.unlink)
        return Claim(lock, undo.pop_all())


def release(claimed: Claim) -> None:
    """Let go of a folder whose job is through, and leave no lock in it."""
    _unlock(claimed.lock)


@contextmanager
def withdrawn_at_errors(claimed: Claim) -> Iterator[None]:
    """Leave no trace of a claim if what has to be there before the work begins does not come."""
    try:
        yield
    except BaseException:
        claimed.undo.close()
        raise


def _locked_in(folder: Path, name: str, undo: ExitStack) -> TextIO:
    """Return a lock in a folder, which is made if it is not there; `undo` gets what leaves the folder as it was."""
    if not folder.exists():
        undo.callback(_remove_empty, folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = _locked(folder / name)
    undo.callback(_unlock, lock)
    return lock


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # something was put in
        folder.rmdir()


@contextmanager
def alone_at_work(place: Storage) -> Iterator[None]:
    """Keep other jobs from a data set's folder meanwhile; ValueError if one is at work there.

    Stores without folders have no locks. The lock's name is one that readers of data sets pass over, so a folder that
    holds nothing else is empty.
    """
    if not place.is_local:
        yield
        return
    with ExitStack() as undo:
        _locked_in(Path(place.url), storage.LOCK, undo)
        yield


def check_idle(run_dir: Path) -> None:
    """Raise ValueError if a job is at work in a folder."""
    if is_at_work(run_dir, UNPROTECTED):
        raise _at_work(run_dir)


def is_at_work(run_dir: Path, unseen: str) -> bool:
    """Return whether a job is at work in a folder; where files have no locks none is seen, and `unseen` is said."""
    return _is_locked(run_dir / LOCK, unseen)


def _is_locked(path: Path, unseen: str) -> bool:
    """Look by a shared lock: it keeps nobody from looking too, and `_locked` waits for its end."""
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
            _warn_unlocked(path.parent, error.strerror, unseen)
    return False


def _at_work(folder: Path) -> ValueError:
    return ValueError(f"Another job is using '{folder}'. Stop it first, or choose another folder.")


def _locked(path: Path) -> TextIO:
    """Return a file that this process has locked; ValueError if another has it, and does not only look at it.

    Who waited with the file open for its holder to remove it has locked a file that others do not find any more: then
    it is opened anew. A file system without locks, such as Lustre mounted without `flock`, protects nothing.
    """
    gives_up_at = time.monotonic() + LOOKS_SECONDS
    while True:
        lock = path.open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            if time.monotonic() > gives_up_at or _is_locked(path, UNPROTECTED):
                raise _at_work(path.parent) from error
            time.sleep(LOOKS_SECONDS / 100)
            continue
        except OSError as error:
            _warn_unlocked(path.parent, error.strerror, UNPROTECTED)
            return lock
        if _is_open_file(path, lock):
            return lock
        lock.close()


def _protects(lock: TextIO) -> bool:
    """Return whether the file system has locks, and this process has this one."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@cache
def _warn_unlocked(folder: Path, reason: str, meaning: str) -> None:
    """Say once what that means."""
    logger.warning("'%s' does not support file locks (%s): %s", folder, reason, meaning)


def _is_open_file(path: Path, file: TextIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _unlock(lock: TextIO) -> None:
    """Remove a lock, and let go of it: in this order nobody locks a file that is removed afterwards."""
    Path(lock.name).unlink(missing_ok=True)
    lock.close()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a new file of indented JSON; FileExistsError if there is one already."""
    _write_new(path, json.dumps(content, indent=2) + "\n")


def _write_new(path: Path, text: str) -> None:
    files.write_new(path, lambda file: file.write(text.encode()))


def write_once(path: Path, text: str) -> None:
    """Write a file whose name says its content; ValueError if there is one that says something else."""
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
    """Write a file in the place of what the same job has written there before, so that it is whole at any time."""
    files.write_whole(path, lambda file: file.write(text.encode()))


def keep_checkpoint(checkpoint: Path, run_dir: Path) -> Path:
    """Move the last checkpoint to where people look for it, and drop the folders of a run that is under way."""
    kept = run_dir / "checkpoint.ckpt"
    files.move(checkpoint, kept)
    shutil.rmtree(run_dir / CHECKPOINTS)
    shutil.rmtree(run_dir / TRAIN_FOLDER, ignore_errors=True)
    return kept
