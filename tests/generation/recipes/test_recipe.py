import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from generation.recipes.checks import check_recipe
from generation.recipes.config import RecipeConfig
from generation.recipes.labels import ClassEntry, LabelSpace, load_label_space
from generation.recipes.plan import plan_sample
from generation.recipes.recipe import (
    Recipe,
    build_recipe,
    canonical_json,
    differences,
    read_recipe,
    recipe_file_text,
    recipe_from_value,
)


def test_canonical_json_has_sorted_keys_and_no_spaces(painted: Recipe):
    text = painted.to_json()
    assert text.startswith(
        '{"backgrounds":[],"captions":[],"class_backgrounds":[],"class_weights":[],"generated_size":16,'
    )
    assert json.loads(text)["label_space"]["name"] == "digits"
    assert len(text) < 1000


def test_large_recipe_is_a_few_kilobytes():
    recipe = build_recipe(
        RecipeConfig(
            label_space="imagenet1k", templates=("background",), backgrounds=("places365",), generator="painted"
        )
    )
    assert len(recipe.backgrounds) == 365
    assert 4_000 < len(recipe_file_text(recipe)) < 8_000


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"templates": ("{lemmas}",)},
        {"guidance_scale": (7.5,)},
        {"revision": "x"},
        {"image_size": 24},
        {"class_weights": (2.0, *[1.0] * 9)},
        {"label_space": load_label_space("imagenet100")},
    ],
)
def test_changes_to_images_change_the_hash_and_are_named(painted: Recipe, change: dict):
    other = dataclasses.replace(painted, **change)
    assert other.sha256 != painted.sha256
    found = differences(painted.to_value(), other.to_value())
    assert {name.split(".")[0] for name in found} == change.keys()


def test_changed_word_of_a_class_file_is_named(painted: Recipe):
    classes = tuple(ClassEntry(f"class {i}", definition=f"{i}") for i in range(20))
    changed = (*classes[:19], dataclasses.replace(classes[19], definition="nineteen"))
    ours, theirs = (
        dataclasses.replace(painted, label_space=LabelSpace("mine.csv", entries)) for entries in (classes, changed)
    )
    assert differences(ours.to_value(), theirs.to_value()) == {"label_space.classes.19.definition": ("19", "nineteen")}


def test_background_of_one_class_does_not_copy_the_common_ones(tmp_path: Path):
    (tmp_path / "b.yaml").write_text("n01440764: [river bank]")
    settings = RecipeConfig(
        label_space="imagenet1k",
        templates=("background",),
        backgrounds=("places365",),
        backgrounds_file=str(tmp_path / "b.yaml"),
        generator="painted",
    )
    recipe = build_recipe(settings)
    assert recipe.backgrounds_by_label[0] == ("river bank",)
    assert len(recipe.backgrounds_by_label[1]) == 365
    assert len(recipe_file_text(recipe)) < 8_000


def test_recipe_file_round_trip(tmp_path: Path):
    captions = "\n".join(
        f'{{"class": "{name}", "caption": "a {name}"}}' for name in load_label_space("digits").class_names
    )
    (tmp_path / "captions.jsonl").write_text(captions)
    recipe = build_recipe(
        RecipeConfig(
            templates=("definition", "{caption} inside {background}"),
            template_weights=(0.25, 0.75),
            class_weights={"zero": 2.5, "n13742573": 0.0},
            prefix="a photo of",
            negative_prompt="blurry",
            backgrounds=("plain", "noise"),
            captions_file=str(tmp_path / "captions.jsonl"),
            guidance_scale=(1.5, 3.0),
            guidance_draw="between",
            image_size=32,
        )
    )
    (tmp_path / "recipe.json").write_text(recipe_file_text(recipe))
    (tmp_path / "captions.jsonl").unlink()
    again = read_recipe(tmp_path / "recipe.json")
    assert again == recipe
    assert again.sha256 == recipe.sha256
    assert recipe.templates == ("a photo of {lemmas}, {definition}", "a photo of {caption} inside {background}")
    assert recipe.class_weights == (2.5, 0.0, *[1.0] * 8)
    assert [plan_sample(again, index) for index in range(30)] == [plan_sample(recipe, index) for index in range(30)]


def test_equal_class_weights_are_exactly_balanced():
    recipe = build_recipe(RecipeConfig(generator="painted", class_weights={"zero": 1.0}))
    assert recipe.class_weights == ()


