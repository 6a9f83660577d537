"""Recipes: everything that determines the images of a data set, in a few kilobytes, with a hash.

A recipe is complete: it contains the content of the user's files. Only built-in tables and model weights are referred
to by hash.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_type_hints

from generation.ranges import is_of_type
from generation.recipes.config import RecipeConfig, SharedSettings
from generation.recipes.labels import SHIPPED, LabelSpace, label_space_from_value, load_label_space
from generation.recipes.model_files import (
    CHECK,
    LORA,
    MODEL,
    VAE,
    ModelSource,
    check_revision,
    find_local,
    local_path,
    resolve_revision,
)
from generation.recipes.prompts import fields_of, template_text
from generation.recipes.word_files import read_backgrounds, read_captions, read_text, with_places365

LATER_FIELDS: dict[str, Any] = {"leave_out_after": 0, "check": "", "check_revision": "", "keep_above": 0.0}
"""Fields added later, with the value that older recipes imply; omitted at this value, so that old hashes stay valid."""

LIBRARIES = ("torchvision", "timm")
"""Prefixes of a `recipe.check` whose weights a library knows by name; they are not pinned."""

SHORT_LIST = 8
"""Lists up to this length are compared as one value."""


@dataclass(frozen=True, kw_only=True)
class Recipe(SharedSettings):
    """A resolved `RecipeConfig`: each image is a function of `(recipe, index)`.

    Templates are texts that include the prefix. `backgrounds` are those of labels without `class_backgrounds`.
    """

    label_space: LabelSpace
    class_weights: tuple[float, ...]
    """One weight per label; empty means exactly balanced."""

    class_backgrounds: tuple[tuple[int, tuple[str, ...]], ...]
    """Labels that have their own backgrounds, with the texts, in label order."""

    captions: tuple[tuple[str, ...], ...]
    """Captions per label; empty if no template uses them."""

    revision: str
    """The hub's commit or the hash of the folder's files; empty for a generator without a model."""

    vae: str
    vae_revision: str
    loras: tuple[tuple[str, str, float], ...]
    """Name, revision and scale of each LoRA."""

    check_revision: str = ""
    """Like `revision`, of the model in `check`; empty for a library's."""

    @cached_property
    def backgrounds_by_label(self) -> tuple[tuple[str, ...], ...]:
        """The possible texts of `{background}` per label."""
        own = dict(self.class_backgrounds)
        return tuple(own.get(label, self.backgrounds) for label in range(self.label_space.num_classes))

    @property
    def image_bytes(self) -> int:
        """Size of a delivered image in bytes, uncompressed."""
        return self.image_size**2 * 3

    @property
    def parts(self) -> tuple[tuple[ModelSource, str, str], ...]:
        """The external files that the recipe refers to: kind, name and revision."""
        chosen = ((MODEL, self.model, self.revision), (VAE, self.vae, self.vae_revision))
        return tuple(part for part in chosen if part[1]) + tuple((LORA, *lora[:2]) for lora in self.loras)

    @property
    def check_parts(self) -> tuple[tuple[ModelSource, str, str], ...]:
        """Like `parts`, of the check: its file or folder, if it is not a library's."""
        return ((CHECK, self.check.removeprefix("clip:"), self.check_revision),) if self.check_revision else ()

    def to_value(self) -> dict[str, Any]:
        """Return plain JSON values."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        shallow = {name: value for name, value in fields.items() if LATER_FIELDS.get(name) != value}
        return json.loads(json.dumps(shallow | {"label_space": self.label_space.to_value()}))

    def to_json(self) -> str:
        """Return canonical JSON: sorted keys, no spaces, ASCII."""
        return canonical_json(self.to_value())

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the canonical JSON; recipes with equal hashes make the same images."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys, no spaces, ASCII; equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def build_recipe(config: RecipeConfig) -> Recipe:
    """Resolve settings into a recipe: read its files, find and pin its model.

    Raises ValueError with the remedy for a missing file or model, and for words that a class lacks.
    """
    space = find_label_space(config.label_space)
    templates = tuple(" ".join([config.prefix, template_text(name)]).strip() for name in config.templates)
    fields = fields_of(*templates)
    values = shared_settings(config) | pinned_model(config) | pinned_check(config.check)
    values |= {
        "label_space": space,
        "class_weights": class_weights(config.class_weights, space),
        "templates": templates,
        "backgrounds": with_places365(config.backgrounds) if "background" in fields else (),
        "class_backgrounds": read_backgrounds(local_path(config.backgrounds_file), space, bool(config.backgrounds))
        if "background" in fields and config.backgrounds_file
        else (),
        "captions": read_captions(local_path(config.captions_file), space) if "caption" in fields else (),
        "generated_size": config.generated_size or config.image_size,
    }
    recipe = Recipe(**values)
    check_class_words(recipe)
    return recipe


def shared_settings(settings: SharedSettings) -> dict[str, Any]:
    """Return the fields that settings and recipes share."""
    return {field.name: getattr(settings, field.name) for field in dataclasses.fields(SharedSettings)}


def pinned_model(config: RecipeConfig) -> dict[str, Any]:
    """Return the recipe fields that pin the weights."""
    if config.generator == "painted":
        return {"model": "", "revision": "", "variant": "", "pipeline": "", "vae": "", "vae_revision": "", "loras": ()}
    vae, _, vae_revision = config.vae.partition("@")
    loras = {tuple(name.partition("@")[::2]): scale for name, scale in config.loras.items()}
    return {
        "revision": resolve_revision(MODEL, config.model, config.revision),
        "vae": vae,
        "vae_revision": resolve_revision(VAE, vae, vae_revision) if vae else "",
        "loras": tuple((name, resolve_revision(LORA, name, pin), scale) for (name, pin), scale in loras.items()),
    }


def pinned_check(check: str) -> dict[str, Any]:
    """Return the recipe fields that pin the model in `recipe.check`; ValueError if it is missing."""
    kind, _, name = check.rpartition(":")
    if not check or (kind in LIBRARIES and name):
        return {}
    if check.endswith(".safetensors"):
        raise ValueError(
            f"recipe.check is '{check}', weights without their classes and preprocessing. Use a run's checkpoint.ckpt, "
            "or clip:FOLDER."
        )
    name, _, pin = name.partition("@")
    if kind == "clip" and name:
        return {"check": f"clip:{name}", "check_revision": resolve_revision(CHECK, name, pin)}
    path = find_local(check)
    if path is None or not path.is_file():
        raise ValueError(
            f"recipe.check is '{check}', which is no file. Use a run's checkpoint.ckpt, torchvision:NAME/WEIGHTS, "
            "timm:NAME or clip:NAME."
        )
    return {"check_revision": resolve_revision(CHECK, check, "")}


def find_label_space(name: str) -> LabelSpace:
    """Return a built-in label space, or read a user's class file."""
    if name not in SHIPPED and Path(name).suffix in (".yaml", ".yml", ".csv"):
        from generation.recipes.class_files import read_class_file  # imports NLTK

        return read_class_file(local_path(name))
    return load_label_space(name)


