"""The folder that holds all a run writes. What is there already is never touched."""

import fcntl
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from generation.recipe import Recipe, differences, read_recipe
from training.job import CHECKPOINTS, TRAIN_FOLDER

REMEDY = "Give another folder: output=..., or --out where the job has it."


def resolve(path: str) -> Path:
    """Return the absolute path; a submitted job's relative ones are under the home folder.

    A job submitted with `--working-dir` runs in a temporary copy that Ray deletes.
    """
    if "://" in path:
        raise ValueError(
            f"'{path}' is no path: give a folder, on storage that all nodes share where there are several."
        )
    in_ray_package = "working_dir_files" in Path.cwd().parts
    try:
        return ((Path.home() if in_ray_package else Path.cwd()) / Path(path).expanduser()).resolve()
    except RuntimeError as error:
        raise ValueError(f"'{path}' is no path: {error}. {REMEDY}") from error


def resolve_place(path: str) -> str:
    """Return a URL as it is, and anything else as an absolute path."""
    return path if "://" in path else str(resolve(path))


def check_output(run_dir: Path) -> None:
    """Raise ValueError if a run cannot be written to this folder, leaving no trace."""
    try:
        if run_dir.is_dir() and any(run_dir.iterdir()):
            raise ValueError(f"output '{run_dir}' already holds files, which are not overwritten. {REMEDY}")
        existing = next(path for path in (run_dir, *run_dir.parents) if path.exists())
        if not existing.is_dir():
            raise ValueError(f"output '{run_dir}' cannot be made: '{existing}' is a file. {REMEDY}")
        check_writable(existing)
    except OSError as error:
        raise ValueError(f"output '{run_dir}' cannot be used: {error.strerror}. {REMEDY}") from error


def check_writable(folder: Path) -> None:
    """Raise ValueError if no file can be written to an existing folder, leaving no trace."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"'{folder}' cannot be written: {error.strerror}. {REMEDY}") from error


def check_unfinished(run_dir: Path, recipe: Recipe) -> None:
    """Raise ValueError if a folder holds no run that can go on, or one of another recipe."""
    if not (run_dir / "config.yaml").is_file():
        raise ValueError(f"output '{run_dir}' holds no run to go on with. Leave resume out, or give a run's folder.")
    if (run_dir / "checkpoint.ckpt").exists():
        raise ValueError(
            f"The run in '{run_dir}' is finished: checkpoint.ckpt is there. Evaluate it with ray_jobs.evaluate, or "
            "give another folder."
        )
    check_writable(run_dir)
    began = run_dir / "recipe.json"
    if began.is_file() and (found := differences(read_recipe(began).to_value(), recipe.to_value())):
        name, (theirs, ours) = next(iter(found.items()))
        raise ValueError(f"The run in '{run_dir}' is of another recipe: {name} was {theirs!r}, is {ours!r}. {REMEDY}")


def claim(run_dir: Path, config_yaml: str, goes_on: bool = False) -> TextIO:
    """Make the folder and write its config.yaml; ValueError if another run was faster, or is still at work in it.

    A run that goes on writes beside its first config the one it goes on with. Nobody else can claim the folder until
    the file that is returned is closed, or the process ends.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    lock = (run_dir / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(f"Another job is at work in '{run_dir}'. Stop it first, or give another folder.") from error
    path = new_path(run_dir, "config", ".yaml") if goes_on else run_dir / "config.yaml"
    try:
        with path.open("x") as file:
            file.write(config_yaml)
    except FileExistsError as error:
        raise ValueError(f"output '{run_dir}' has been taken by another run meanwhile. {REMEDY}") from error
    return lock


def release(lock: TextIO) -> None:
    """Let go of a folder whose job is through, and leave no lock in it."""
    Path(lock.name).unlink(missing_ok=True)
    lock.close()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a new file of indented JSON; FileExistsError if there is one already."""
    with path.open("x") as file:
        file.write(json.dumps(content, indent=2) + "\n")


def write_once(path: Path, text: str) -> None:
    """Write a file whose name says its content; ValueError if there is one that says something else."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x") as file:
            file.write(text)
    except FileExistsError as error:
        if not path.is_file() or path.read_bytes() != text.encode():
            raise ValueError(f"'{path}' exists and is not overwritten. Give another file: --out FILE.") from error
    except OSError as error:
        raise ValueError(f"'{path}' cannot be written: {error.strerror}. Give another file: --out FILE.") from error


def new_path(folder: Path, stem: str, suffix: str) -> Path:
    """Return `stem.suffix` in the folder, numbered from 2 on where it exists already."""
    path, number = folder / f"{stem}{suffix}", 2
    while path.exists():
        path, number = folder / f"{stem}-{number}{suffix}", number + 1
    return path


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Have a file written where there is none, so that what has its name is whole."""
    if not path.exists():
        unfinished = path.with_suffix(".unfinished")
        write(unfinished)
        unfinished.replace(path)


def keep_checkpoint(checkpoint: Path, run_dir: Path) -> Path:
    """Move the last checkpoint to where people look for it, and drop the folders of a run that is under way."""
    kept = run_dir / "checkpoint.ckpt"
    shutil.move(checkpoint, kept)
    shutil.rmtree(run_dir / CHECKPOINTS)
    shutil.rmtree(run_dir / TRAIN_FOLDER, ignore_errors=True)
    return kept