def test_recipe_edited_by_hand_is_rejected(painted: Recipe, tmp_path: Path):
    path = tmp_path / "recipe.json"
    path.write_text(recipe_file_text(painted).replace('"seed":0', '"seed":1'))
    with pytest.raises(ValueError, match=rf"states {painted.sha256[:12]}: it was edited by hand\. Change the settings"):
        read_recipe(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", "recipe: {}", "[" * 100_000])
def test_other_file_is_named(text: str, tmp_path: Path):
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(ValueError, match=r"recipe\.json' is not a recipe file"):
        read_recipe(tmp_path / "recipe.json")


@pytest.mark.parametrize("value", [[1, "seed"], "seed", None])
def test_recipe_that_is_not_a_mapping_is_rejected(value: Any):
    with pytest.raises(ValueError, match=r"The recipe is .*, which is not a mapping"):
        recipe_from_value(value)


def test_recipe_of_another_version_is_rejected_with_the_field(painted: Recipe):
    value = painted.to_value()
    del value["lemmas"]
    with pytest.raises(ValueError, match=r"fields \(lemmas\): another version"):
        recipe_from_value(value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image_size", 17, "recipe.image_size is 17; latent diffusion needs a multiple of 8"),
        ("image_size", "16", "recipe.image_size is 16, which is not valid in a recipe"),
        ("safety_checker", 1, "recipe.safety_checker is 1, which is not valid in a recipe"),
        ("seed", -1, "recipe.seed is -1; use 0 to 2"),
        ("precision", "float64", "recipe.precision is float64, which is not valid in a recipe"),
        ("guidance_scale", [0.5], "recipe.guidance_scale is 0.5; use 1"),
        ("guidance_scale", 2.0, "recipe.guidance_scale is 2.0, which is not valid in a recipe"),
        ("guidance_interval", [0.0, 1.0, 1.0], "which is not valid in a recipe"),
        ("num_inference_steps", 0, "recipe.num_inference_steps is 0"),
        ("generated_size", 0, "recipe.generated_size is 0, which contradicts the rest"),
        ("templates", ["{name}"], "whose field {name} is unknown"),
        ("templates", ["{class_name} {caption}"], "which contradicts the rest"),
        ("templates", ["{class_name} {background}"], "but recipe.backgrounds is empty"),
        ("captions", [["x"]], "recipe.captions is (('x',),), which contradicts the rest"),
        ("class_weights", [1.0], "recipe.class_weights is (1.0,), which contradicts the rest"),
        ("class_weights", [0.0] * 10, "which contradicts the rest"),
        ("loras", [["x", "y"]], "recipe.loras is [['x', 'y']], which is not valid in a recipe"),
        ("model", "x/y", "recipe.model is x/y, which contradicts the rest"),
        ("label_space", {"name": "mine", "classes": [{"class_name": "a"}]}, "recipe.label_space is not a list"),
        ("label_space", {"name": 3, "classes": []}, "recipe.label_space has the name 3, which is not text"),
        ("label_space", ["digits"], "recipe.label_space is not a list of classes"),
    ],
)
def test_invalid_value_is_a_one_line_error_with_the_file(
    field: str, value: object, message: str, painted: Recipe, tmp_path: Path
):
    content = painted.to_value() | {field: value}
    if "caption" in str(value):
        content["captions"] = [["a photo"]]  # of one of ten classes
    path = tmp_path / "recipe.json"
    path.write_text(
        json.dumps({"recipe": content, "sha256": hashlib.sha256(canonical_json(content).encode()).hexdigest()})
    )
    with pytest.raises(ValueError, match=rf"^'{path}': .*{re.escape(message)}"):
        read_recipe(path)


def test_older_recipe_with_near_duplicate_classes_is_read(painted: Recipe, tmp_path: Path):
    space = LabelSpace("mine.csv", (ClassEntry("Crane", definition="a bird"), ClassEntry("crane", definition="a bird")))
    path = tmp_path / "recipe.json"
    path.write_text(recipe_file_text(dataclasses.replace(painted, label_space=space)))
    recipe = read_recipe(path)
    assert recipe.label_space.class_names == ("Crane", "crane")
    (note, *_) = check_recipe(recipe, RecipeConfig())
    assert note.startswith("mine.csv has the classes 'Crane' and 'crane', which differ only in case")


def test_recipe_with_a_changed_model_is_rejected(tmp_path: Path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "model_index.json").write_text("{}")
    recipe = build_recipe(RecipeConfig(model=str(model)))
    (tmp_path / "recipe.json").write_text(recipe_file_text(recipe))
    assert read_recipe(tmp_path / "recipe.json") == recipe
    (model / "model_index.json").write_text("[]")
    with pytest.raises(ValueError, match=r"model' has changed since the recipe was written"):
        read_recipe(tmp_path / "recipe.json")


def test_missing_words_are_named_with_the_class(tmp_path: Path):
    (tmp_path / "mine.csv").write_text("class_name,definition\ncrane,a machine\nheron,a bird\n")
    settings = RecipeConfig(label_space=str(tmp_path / "mine.csv"), templates=("hypernym",), generator="painted")
    with pytest.raises(ValueError, match=r"use \{hypernym\}, which class 'crane' of mine\.csv lacks"):
        build_recipe(settings)
    recipe = build_recipe(dataclasses.replace(settings, templates=("definition",)))
    assert {plan_sample(recipe, index).prompt for index in range(2)} == {"crane, a machine", "heron, a bird"}


def test_invalid_class_weights_are_rejected():
    with pytest.raises(ValueError, match=r"'zeero' is not a class of digits\. Did you mean zero"):
        build_recipe(RecipeConfig(generator="painted", class_weights={"zeero": 2.0}))
    nothing = dict.fromkeys(load_label_space("digits").class_names, 0.0)
    with pytest.raises(ValueError, match="class_weights sum to 0"):
        build_recipe(RecipeConfig(generator="painted", class_weights=nothing))
    with pytest.raises(ValueError, match="class_weights sum to inf"):
        build_recipe(RecipeConfig(generator="painted", class_weights={"zero": 1e308, "one": 1e308}))
    with pytest.raises(ValueError, match="has 'n13742358' twice, by name and by wnid"):
        build_recipe(RecipeConfig(generator="painted", class_weights={"zero": 3.0, "n13742358": 1.0}))


def test_leave_out_after_keeps_old_hashes(painted: Recipe, tmp_path: Path):
    leaving = dataclasses.replace(painted, leave_out_after=3)
    assert leaving.sha256 != painted.sha256
    assert "leave_out_after" not in painted.to_value()
    assert recipe_from_value(painted.to_value()) == painted
    assert recipe_from_value(leaving.to_value()) == leaving
    assert differences(painted.to_value(), leaving.to_value()) == {"leave_out_after": (0, 3)}
    with pytest.raises(ValueError, match=r"recipe\.leave_out_after is 128; use 0"):
        RecipeConfig(leave_out_after=128)
