"""A trained classifier that is looked at: its checkpoint, and what a reader of its numbers wants to know of it."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from evaluation.images.decoding import Crop
from evaluation.result import ModelFacts
from generation.recipes.labels import LabelSpace
from generation.recipes.recipe import Recipe
from training.checkpoint import read_checkpoint, recipe_of
from training.data.consumption import Consumption
from training.job import CHECKPOINTS, KEPT, SET_SIZE


class EvaluationError(RuntimeError):
    """A model cannot be evaluated; the message says why."""


class Looked(Protocol):
    """A trained classifier that is looked at."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def architecture(self) -> str: ...  # noqa: D102
    @property
    def sha256(self) -> str: ...  # noqa: D102
    @property
    def run_dir(self) -> Path: ...  # noqa: D102
    @property
    def label_space(self) -> LabelSpace: ...  # noqa: D102
    @property
    def num_classes(self) -> int: ...  # noqa: D102
    @property
    def crop(self) -> Crop: ...  # noqa: D102
    @property
    def build(self) -> Callable[[], Any]: ...  # noqa: D102
    def facts(self, name: str) -> ModelFacts: ...  # noqa: D102


@dataclass(frozen=True)
class Model:
    """A checkpoint's content, and where it comes from."""

    path: Path
    sha256: str
    """Of the file: whose outputs are whose."""

    checkpoint: dict[str, Any]

    @property
    def run_dir(self) -> Path:
        """Return the folder of its run, also where it is in one of the run's own."""
        folder = self.path.parent
        return folder.parent if folder.name in (CHECKPOINTS, KEPT) else folder

    @property
    def name(self) -> str:
        """Return what tables call it: its run, and where it is not the last its step."""
        return self.run_dir.name if self.path.parent == self.run_dir else f"{self.run_dir.name}, {self.path.stem}"

    @property
    def architecture(self) -> str:
        """Return the name of its network."""
        return self.checkpoint["classifier"]["config"]["architecture"]

    @property
    def recipe(self) -> Recipe:
        """Return the recipe of the images that it was trained on."""
        return recipe_of(self.checkpoint)

    @property
    def label_space(self) -> LabelSpace:
        """Its classes."""
        return self.recipe.label_space

    @property
    def num_classes(self) -> int:
        """How many there are."""
        return self.checkpoint["classifier"]["num_classes"]

    @property
    def crop(self) -> Crop:
        """What it is shown of an image by default."""
        saved = self.checkpoint["classifier"]
        return crop_of(saved["config"]["crop_size"] or saved["image_size"])

    @property
    def build(self) -> Callable[[], Any]:
        """Return what builds the classifier, in evaluation mode."""
        return partial(build_classifier, self.checkpoint)

    def facts(self, name: str) -> ModelFacts:
        """Return what tables say of it.

        `num_images` are different ones, other than real ones that were mixed in; `num_trained` all uses.
        """
        saved, recipe = self.checkpoint["classifier"], self.recipe
        settings = saved["config"]
        run = self.checkpoint["run"]
        num_trained = self.checkpoint["global_step"] * settings["global_batch_size"]
        num_taken = len(Consumption.from_checkpoint(run["consumption"]["synthetic"]).taken)
        return {
            "name": name,
            "architecture": self.architecture,
            "checkpoint": str(self.path),
            "label_space": recipe.label_space.name,
            "num_classes": saved["num_classes"],
            "image_size": saved["image_size"],
            "num_images": min(num_taken, run["sets"][SET_SIZE]),
            "num_trained": num_trained,
            "trained_on": self.checkpoint.get("trained_on", "generated"),
            "recipe_sha256": recipe.sha256,
            "guidance_scale": list(recipe.guidance_scale),
            "templates": list(recipe.templates),
            "augmentation": settings["augmentation"],
        }


def build_classifier(checkpoint: dict[str, Any]) -> Any:
    """Return a checkpoint's classifier; Lightning is imported here, where it runs, and not in drivers."""
    from training.model.classifier import load_classifier

    return load_classifier(checkpoint)


def crop_of(trained_size: int) -> Crop:
    """Return what is shown to a network that was trained on crops of that height and width, in pixels."""
    return Crop(round(trained_size * 256 / 224), trained_size, "bilinear")


def open_model(path: Path) -> Model:
    """Return a checkpoint to look at; ValueError with the remedy for a file that is none of ours."""
    checkpoint = read_checkpoint(path)
    with path.open("rb") as file:
        return Model(path, hashlib.file_digest(file, "sha256").hexdigest(), checkpoint)
