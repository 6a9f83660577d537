"""Reading a run's checkpoint files: weights and plain data only, no pickled code."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from generation.recipes.recipe import Recipe, differences, recipe_from_value
from training.config import CHANGEABLE_ON_RESUME, TrainingConfig

AFFECT_DRAWS = ("num_workers", "accumulate_batches", "reservoir_bytes", "reservoir_format", "reservoir_min_images")
"""Settings of `CHANGEABLE_ON_RESUME` that affect which images a step draws when images are reused."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint's content. Raises ValueError with a remedy if the file is missing, unreadable or foreign."""
    if not path.is_file():
        raise ValueError(f"checkpoint is '{path}', but there is no such file. Use a run's checkpoint.ckpt.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"checkpoint '{path}' cannot be read ({type(error).__name__}): the file is damaged."
        ) from error
    if not isinstance(checkpoint, dict) or not {"classifier", "recipe", "run", "state_dict"} <= checkpoint.keys():
        raise ValueError(f"checkpoint '{path}' was not written by ray_jobs.train. Use a run's checkpoint.ckpt.")
    return checkpoint


def recipe_of(checkpoint: dict[str, Any]) -> Recipe:
    """Return the recipe of the classifier's training images."""
    return recipe_from_value(json.loads(checkpoint["recipe"]["json"]))


def checkpoint_files(folder: Path) -> list[Path]:
    """Return a run's checkpoints, newest first."""
    return sorted(folder.glob("step-*.ckpt"), reverse=True)


def checkpoint_name(step: int) -> str:
    """Return the file name of the checkpoint after `step` steps; names sort by step."""
    return f"step-{step:012d}.ckpt"


def newest_readable(folder: Path) -> tuple[Path | None, dict[str, Any], list[str]]:
    """Return the newest readable checkpoint, its content, and an error message per newer, unreadable one.

    Returns `(None, {}, [])` if the folder has no checkpoint. Raises ValueError if none of them can be read.
    """
    errors: list[str] = []
    for path in checkpoint_files(folder):
        try:
            return path, read_checkpoint(path), errors
        except ValueError as error:
            errors.append(str(error))
    if errors:
        raise ValueError(f"No checkpoint in '{folder}' can be read: {errors[0]} Start a new run in another folder.")
    return None, {}, []


def check_resumable(
    checkpoint: dict[str, Any], recipe: Recipe, config: TrainingConfig, sets: Mapping[str, int]
) -> None:
    """Raise ValueError with the differences if a run with these settings cannot resume from the checkpoint.

    `sets` comes from `training.job.sets_of`.
    """
    found = differences(recipe_of(checkpoint).to_value(), recipe.to_value())
    different = {f"recipe.{name}": values for name, values in found.items()}
    saved = (
        dataclasses.asdict(TrainingConfig()) | checkpoint["classifier"]["config"]
    )  # older checkpoints lack newer settings
    for name, value in dataclasses.asdict(config).items():
        if name not in CHANGEABLE_ON_RESUME and saved[name] != value:
            different[f"training.{name}"] = (saved[name], value)
    before = checkpoint["run"]["sets"]
    for name in before.keys() | sets.keys():
        if before.get(name) != sets.get(name):
            different[name] = (before.get(name), sets.get(name))
    for name in AFFECT_DRAWS if config.deterministic and config.reuse != 1 else ():
        if saved[name] != getattr(config, name):
            different[f"training.{name}"] = (saved[name], getattr(config, name))
    if different:
        named = "; ".join(f"{name} was {a!r}, is {b!r}" for name, (a, b) in list(different.items())[:5])
        raise ValueError(f"The run cannot resume with different settings: {named}. Use the original settings.")
