"""Recipes that would teach something wrong in silence."""

from pathlib import Path

import pytest

from generation.config import RecipeConfig
from generation.recipe import Recipe, build_recipe
from generation.recipe_checks import check_recipe, labels_with_same_prompts


def recipe_of(**settings) -> Recipe:
    return build_recipe(RecipeConfig(**{"generator": "painted", "image_size": 16} | settings))


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
    told = " ".join(check_recipe(recipe))
    assert ("('crane') have the same prompts" in told) == (template == "class_name")


def test_the_embedded_model_is_refused_for_classes_that_it_does_not_know(tmp_path: Path):
    settings = digits_of(tmp_path, "zero", "cat") | {"image_size": 32}
    with pytest.raises(ValueError, match=r"knows zero, one, .* and not 'cat'\. Give a model of your classes"):
        check_recipe(recipe_of(**settings))
    assert check_recipe(recipe_of(**digits_of(tmp_path, "zero", "nine") | {"image_size": 32})) == []


def test_class_names_behind_what_the_text_encoder_reads_are_told_or_refused():
    settings = {"generator": "diffusers", "model": "generation/digits/model", "image_size": 32}
    long = "digit " * 100
    with pytest.raises(ValueError, match=r"All prompts name their class behind the \d+ tokens"):
        check_recipe(recipe_of(**settings, templates=(f"{long}{{class_name}}",)))
    (told,) = check_recipe(recipe_of(**settings, templates=(f"{long}{{class_name}}", f"{{class_name}} {long}")))
    assert told.endswith("of the prompts name their class behind the 64 tokens that the text encoder reads")
    assert 45 < float(told.partition("%")[0]) < 55
