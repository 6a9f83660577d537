"""Recipes that would teach something wrong in silence."""

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


def told_of(**settings) -> list[str]:
    """Return what is told of a recipe of these settings."""
    config = RecipeConfig(**{"generator": "painted", "image_size": 16} | settings)
    return check_recipe(build_recipe(config), config)


def digits_of(folder: Path, *names: str) -> dict[str, str]:
    """Return a class file of these names, for the embedded model."""
    rows = "".join(f"- {{class_name: {name}, definition: a {name}}}\n" for name in names)
    (folder / "classes.yaml").write_text(rows)
    return {
        "label_space": str(folder / "classes.yaml"),
        "generator": "diffusers",
        "model": "generation/digits/model",
    }


@pytest.mark.parametrize("template", ["class_name", "definition"])
def test_labels_whose_prompts_are_all_the_same_are_named(template: str):
    recipe = recipe_of(label_space="imagenet1k", templates=(template,), lemmas="first")
    names = [[recipe.label_space.class_names[label] for label in labels] for labels in labels_with_same_prompts(recipe)]
    assert names == ([["crane", "crane"], ["maillot", "maillot"]] if template == "class_name" else [])
    told = " ".join(told_of(label_space="imagenet1k", templates=(template,)))
    assert ("('crane') have the same prompts" in told) == (template == "class_name")


def test_the_embedded_model_is_refused_for_classes_that_it_does_not_know(tmp_path: Path):
    settings = digits_of(tmp_path, "zero", "cat") | {"image_size": 32}
    with pytest.raises(ValueError, match=r"knows zero, one, .* and not 'cat'\. Set recipe\.model to a model"):
        told_of(**settings)
    assert told_of(**digits_of(tmp_path, "zero", "nine") | {"image_size": 32}) == []


LONG = "digit " * 100


@pytest.mark.parametrize("template", [f"{LONG}{{class_name}}", f"{LONG}{{definition}}"])
def test_class_names_behind_what_the_text_encoder_reads_are_told_or_refused(template: str):
    settings = {"generator": "diffusers", "model": "generation/digits/model", "image_size": 32}
    with pytest.raises(ValueError, match=r"All prompts are truncated before the class name: .* reads \d+ tokens"):
        told_of(**settings, templates=(template,))
    (told,) = told_of(**settings, templates=(template, f"{{class_name}} {LONG}"))
    assert told.endswith("of the prompts are truncated before the class name: the text encoder reads 64 tokens")
    assert 45 < float(told.partition("%")[0]) < 55


DIGITS_MODEL = {"generator": "diffusers", "image_size": 32}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"negative_prompt": "blurred"}, ["negative_prompt has no effect: recipe.guidance_scale is 1"]),
        ({"guidance_interval": (0.2, 0.8)}, ["guidance_interval has no effect: recipe.guidance_scale is 1"]),
        ({"negative_prompt": "blurred", "guidance_scale": (1.0, 2.0)}, []),
    ],
)
def test_settings_that_need_guidance_are_told_where_there_is_none(settings: dict, told: list[str]):
    found = told_of(**DIGITS_MODEL | {"guidance_scale": (1.0,)} | settings)
    assert len(found) == len(told)
    assert all(each in line for each, line in zip(told, found, strict=True))


@pytest.mark.parametrize(
    ("save", "told"),
    [
        (lambda folder: save_tiny_flux(folder, takes_scale=False), ["guidance_scale", "negative_prompt"]),
        (save_tiny_flux, ["negative_prompt"]),
        (save_tiny_lcm, ["negative_prompt"]),
    ],
)
def test_what_a_pipeline_does_not_take_is_told(save: Callable[[Path], None], told: list[str], tmp_path: Path):
    save(tmp_path)
    found = told_of(**DIGITS_MODEL, model=str(tmp_path), guidance_scale=(7.5,), negative_prompt="blurred")
    assert [line.partition(" has no effect")[0] for line in found] == [f"recipe.{name}" for name in told]


def test_a_scheduler_that_a_flow_matching_model_does_not_take_is_refused_when_planned(tmp_path: Path):
    save_tiny_flux(tmp_path)
    with pytest.raises(ValueError, match=r"recipe\.scheduler is ddim, but the model uses flow matching"):
        told_of(**DIGITS_MODEL, model=str(tmp_path), scheduler="ddim")


@pytest.mark.parametrize(
    ("settings", "field"),
    [({"backgrounds": ("a wood",)}, "background"), ({"hypernym": "all"}, "hypernym"), ({"lemmas": "first"}, "lemmas")],
)
def test_words_that_no_template_asks_for_are_told(settings: dict, field: str):
    (setting,) = settings
    assert told_of(templates=("{definition}",), **settings) == [
        f"recipe.{setting} has no effect: no template uses {{{field}}}"
    ]
    assert told_of(templates=(f"{{definition}} {{{field}}}",), **settings) == []


def test_a_lora_of_scale_zero_is_told(tmp_path: Path):
    file = tmp_path / "lora.safetensors"
    save_file({"a_lora.weight": np.zeros((1, 1), np.float32)}, file)
    assert told_of(**DIGITS_MODEL, loras={str(file): 0.0}) == [f"recipe.loras '{file}' has no effect: its scale is 0"]


def test_a_damaged_small_file_of_a_model_is_named(tmp_path: Path):
    save_tiny_lcm(tmp_path)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match=r"its model_index\.json is damaged: .*Download the model again"):
        told_of(**DIGITS_MODEL, model=str(tmp_path))
