"""A trained classifier to evaluate: its checkpoint, and the facts that reports state about it."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from evaluation.images.decoding import Crop
from evaluation.result import ModelFacts
from generation.errors import FigmentError
from generation.recipes.labels import LabelSpace
from training.checkpoint import read_checkpoint, recipe_of
from training.data.consumption import Consumption
from training.job import CHECKPOINTS, KEPT, SET_SIZE, run_name


class EvaluationError(FigmentError):
    """A model cannot be evaluated; the message gives the reason."""


@dataclass(frozen=True)
class EvaluatedModel:
    """A trained classifier to evaluate."""

    facts: ModelFacts
    """Facts that tables and pages show."""

    sha256: str
    """Hash of its file or weights, which identifies its cached outputs."""

    run_dir: Path
    """Folder in which its evaluation is written."""

    label_space: LabelSpace
    crop: Crop
    """Default crop of its input images."""

    build: Callable[[], Any]
    """Builds the classifier in evaluation mode."""


def open_model(path: Path) -> EvaluatedModel:
    """Return the model in a checkpoint file; ValueError with the remedy for a file of another kind."""
    checkpoint = read_checkpoint(path)
    with path.open("rb") as file:
        return model_of(path, hashlib.file_digest(file, "sha256").hexdigest(), checkpoint)


def model_of(path: Path, sha256: str, checkpoint: dict[str, Any]) -> EvaluatedModel:
    """Return the model in a checkpoint; for a checkpoint in a run's subfolder, `run_dir` is the run's folder."""
    saved, run, recipe = checkpoint["classifier"], checkpoint["run"], recipe_of(checkpoint)
    settings = saved["config"]
    run_dir = path.parent.parent if path.parent.name in (CHECKPOINTS, KEPT) else path.parent
    num_taken = len(Consumption.from_checkpoint(run["consumption"]["synthetic"]).taken)
    facts: ModelFacts = {
        "name": run_name(run_dir) if path.parent == run_dir else f"{run_name(run_dir)}, {path.stem}",
        "architecture": settings["architecture"],
        "checkpoint": str(path),
        "label_space": recipe.label_space.name,
        "num_classes": saved["num_classes"],
        "image_size": saved["image_size"],
        "num_images": min(num_taken, run["sets"][SET_SIZE]),
        "num_trained": checkpoint["global_step"] * settings["global_batch_size"],
        "trained_on": checkpoint.get("trained_on", "generated"),
        "recipe_sha256": recipe.sha256,
        "guidance_scale": list(recipe.guidance_scale),
        "templates": list(recipe.templates),
        "augmentation": settings["augmentation"],
    }
    crop = crop_of(settings["crop_size"] or saved["image_size"])
    return EvaluatedModel(facts, sha256, run_dir, recipe.label_space, crop, partial(build_classifier, checkpoint))


def build_classifier(checkpoint: dict[str, Any]) -> Any:
    """Return a checkpoint's classifier; Lightning is imported here, on the node that uses it, and not in drivers."""
    from training.model.classifier import load_classifier

    return load_classifier(checkpoint)


def crop_of(trained_size: int) -> Crop:
    """Return the default crop for a network trained on crops of this height and width, in pixels."""
    return Crop(round(trained_size * 256 / 224), trained_size, "bilinear")