def class_weights(weights: Mapping[str, float], space: LabelSpace) -> tuple[float, ...]:
    """Return one weight per label, 1 by default; empty if all are equal."""
    given: dict[int, float] = {}
    for name, weight in weights.items():
        label = space.label_of(name)
        if label in given:
            raise ValueError(f"recipe.class_weights has '{name}' twice, by name and by wnid. Keep one.")
        given[label] = float(weight)
    by_label = [given.get(label, 1.0) for label in range(space.num_classes)]
    if not 0 < sum(by_label) < math.inf:
        raise ValueError(f"recipe.class_weights sum to {sum(by_label):g}; use a finite sum above 0, such as 1.")
    return () if len(set(by_label)) == 1 else tuple(by_label)


def check_class_words(recipe: Recipe) -> None:
    """Raise ValueError if a template uses words that a class lacks."""
    fields = fields_of(*recipe.templates)
    for entry in recipe.label_space.classes:
        for name, words in (("definition", entry.definition), ("hypernym", entry.hypernyms)):
            if name in fields and not words:
                raise ValueError(
                    f"recipe.templates use {{{name}}}, which class '{entry.class_name}' of "
                    f"{recipe.label_space.name} lacks. Add it or a synset to the class, or remove {{{name}}}."
                )


def differences(ours: Any, theirs: Any, name: str = "") -> dict[str, tuple[Any, Any]]:
    """Return both values of each differing field of two recipes' JSON, such as `label_space.classes.3.definition`."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and (ours.keys() == theirs.keys() or not name):
        keys = ours | theirs  # at the top level, fields may be omitted at their default
        parts = [
            (f"{name}.{key}" if name else key, *(side.get(key, LATER_FIELDS.get(key)) for side in (ours, theirs)))
            for key in keys
        ]
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs) > SHORT_LIST:
        parts = [(f"{name}.{i}", a, b) for i, (a, b) in enumerate(zip(ours, theirs, strict=True))]
    else:
        return {} if ours == theirs else {name: (ours, theirs)}
    return {path: values for part, a, b in parts for path, values in differences(a, b, part).items()}


def recipe_from_value(value: dict[str, Any]) -> Recipe:
    """Return the recipe of a `to_value` result; raise ValueError if it is invalid or from another version."""
    names = {field.name for field in dataclasses.fields(Recipe)}
    needed = names - LATER_FIELDS.keys()
    if not isinstance(value, dict):
        raise ValueError(f"The recipe is {str(value)[:100]}, which is not a mapping. Plan again.")
    if not needed <= value.keys() <= names:
        wrong = sorted((set(value) - names) | (needed - set(value)))
        raise ValueError(
            f"The recipe has missing or unknown fields ({', '.join(wrong)}): another version of Figment wrote it. Use "
            "that version, or plan again."
        )
    frozen = {name: _frozen(item) for name, item in value.items() if name != "label_space"}
    kinds = get_type_hints(Recipe)
    for name, item in frozen.items():
        if not is_of_type(item, kinds[name]):
            raise ValueError(f"recipe.{name} is {str(value[name])[:100]}, which is not valid in a recipe. Plan again.")
    recipe = Recipe(label_space=label_space_from_value(value["label_space"]), **frozen)
    check_values(recipe)
    return recipe


def check_values(recipe: Recipe) -> None:
    """Raise ValueError for values that no settings produce."""
    RecipeConfig(
        **shared_settings(recipe),
        loras={name: scale for name, _, scale in recipe.loras},
        backgrounds_file="in the recipe" if recipe.class_backgrounds else "",
        captions_file="in the recipe" if recipe.captions else "",
    )
    num_classes, fields = recipe.label_space.num_classes, fields_of(*recipe.templates)
    weights = recipe.class_weights
    problems = {
        "model": bool(recipe.model) != (recipe.generator == "diffusers"),
        "generated_size": recipe.generated_size < recipe.image_size,
        "class_weights": bool(weights)
        and not (len(weights) == num_classes and min(weights) >= 0 and 0 < sum(weights) < math.inf),
        "class_backgrounds": not {label for label, _ in recipe.class_backgrounds} <= set(range(num_classes)),
        "backgrounds": "background" in fields and not all(recipe.backgrounds_by_label),
        "captions": bool("caption" in fields or recipe.captions)
        and not (len(recipe.captions) == num_classes and all(recipe.captions)),
    }
    if wrong := [name for name, is_wrong in problems.items() if is_wrong]:
        shown = str(getattr(recipe, wrong[0]))[:100]
        raise ValueError(f"recipe.{wrong[0]} is {shown}, which contradicts the rest of the recipe. Plan again.")
    check_class_words(recipe)


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def recipe_file_text(recipe: Recipe) -> str:
    """Return the content of a recipe file: the recipe and its hash."""
    return canonical_json({"recipe": recipe.to_value(), "sha256": recipe.sha256}) + "\n"


def read_recipe(path: Path) -> Recipe:
    """Read a recipe file; raise ValueError if it was edited or its model has changed."""
    try:
        recipe = recipe_from_value(read_recipe_value(path))
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"'{path}': {error}") from error
    for part in (*recipe.parts, *recipe.check_parts):
        check_revision(*part)
    return recipe


def read_recipe_value(path: Path) -> dict[str, Any]:
    """Read a recipe file's JSON values without checking its model; raise ValueError if it was edited."""
    try:
        content = json.loads(read_text(path))
        value, sha256 = content["recipe"], content["sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"'{path}' is not a recipe file: {error}. Write one with python -m ray_jobs.plan.") from error
    found = hashlib.sha256(canonical_json(value).encode()).hexdigest()
    if found != sha256:
        raise ValueError(
            f"The recipe in '{path}' has hash {found[:12]}, but states {str(sha256)[:12]}: it was edited by hand. "
            "Change the settings in a config and plan again."
        )
    return value
