"""A trained classifier that is looked at: its checkpoint, and what a reader of its numbers wants to know of it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generation.labels import LabelSpace
from generation.recipe import Recipe
from training.checkpoint import read_checkpoint, recipe_of
from training.job import SET_SIZE


@dataclass(frozen=True)
class Model:
    """A checkpoint's content, and where it comes from."""

    path: Path
    sha256: str
    """Of the file: whose outputs are whose."""

    checkpoint: dict[str, Any]

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
    def crop_size(self) -> int:
        """Height and width of the images that its network was trained on, in pixels."""
        saved = self.checkpoint["classifier"]
        return saved["config"]["crop_size"] or saved["image_size"]

    def facts(self, name: str) -> dict[str, Any]:
        """Return what tables say of it; generated images are counted once, however often each was used."""
        saved, recipe = self.checkpoint["classifier"], self.recipe
        settings = saved["config"]
        num_trained = self.checkpoint["global_step"] * settings["global_batch_size"]
        return {
            "name": name,
            "architecture": settings["architecture"],
            "checkpoint": str(self.path),
            "label_space": recipe.label_space.name,
            "num_classes": saved["num_classes"],
            "image_size": saved["image_size"],
            "num_images": min(num_trained, self.checkpoint["run"]["sets"][SET_SIZE]),
            "num_trained": num_trained,
            "trained_on": self.checkpoint.get("trained_on", "generated"),
            "recipe_sha256": recipe.sha256,
            "guidance_scale": list(recipe.guidance_scale),
            "templates": list(recipe.templates),
            "augmentation": settings["augmentation"],
        }


def open_model(path: Path) -> Model:
    """Return a checkpoint to look at; ValueError with the remedy for a file that is none of ours."""
    checkpoint = read_checkpoint(path)
    with path.open("rb") as file:
        return Model(path, hashlib.file_digest(file, "sha256").hexdigest(), checkpoint)
