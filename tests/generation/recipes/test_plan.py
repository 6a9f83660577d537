import dataclasses

import pytest

from generation.recipes.plan import FIRST_HELD_OUT_INDEX, describe_sample, num_prompts, plan_sample
from generation.recipes.recipe import Recipe


def test_each_aligned_run_of_indices_has_each_label_once(painted: Recipe):
    for start in (0, 10, 990, FIRST_HELD_OUT_INDEX // 10 * 10):
        labels = [plan_sample(painted, start + i).label for i in range(10)]
        assert sorted(labels) == list(range(10))


def test_runs_order_labels_differently(painted: Recipe):
    orders = {tuple(plan_sample(painted, run * 10 + i).label for i in range(10)) for run in range(5)}
    assert len(orders) == 5


def test_plan_depends_on_recipe_and_index_alone(painted: Recipe):
    again = dataclasses.replace(painted)
    for index in reversed(range(20)):
        plan_sample(again, index)
    assert plan_sample(again, 7) == plan_sample(painted, 7)


def test_plan_of_a_known_recipe_never_changes(painted: Recipe):
    plan = plan_sample(painted, 7)
    assert (plan.label, plan.noise_seed) == (3, 1779410770585933592)


def test_another_attempt_changes_only_the_noise(painted: Recipe):
    first, second = plan_sample(painted, 7), plan_sample(painted, 7, attempt=1)
    assert first.noise_seed != second.noise_seed
    assert dataclasses.replace(second, attempt=0, noise_seed=first.noise_seed) == first


def test_noise_seeds_do_not_repeat(painted: Recipe):
    seeds = {plan_sample(painted, index, attempt).noise_seed for index in range(5000) for attempt in range(2)}
    assert len(seeds) == 10_000


def test_another_seed_gives_another_data_set(painted: Recipe):
    other = dataclasses.replace(painted, seed=painted.seed + 1)
    assert all(plan_sample(other, i).noise_seed != plan_sample(painted, i).noise_seed for i in range(100))


def with_templates(recipe: Recipe, *templates: str, weights: tuple[float, ...] = ()) -> Recipe:
    return dataclasses.replace(recipe, templates=templates, template_weights=weights)


def test_backgrounds_are_drawn_by_index(painted: Recipe):
    recipe = dataclasses.replace(
        with_templates(painted, "{lemmas} inside {background}"), backgrounds=("stripes", "noise", "plain")
    )
    prompts = [plan_sample(recipe, index).prompt for index in range(60)]
    counts = [sum(prompt.endswith(f"inside {name}") for prompt in prompts) for name in recipe.backgrounds]
    assert sum(counts) == 60
    assert min(counts) >= 10
    assert prompts == [plan_sample(recipe, index).prompt for index in range(60)]


def test_each_class_has_its_own_backgrounds_and_captions(painted: Recipe):
    recipe = dataclasses.replace(
        with_templates(painted, "{caption} in {background}"),
        backgrounds=("the wild",),
        class_backgrounds=tuple((label, (f"field {label}",)) for label in range(0, 10, 2)),
        captions=tuple((f"digit {label}",) for label in range(10)),
    )
    plans = [plan_sample(recipe, index) for index in range(50)]
    places = [f"field {plan.label}" if plan.label % 2 == 0 else "the wild" for plan in plans]
    expected = [f"digit {plan.label} in {place}" for plan, place in zip(plans, places, strict=True)]
    assert [plan.prompt for plan in plans] == expected


def test_templates_follow_their_weights(painted: Recipe):
    recipe = with_templates(painted, "{lemmas}", "{definition}", "{class_name}", weights=(0.7, 0.3, 0.0))
    templates = [plan_sample(recipe, index).template for index in range(2000)]
    assert 1330 <= templates.count("{lemmas}") <= 1470  # 1400, three standard deviations of 20
    assert templates.count("{class_name}") == 0


def test_adding_a_choice_does_not_change_others(painted: Recipe):
    one = dataclasses.replace(with_templates(painted, "{lemmas} inside {background}"), backgrounds=("a", "b"))
    two = dataclasses.replace(one, guidance_scale=(1.0, 7.5), hypernym="random")
    assert [plan_sample(one, i).prompt for i in range(50)] == [plan_sample(two, i).prompt for i in range(50)]


def test_guidance_is_drawn_from_a_list_or_a_range(painted: Recipe):
    listed = dataclasses.replace(painted, guidance_scale=(1.0, 2.0, 7.5))
    scales = [plan_sample(listed, index).guidance_scale for index in range(300)]
    assert set(scales) == {1.0, 2.0, 7.5}
    assert min(scales.count(scale) for scale in set(scales)) >= 70
    between = dataclasses.replace(painted, guidance_scale=(1.5, 3.5), guidance_draw="between")
    drawn = [plan_sample(between, index).guidance_scale for index in range(300)]
    assert all(1.5 <= scale < 3.5 for scale in drawn)
    assert len(set(drawn)) == 300
    assert sum(drawn) / 300 == pytest.approx(2.5, abs=0.1)  # three standard deviations of 0.033


def test_class_weights_give_exact_shares(painted: Recipe):
    weights = (3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.5)  # of 10.5: 2.857, 0.952 (seven times), 0, 0.476 a run
    recipe = dataclasses.replace(painted, class_weights=weights)
    labels = [plan_sample(recipe, index).label for index in range(1050)]
    counts = [labels.count(label) for label in range(10)]
    assert counts[8] == 0
    for label, share in enumerate(weights):
        assert counts[label] == pytest.approx(100 * share, abs=16)  # three standard deviations of at most 5.1
    for start in range(0, 1050, 10):
        run = labels[start : start + 10]
        assert run.count(0) in (2, 3)
        assert all(run.count(label) in (0, 1) for label in range(1, 10))


def test_sets_are_nested(painted: Recipe):
    recipe = with_templates(painted, "{lemmas}", "{definition}")
    ten_times = [plan_sample(recipe, index) for index in range(1000)]
    once = [plan_sample(recipe, index) for index in reversed(range(100))]
    assert ten_times[:100] == once[::-1]


def test_possible_prompts_are_counted(painted: Recipe):
    assert num_prompts(painted) == 10
    recipe = dataclasses.replace(
        with_templates(painted, "{lemmas}", "{lemmas} inside {background}"),
        backgrounds=("a", "b", "c"),
        class_backgrounds=((4, ("d", "e", "f", "g", "h")),),
    )
    assert num_prompts(recipe) == 10 + 9 * 3 + 5
    captioned = dataclasses.replace(
        with_templates(painted, "{caption} of {hypernym}"), captions=(("x", "y"),) * 10, hypernym="random"
    )
    assert num_prompts(captioned) == 20  # each digit has one hypernym


def test_negative_prompt_is_in_the_plan(painted: Recipe):
    assert plan_sample(dataclasses.replace(painted, negative_prompt="blurry"), 3).negative_prompt == "blurry"


def test_description_names_class_and_recipe(painted: Recipe):
    plan = plan_sample(painted, 7)
    described = describe_sample(painted, plan)
    assert (described["index"], described["label"], described["class_name"]) == (7, 3, "three")
    assert described["recipe_sha256"] == painted.sha256
    assert described["definition"] == "the cardinal number that is the sum of one and one and one"
    assert described["fields"].keys() == {"lemmas", "definition"}
    assert described["prompt"] == f"{described['fields']['lemmas']}, {described['fields']['definition']}"


@pytest.mark.parametrize("index", [-1, 2**63])
def test_index_out_of_range_is_rejected(index: int, painted: Recipe):
    with pytest.raises(ValueError, match=f"{index} is out of range; indices are 0 to 9223372036854775807"):
        plan_sample(painted, index)
