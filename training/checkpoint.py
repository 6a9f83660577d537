"""A run's checkpoint files, read without trusting them: weights and plain data, no pickled code."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from generation.recipes.recipe import Recipe, differences, recipe_from_value
from training.config import CHANGEABLE_ON_RESUME, TrainingConfig

AFFECT_DRAWS = ("num_workers", "accumulate_batches", "reservoir_bytes", "reservoir_format", "reservoir_min_images")
"""Of `CHANGEABLE_ON_RESUME` what decides which images a step takes where they are used again."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint's content; ValueError with the remedy for a file that is none of ours."""
    if not path.is_file():
        raise ValueError(f"checkpoint is '{path}', and there is no such file. Give a run's checkpoint.ckpt.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"checkpoint '{path}' cannot be read ({type(error).__name__}). Is it whole?") from error
    if not isinstance(checkpoint, dict) or not {"classifier", "recipe", "run", "state_dict"} <= checkpoint.keys():
        raise ValueError(f"checkpoint '{path}' was not written by ray_jobs.train. Give a run's checkpoint.ckpt.")
    return checkpoint


def recipe_of(checkpoint: dict[str, Any]) -> Recipe:
    """Return the recipe of the images that the classifier was trained on."""
    return recipe_from_value(json.loads(checkpoint["recipe"]["json"]))


def checkpoint_files(folder: Path) -> list[Path]:
    """Return a run's checkpoints, the newest first."""
    return sorted(folder.glob("step-*.ckpt"), reverse=True)


def checkpoint_name(step: int) -> str:
    """Return what the checkpoint after so many steps is called: names sort as steps do."""
    return f"step-{step:012d}.ckpt"


def newest_readable(folder: Path) -> tuple[Path | None, dict[str, Any], list[str]]:
    """Return the newest checkpoint that can be read, what it holds, and what is wrong with newer ones.

    None and nothing if there is none; ValueError if none can be read.
    """
    faults: list[str] = []
    for path in checkpoint_files(folder):
        try:
            return path, read_checkpoint(path), faults
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise ValueError(f"No checkpoint in '{folder}' is whole: {faults[0]} Start the run again, elsewhere.")
    return None, {}, []


def check_resumable(
    checkpoint: dict[str, Any], recipe: Recipe, config: TrainingConfig, sets: Mapping[str, int]
) -> None:
    """Raise ValueError with what differs if a run of these settings cannot go on from a checkpoint.

    `sets` is what `training.job.sets_of` gives.
    """
    found = differences(recipe_of(checkpoint).to_value(), recipe.to_value())
    different = {f"recipe.{name}": values for name, values in found.items()}
    saved = dataclasses.asdict(TrainingConfig()) | checkpoint["classifier"]["config"]  # which may lack new settings
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
        raise ValueError(f"The run cannot go on with other settings: {named}. Give those it began with.")
