"""Recipes that would silently train a wrong classifier."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from generation.recipes.checks import check_recipe, labels_with_same_prompts
from generation.recipes.config import RecipeConfig
from generation.recipes.recipe import Recipe, build_recipe
from tests.support.tiny_models import save_tiny_flux, save_tiny_lcm


def recipe_of(**settings) -> Recipe:
    return build_recipe(RecipeConfig(**{"generator": "painted", "image_size": 16} | settings))


def warnings_of(**settings) -> list[str]:
    """Return the warnings about a recipe with these settings."""
    config = RecipeConfig(**{"generator": "painted", "image_size": 16} | settings)
    return check_recipe(build_recipe(config), config)


def digits_of(folder: Path, *names: str) -> dict[str, str]:
    """Return settings for the embedded model with a class file of these names."""
    rows = "".join(f"- {{class_name: {name}, definition: a {name}}}\n" for name in names)
    (folder / "classes.yaml").write_text(rows)
    return {
        "label_space": str(folder / "classes.yaml"),
        "generator": "diffusers",
        "model": "generation/digits/model",
    }


@pytest.mark.parametrize("template", ["class_name", "definition"])
def test_labels_with_identical_prompts_are_named(template: str):
    recipe = recipe_of(label_space="imagenet1k", templates=(template,), lemmas="first")
    names = [[recipe.label_space.class_names[label] for label in labels] for labels in labels_with_same_prompts(recipe)]
    assert names == ([["crane", "crane"], ["maillot", "maillot"]] if template == "class_name" else [])
    warnings = " ".join(warnings_of(label_space="imagenet1k", templates=(template,)))
    assert ("('crane') have the same prompts" in warnings) == (template == "class_name")


def test_embedded_model_rejects_unknown_classes(tmp_path: Path):
    settings = digits_of(tmp_path, "zero", "cat") | {"image_size": 32}
    with pytest.raises(ValueError, match=r"knows zero, one, .* and not 'cat'\. Set recipe\.model to a model"):
        warnings_of(**settings)
    assert warnings_of(**digits_of(tmp_path, "zero", "nine") | {"image_size": 32}) == []


LONG = "digit " * 100


@pytest.mark.parametrize("template", [f"{LONG}{{class_name}}", f"{LONG}{{definition}}"])
def test_truncated_class_names_are_a_warning_or_an_error(template: str):
    settings = {"generator": "diffusers", "model": "generation/digits/model", "image_size": 32}
    with pytest.raises(ValueError, match=r"All prompts are truncated before the class name: .* reads \d+ tokens"):
        warnings_of(**settings, templates=(template,))
    (warning,) = warnings_of(**settings, templates=(template, f"{{class_name}} {LONG}"))
    assert warning.endswith("of the prompts are truncated before the class name: the text encoder reads 64 tokens")
    assert 45 < float(warning.partition("%")[0]) < 55


DIGITS_MODEL = {"generator": "diffusers", "image_size": 32}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"negative_prompt": "blurred"}, ["negative_prompt has no effect: recipe.guidance_scale is 1"]),
        ({"guidance_interval": (0.2, 0.8)}, ["guidance_interval has no effect: recipe.guidance_scale is 1"]),
        ({"negative_prompt": "blurred", "guidance_scale": (1.0, 2.0)}, []),
    ],
)
def test_guidance_settings_without_guidance_are_reported(settings: dict, expected: list[str]):
    found = warnings_of(**DIGITS_MODEL | {"guidance_scale": (1.0,)} | settings)
    assert len(found) == len(expected)
    assert all(each in line for each, line in zip(expected, found, strict=True))


@pytest.mark.parametrize(
    ("save", "expected"),
    [
        (lambda folder: save_tiny_flux(folder, takes_scale=False), ["guidance_scale", "negative_prompt"]),
        (save_tiny_flux, ["negative_prompt"]),
        (save_tiny_lcm, ["negative_prompt"]),
    ],
)
def test_settings_that_the_pipeline_ignores_are_reported(
    save: Callable[[Path], None], expected: list[str], tmp_path: Path
):
    save(tmp_path)
    found = warnings_of(**DIGITS_MODEL, model=str(tmp_path), guidance_scale=(7.5,), negative_prompt="blurred")
    assert [line.partition(" has no effect")[0] for line in found] == [f"recipe.{name}" for name in expected]


def test_other_scheduler_for_a_flow_matching_model_is_rejected(tmp_path: Path):
    save_tiny_flux(tmp_path)
    with pytest.raises(ValueError, match=r"recipe\.scheduler is ddim, but the model uses flow matching"):
        warnings_of(**DIGITS_MODEL, model=str(tmp_path), scheduler="ddim")


@pytest.mark.parametrize(
    ("settings", "field"),
    [({"backgrounds": ("a wood",)}, "background"), ({"hypernym": "all"}, "hypernym"), ({"lemmas": "first"}, "lemmas")],
)
def test_unused_words_are_reported(settings: dict, field: str):
    (setting,) = settings
    assert warnings_of(templates=("{definition}",), **settings) == [
        f"recipe.{setting} has no effect: no template uses {{{field}}}"
    ]
    assert warnings_of(templates=(f"{{definition}} {{{field}}}",), **settings) == []


def test_lora_with_scale_zero_is_reported(tmp_path: Path):
    file = tmp_path / "lora.safetensors"
    save_file({"a_lora.weight": np.zeros((1, 1), np.float32)}, file)
    assert warnings_of(**DIGITS_MODEL, loras={str(file): 0.0}) == [
        f"recipe.loras '{file}' has no effect: its scale is 0"
    ]


def test_damaged_model_config_is_named(tmp_path: Path):
    save_tiny_lcm(tmp_path)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match=r"its model_index\.json is damaged: .*Download the model again"):
        warnings_of(**DIGITS_MODEL, model=str(tmp_path))
