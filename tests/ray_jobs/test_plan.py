import json
from pathlib import Path

import pytest

from generation.recipes.recipe import read_recipe
from ray_jobs import plan
from tests.support.commands import error_line, printed, settings
from tests.support.settings import CONFIGS

OF_OTHER_COMMANDS = {CONFIGS / f"{name}.yaml" for name in ("compare", "miniature", "scale")}
"""Read by their own commands' `prepare`, in test_refusals and test_evaluation_jobs."""

DIGITS = str(CONFIGS / "digits_prompts.yaml")


def test_plan_prints_sizes_and_writes_the_recipe_once(capsys, tmp_path: Path):
    path = tmp_path / "recipes" / "digits.json"
    out = printed(plan, capsys, DIGITS, f"--out={path}")
    recipe = read_recipe(path)
    for text in (
        recipe.sha256,
        "{lemmas}, {hypernym} inside {background}",
        "over 64",
        "seven, 7, VII",
        "16,384 (training.num_images over training.reuse and data.replays, in whole steps)",
        "50,331,648 as uint8 pixels",  # 16,384 x 32 x 32 x 3
        f"{path.stat().st_size:,} bytes",
    ):
        assert text in out
    before = path.read_bytes()
    printed(plan, capsys, str(path), "training.num_images=30000", f"--out={path}")
    assert path.read_bytes() == before
    message = error_line(plan, capsys, DIGITS, "recipe.seed=1", f"--out={path}")
    assert "exists and is not overwritten" in message
    assert path.read_bytes() == before


@pytest.mark.parametrize("path", sorted(set(CONFIGS.rglob("*.yaml")) - OF_OTHER_COMMANDS), ids=lambda path: path.stem)
def test_committed_configs_plan_a_sample(path: Path, capsys):
    plans = printed(plan, capsys, str(path), "--index", "7")
    recipe = settings(plan, str(path)).opened_recipe
    planned = plan.plan_sample(recipe, 7)
    assert recipe.label_space.classes[planned.label].wnid in plans
    assert str(planned.noise_seed) in plans


def test_plan_explains_one_sample(capsys):
    config = str(CONFIGS / "paper" / "imagenet1k_definition_guidance2.0.yaml")
    out = printed(plan, capsys, config, "--index", "1234567")
    recipe = settings(plan, config).opened_recipe
    planned = plan.plan_sample(recipe, 1234567)
    entry = recipe.label_space.classes[planned.label]
    for text in (entry.wnid, entry.synset, str(planned.noise_seed), "{lemmas}, {definition}", "CompVis/stable-diff"):
        assert text in out


def test_plan_names_the_fields_in_which_recipes_differ(capsys, tmp_path: Path):
    path = tmp_path / "digits.json"
    printed(plan, capsys, DIGITS, f"--out={path}")
    out = printed(plan, capsys, DIGITS, "recipe.guidance_scale=7.5", "recipe.seed=3", f"--compare={path}")
    assert out.splitlines() == [
        "seed: 3 in this recipe, 0 in the other",
        "guidance_scale: [7.5] in this recipe, [2.0] in the other",
    ]
    assert "The recipes are equal" in printed(plan, capsys, DIGITS, f"--compare={path}")


def test_words_in_brackets_are_printed_unchanged(capsys, tmp_path: Path):
    (tmp_path / "mine.csv").write_text("class_name,definition\ncrane,[red] machine\nheron,a bird\n")
    arguments = [f"recipe.label_space={tmp_path / 'mine.csv'}", "recipe.generator=painted", f"--out={tmp_path / 'r'}"]
    assert "crane, [red] machine" in printed(plan, capsys, str(CONFIGS / "digits.yaml"), *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--index", "-1"], "Sample index -1 is out of range"),
        (["--index", "9223372036854775808"], "is out of range"),
        (["--index", "seven"], "Invalid value for '--index': 'seven' is not a valid integer"),
        (["--compare", "nowhere.json"], "'nowhere.json' is not a recipe file"),
        (["recipe.templates='{name}'"], "field {name} is unknown"),
        (["recipe.label_space=letters"], "'letters', which is unknown"),
        (["recipe.class_weights.n00000000=2"], "'n00000000' is not a class of digits"),
        (["recipe.templates='{class_name:{caption}}'"], "whose field {class_name} has a ! or :"),
        (["recipe.class_weights=[1]"], "recipe.class_weights is ['1']; use a mapping"),
        (["--out", "/proc/recipe.json"], "'/proc/recipe.json' cannot be written"),
    ],
)
def test_impossible_plan_is_one_line(arguments: list[str], message: str, capsys):
    assert message in error_line(plan, capsys, DIGITS, *arguments)


def test_recipe_edited_by_hand_is_one_line(capsys, tmp_path: Path):
    path = tmp_path / "digits.json"
    printed(plan, capsys, DIGITS, f"--out={path}")
    content = json.loads(path.read_text())
    content["recipe"]["seed"] = 1
    path.write_text(json.dumps(content))
    assert "it was edited by hand" in error_line(plan, capsys, str(path))


def test_recipe_is_compared_without_its_model(capsys, tmp_path: Path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "model_index.json").write_text("{}")
    path = tmp_path / "recipe.json"
    printed(plan, capsys, DIGITS, f"recipe.model={model}", f"--out={path}")
    (model / "model_index.json").unlink()
    out = printed(plan, capsys, DIGITS, f"--compare={path}")
    assert [line.split(":")[0] for line in out.splitlines()] == ["model", "revision"]
