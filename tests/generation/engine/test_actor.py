import dataclasses
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from generation.config import GenerationConfig
from generation.engine.actor import GeneratorActor, ImagesRefusedError, WorkCounts
from generation.engine.generator import GeneratedImages
from generation.engine.painted_generator import PaintedGenerator
from generation.recipes.plan import SamplePlan, plan_sample
from generation.recipes.recipe import Recipe
from generation.sample import NO_LABEL, drop_left_out
from generation.work_clock import WorkClock
from tests.support.settings import ON_CPU


class BlackUntil:
    """A painted generator whose chosen indices are black until their attempt reaches a number."""

    batch_size = 4

    def __init__(self, first_good_attempt: dict[int, int]) -> None:
        self.first_good_attempt = first_good_attempt
        self.painter = PaintedGenerator(16, 10)

    def generate(self, plans: Sequence[SamplePlan]) -> GeneratedImages:
        generated = self.painter.generate(plans)
        for i, plan in enumerate(plans):
            if plan.attempt < self.first_good_attempt.get(plan.index, 0):
                generated.images_nhwc[i] = generated.darkest[i] = generated.brightest[i] = 0
        return generated


def actor_with(generator: BlackUntil, recipe: Recipe, max_attempts: int) -> GeneratorActor:
    actor = GeneratorActor(recipe, GenerationConfig(gpus_per_actor=0, max_attempts=max_attempts))
    actor.generator = generator
    return actor


def test_each_row_matches_its_own_plan(painted: Recipe):
    batch = GeneratorActor(painted, ON_CPU).generate([12, 3, 40])
    painter = PaintedGenerator(16, 10)
    for row, index in enumerate([12, 3, 40]):
        plan = plan_sample(painted, index)
        assert (batch["index"][row], batch["label"][row], batch["attempt"][row]) == (index, plan.label, 0)
        np.testing.assert_array_equal(batch["image"][row], painter.paint(plan))
    assert [batch[name].dtype for name in ("index", "label", "image", "attempt")] == ["int64", "int64", "uint8", "int8"]


def test_painted_generator_waits_at_start(painted: Recipe):
    began_at = time.monotonic()
    GeneratorActor(painted, dataclasses.replace(ON_CPU, painted_start_seconds=0.2))
    assert time.monotonic() - began_at >= 0.2


def test_refused_image_is_replaced_by_next_attempt(painted: Recipe):
    actor = actor_with(BlackUntil({5: 2, 6: 1}), painted, max_attempts=3)
    batch = actor.generate(range(4, 8))
    painter = PaintedGenerator(16, 10)
    assert batch["attempt"].tolist() == [0, 2, 1, 0]
    for row, (index, attempt) in enumerate([(4, 0), (5, 2), (6, 1), (7, 0)]):
        np.testing.assert_array_equal(batch["image"][row], painter.paint(plan_sample(painted, index, attempt)))
    taken = actor.take_counts()
    assert (taken.num_images_made, taken.num_refused) == (4 + 2 + 1, Counter(black=3))
    assert taken.working_seconds > 0
    assert actor.take_counts() == WorkCounts()


def test_busy_time_of_two_threads_counts_once():
    times = iter([10.0, 12.0, 13.0, 15.0, 18.0, 20.0, 21.0, 30.0])
    clock = WorkClock(lambda: next(times))
    clock.__enter__()  # at 10
    clock.__enter__()  # at 12
    assert clock.take() == 3.0  # at 13
    clock.__exit__()  # at 15
    clock.__exit__()  # at 18
    assert clock.take() == 5.0  # at 20
    clock.__enter__()  # at 21
    assert clock.take() == 9.0  # at 30


def test_counts_add_up():
    counts = WorkCounts(1, Counter(black=1), 2.0, Counter(crane=1))
    counts.add(WorkCounts(2, Counter(black=1, flat=1), 3.0, Counter(crane=1, heron=1)))
    assert counts == WorkCounts(3, Counter(black=2, flat=1), 5.0, Counter(crane=2, heron=1))


def test_last_refusal_names_the_prompt(painted: Recipe):
    actor = actor_with(BlackUntil({5: 3}), painted, max_attempts=3)
    with pytest.raises(ImagesRefusedError, match="All 3 attempts at sample 5 were refused") as ended:
        actor.generate(range(4, 8))
    plan = plan_sample(painted, 5)
    class_name = painted.label_space.classes[plan.label].class_name
    assert f"the last as black. The prompt is '{plan.prompt}'. This actor generated 3 images" in str(ended.value)
    assert f"images of class '{class_name}'; 3 were refused." in str(ended.value)
    assert "safety_checker" not in str(ended.value)


def leaving_out(painted: Recipe, first_good_attempt: dict[int, int]) -> GeneratorActor:
    """Return an actor whose recipe leaves samples out after two refused images; the pool's own limit is 1."""
    return actor_with(BlackUntil(first_good_attempt), dataclasses.replace(painted, leave_out_after=2), max_attempts=1)


def test_left_out_sample_keeps_its_row_without_a_label(painted: Recipe):
    actor = leaving_out(painted, {5: 2, 6: 1})
    batch = actor.generate(range(4, 8))
    plans = [plan_sample(painted, index) for index in range(4, 8)]
    assert batch["index"].tolist() == [4, 5, 6, 7]
    assert batch["label"].tolist() == [plans[0].label, NO_LABEL, plans[2].label, plans[3].label]
    assert batch["attempt"].tolist() == [0, 2, 1, 0]
    assert not batch["image"][1].any()
    np.testing.assert_array_equal(batch["image"][2], PaintedGenerator(16, 10).paint(plan_sample(painted, 6, 1)))
    taken = actor.take_counts()
    name = painted.label_space.classes[plans[1].label].class_name
    assert (taken.num_images_made, taken.num_refused, taken.num_left_out) == (6, {"black": 3}, {name: 1})
    assert drop_left_out(batch)["index"].tolist() == [4, 6, 7]


def test_class_without_any_accepted_image_ends_the_run(painted: Recipe):
    indices = [index for index in range(300) if plan_sample(painted, index).label == 3]
    actor = leaving_out(painted, dict.fromkeys(indices, 2))
    actor.generate(indices[:19])
    with pytest.raises(ImagesRefusedError, match=r"generated 40 images of class 'three'; 40 were refused\. Change"):
        actor.generate(indices[19:20])
    one_good = leaving_out(painted, dict.fromkeys(indices[1:], 2))
    assert (one_good.generate(indices[:30])["label"] == NO_LABEL).sum() == 29
