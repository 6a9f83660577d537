"""A run's checkpoint file, read without trusting it: weights and plain data, no pickled code."""

import json
from pathlib import Path
from typing import Any

import torch

from generation.recipe import Recipe, recipe_from_value


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint's content; ValueError with the remedy for a file that is none of ours."""
    if not path.is_file():
        raise ValueError(f"checkpoint is '{path}', and there is no such file. Give a run's checkpoint.ckpt.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"checkpoint '{path}' cannot be read ({type(error).__name__}). Is it whole?") from error
    if not isinstance(checkpoint, dict) or not {"classifier", "recipe", "state_dict"} <= checkpoint.keys():
        raise ValueError(f"checkpoint '{path}' was not written by ray_jobs.train. Give a run's checkpoint.ckpt.")
    return checkpoint


def recipe_of(checkpoint: dict[str, Any]) -> Recipe:
    """Return the recipe of the images that the classifier was trained on."""
    return recipe_from_value(json.loads(checkpoint["recipe"]["json"]))
