"""All that decides the images of a data set, in a few kilobytes, with a hash."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

from generation.config import RecipeConfig
from generation.labels import LabelSpace, load_label_space
from generation.model_files import resolve_revision


@dataclass(frozen=True)
class Recipe:
    """A data set before it exists: an image is a function of `(recipe, index)`. Fields as in `RecipeConfig`."""

    seed: int
    label_space: LabelSpace
    prompt: str
    backgrounds: tuple[str, ...]
    generator: str
    model: str
    revision: str
    """Commit on the hub or hash of the folder's files; empty for a generator without a model."""

    precision: str
    guidance_scale: float
    num_inference_steps: int
    image_size: int

    def to_json(self) -> str:
        """Return canonical JSON: sorted keys, no spaces, ASCII."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=True)

    @cached_property
    def sha256(self) -> str:
        """Hash of the canonical JSON: two recipes with one hash make the same images."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def build_recipe(config: RecipeConfig) -> Recipe:
    """Return the recipe that the settings mean, its model found and pinned; ValueError if there is no such model."""
    settings = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    settings["label_space"] = load_label_space(config.label_space)
    if config.generator == "painted":
        settings |= {"model": "", "revision": ""}
    else:
        settings["revision"] = resolve_revision(config.model, config.revision)
    return Recipe(**settings)
