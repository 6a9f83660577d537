import dataclasses

import pytest

from generation.plan import FIRST_HELD_OUT_INDEX, plan_sample
from generation.recipe import Recipe


def test_every_aligned_run_of_ten_indices_has_each_of_ten_labels_once(painted: Recipe):
    for start in (0, 10, 990, FIRST_HELD_OUT_INDEX // 10 * 10):
        labels = [plan_sample(painted, start + i).label for i in range(10)]
        assert sorted(labels) == list(range(10))


def test_labels_come_in_another_order_in_another_run(painted: Recipe):
    orders = {tuple(plan_sample(painted, run * 10 + i).label for i in range(10)) for run in range(5)}
    assert len(orders) == 5


def test_a_plan_depends_on_recipe_and_index_alone(painted: Recipe):
    again = dataclasses.replace(painted)
    for index in reversed(range(20)):
        plan_sample(again, index)
    assert plan_sample(again, 7) == plan_sample(painted, 7)


def test_a_known_recipe_keeps_its_plan_for_ever(painted: Recipe):
    plan = plan_sample(painted, 7)
    assert (plan.label, plan.noise_seed) == (3, 1779410770585933592)


def test_a_further_attempt_changes_the_noise_and_nothing_else(painted: Recipe):
    first, second = plan_sample(painted, 7), plan_sample(painted, 7, attempt=1)
    assert first.noise_seed != second.noise_seed
    assert dataclasses.replace(second, attempt=0, noise_seed=first.noise_seed) == first


def test_noise_seeds_do_not_repeat(painted: Recipe):
    seeds = {plan_sample(painted, index, attempt).noise_seed for index in range(5000) for attempt in range(2)}
    assert len(seeds) == 10_000


def test_another_seed_is_another_data_set(painted: Recipe):
    other = dataclasses.replace(painted, seed=painted.seed + 1)
    assert all(plan_sample(other, i).noise_seed != plan_sample(painted, i).noise_seed for i in range(100))


def test_backgrounds_are_drawn_by_index_and_all_of_them_come(painted: Recipe):
    recipe = dataclasses.replace(painted, prompt="background", backgrounds=("stripes", "noise", "plain"))
    prompts = [plan_sample(recipe, index).prompt for index in range(60)]
    counts = [sum(prompt.endswith(f"inside {name}") for prompt in prompts) for name in recipe.backgrounds]
    assert sum(counts) == 60
    assert min(counts) >= 10
    assert prompts == [plan_sample(recipe, index).prompt for index in range(60)]


def test_a_negative_index_is_refused(painted: Recipe):
    with pytest.raises(ValueError, match="-1 is negative"):
        plan_sample(painted, -1)
