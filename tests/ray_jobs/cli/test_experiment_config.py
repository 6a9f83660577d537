"""Expansion of an experiment's config into runs, and what is refused."""

from pathlib import Path

import pytest

from ray_jobs.cli.config import JobConfig, load_config
from ray_jobs.cli.experiment_config import BudgetConfig, ExperimentConfig, comparisons, group_of, learners
from tests.support.settings import PAINTED

ARMS = ["arms={plain: [], strong: [training.augmentation=multi_crop, training.crop_size=24]}", "seeds=[3, 5]"]
GRID = "grid={recipe.guidance_scale: ['1.0', '2.0']}"


def loaded(*arguments: str) -> ExperimentConfig:
    return load_config(ExperimentConfig, [PAINTED, "output=out", *arguments])


def test_each_arm_runs_at_each_grid_point_with_each_seed():
    found = learners(loaded(*ARMS, GRID))
    assert [each.name for each in found[:3]] == [
        "plain, guidance_scale=1.0, seed 3",
        "plain, guidance_scale=1.0, seed 5",
        "plain, guidance_scale=2.0, seed 3",
    ]
    assert len(found) == 2 * 2 * 2
    last = found[-1]
    assert last.overrides == ("training.augmentation=multi_crop", "training.crop_size=24", "recipe.guidance_scale=2.0")
    assert last.config.output == "out/strong-guidance_scale=2.0/seed-5"
    assert (last.config.training.seed, last.config.training.crop_size) == (5, 24)
    assert last.config.recipe.guidance_scale == (2.0,)
    assert type(last.config) is JobConfig


def test_grid_needs_no_arms():
    found = learners(loaded(GRID, "seeds=0"))
    assert [(each.arm, each.config.output) for each in found] == [
        ("guidance_scale=1.0", "out/guidance_scale=1.0/seed-0"),
        ("guidance_scale=2.0", "out/guidance_scale=2.0/seed-0"),
    ]


def test_runs_of_one_recipe_and_pool_are_a_group():
    one, other, third, _ = (each.config for each in learners(loaded(*ARMS, GRID))[::2])
    assert group_of(one) == group_of(third) != group_of(other)
    real = learners(loaded("arms={real: [data.source=real, data.real=digits]}"))[0]
    assert group_of(real.config) == ""


def test_arms_are_compared_with_the_first_or_in_the_given_pairs():
    assert comparisons(loaded("arms={a: [], b: [recipe.seed=1], c: [recipe.seed=2]}")) == [("b", "a"), ("c", "a")]
    assert comparisons(loaded(*ARMS, "compare=[[strong, plain]]")) == [("strong", "plain")]
    assert comparisons(loaded(*ARMS, GRID, "compare=[[strong, plain]]")) == [
        ("strong, guidance_scale=1.0", "plain, guidance_scale=1.0"),
        ("strong, guidance_scale=2.0", "plain, guidance_scale=2.0"),
    ]
    full = "compare=[['strong, guidance_scale=1.0', 'strong, guidance_scale=2.0']]"
    assert comparisons(loaded(*ARMS, GRID, full)) == [("strong, guidance_scale=1.0", "strong, guidance_scale=2.0")]


@pytest.mark.parametrize(
    ("budget", "settings", "num_images"),
    [
        ({}, [], 1920),
        ({"images_trained": 640}, [], 640),
        ({"images_generated": 640}, ["training.reuse=3"], 1920),
        # 640 / 48 = 13 steps, of 48 generated and 16 real images
        ({"images_generated": 640}, ["training.real_images=digits", "training.real_fraction=0.25"], 13 * 64),
        ({"images_generated": 640}, ["data.tee=x", "data.replays=1"], 1280),
        ({"generator_device_seconds": 0.01}, [], 0),  # less than one image
        ({"generator_device_seconds": 8.0}, [], 320),  # at 40.5 images/s: 324, in whole steps
    ],
)
def test_budget_sets_the_number_of_images(budget: dict[str, float], settings: list[str], num_images: int):
    config = load_config(JobConfig, [PAINTED, *settings])
    assert BudgetConfig(**budget).num_images(config, 40.5) == num_images  # pyright: ignore[reportArgumentType]


def test_measured_budget_is_each_arms_own():
    config = loaded("budget.generator_device_seconds=10", "arms={slow: [recipe.num_inference_steps=8], fast: []}")
    assert {each.config.training.num_images for each in learners(config)} == {1920}
    found = learners(config, {"slow": 32.0, "fast": 64.0})
    assert [each.config.training.num_images for each in found] == [320] * 3 + [640] * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "has no arms or no seeds"),
        (["arms={a: []}", "seeds=[]"], "has no arms or no seeds"),
        (["arms={a: []}", "seeds=[1, 1]"], r"seeds is \[1, 1\]; use each seed once"),
        (["arms={a: [training.sede=1]}"], "arm 'a': There is no setting 'training.sede'. Did you mean training.seed"),
        (["arms={a: [training.reuse]}"], "arm 'a': 'training.reuse' is not an override"),
        (["arms={a: [training.reuse=-1]}"], "arm 'a': training.reuse is '-1'; use auto"),
        (["arms={a: [training.seed=1]}"], "arm 'a': an experiment sets training.seed itself"),
        (["arms={a: [output=x]}"], "arm 'a': an experiment sets output itself"),
        (["arms={a: [seeds=1]}"], "arm 'a': There is no setting 'seeds'"),
        (["arms={a: [], b: [training.reuse=1]}"], "The arms 'a' and 'b' have the same settings"),
        (["arms={a b: [], a-b: [training.reuse=2]}"], "The names of the arms 'a b' and 'a-b' make the same folder"),
        (["arms={a: []}", "grid={recipe.seed: []}"], "grid has a setting without values"),
        (["arms={plain: []}", "compare=[[plain, plane]]"], "compare has 'plane', which is no arm. Did you mean plain"),
        (["arms={plain: []}", "compare=[[plain]]"], r"compare has \['plain'\]; list pairs of arms"),
        (
            ["arms={a: []}", "budget.images_trained=1", "budget.images_generated=1"],
            "budget has images_trained and images_generated; set only one",
        ),
        (
            ["arms={a: []}", "budget.images_trained=100"],
            "budget allows the arm 'a' 100 images to train on, but 3 epochs of at least one batch of 64 need 192",
        ),
        (["arms={a: []}", "budget.images_generated=63"], "budget allows the arm 'a' 0 images"),
        (["arms={a: []}", "stopping.reduction=1"], "stopping.reduction is 1, which stops none"),
        (["arms={a: [data.tee=x]}"], "data.tee is 'x' in several runs"),
    ],
)
def test_experiment_that_cannot_run_is_refused(arguments: list[str], message: str):
    with pytest.raises(ValueError, match=message):
        learners(loaded(*arguments))


def test_shipped_experiment_has_two_arms_of_one_recipe(tmp_path: Path):
    found = learners(load_config(ExperimentConfig, ["experiment", f"output={tmp_path}"]))
    assert [each.name for each in found] == ["plain, seed 0", "plain, seed 1", "crops, seed 0", "crops, seed 1"]
    assert len({group_of(each.config) for each in found}) == 1
