"""Scores of a second model: the guard refuses by them, and samples carry them."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from generation.engine.actor import GeneratorActor, ImagesRefusedError, WorkCounts
from generation.engine.scores import ScoreCounts, ScoredImage
from generation.pool.keeper import GenerationCounts
from generation.recipes.plan import plan_sample
from generation.recipes.recipe import Recipe
from generation.sample import NO_LABEL
from tests.support.settings import ON_CPU


class ScriptedScorer:
    """Gives the class of one image after another these probabilities; the same to all other classes."""

    gives_soft_labels = False

    def __init__(self, recipe: Recipe, probabilities: list[float]) -> None:
        self.recipe = recipe
        self.left = probabilities

    def probabilities(self, images_nhwc: np.ndarray) -> np.ndarray:
        taken, self.left = self.left[: len(images_nhwc)], self.left[len(images_nhwc) :]
        return np.repeat(np.array(taken, np.float32)[:, None], self.recipe.label_space.num_classes, axis=1)


def checked_actor(painted: Recipe, probabilities: list[float], **recipe: float) -> GeneratorActor:
    checked = dataclasses.replace(painted, check="torchvision:resnet18/IMAGENET1K_V1", **recipe)
    return GeneratorActor(checked, ON_CPU, lambda recipe, config: ScriptedScorer(recipe, probabilities))


def test_scores_alone_refuse_no_image(painted: Recipe):
    actor = checked_actor(painted, [0.9, 0.2, 0.0, float("nan")])
    batch = actor.generate(range(4))
    assert batch["score"].dtype == np.float32  # pyright: ignore[reportTypedDictNotRequiredAccess]
    assert batch["score"].tolist() == pytest.approx([0.9, 0.2, 0, 0])  # pyright: ignore
    assert batch["attempt"].tolist() == [0, 0, 0, 0]
    np.testing.assert_array_equal(batch["image"], GeneratorActor(painted, ON_CPU).generate(range(4))["image"])


def test_score_below_the_threshold_costs_an_attempt_and_no_class_quota(painted: Recipe):
    actor = checked_actor(painted, [0.9, 0.2, 0.5, 0.4996, 0.1, 0.7, 0.6], keep_above=0.5)
    batch = actor.generate(range(4))  # 0.4996 is rounded to 0.5; index 1 is refused twice
    assert batch["attempt"].tolist() == [0, 2, 0, 0]
    assert batch["score"].tolist() == pytest.approx([0.9, 0.7, 0.5, 0.5])  # pyright: ignore
    assert batch["label"].tolist() == [plan_sample(painted, index).label for index in range(4)]
    assert actor.take_counts().num_refused == Counter(off_class=2)


def test_left_out_sample_scores_nothing(painted: Recipe):
    actor = checked_actor(painted, [0.9, 0.2, 0.8, 0.8, 0.3], keep_above=0.5, leave_out_after=2)
    batch = actor.generate(range(4))
    assert (batch["label"][1], batch["attempt"][1], batch["image"][1].any()) == (NO_LABEL, 2, False)
    assert batch["score"].tolist() == pytest.approx([0.9, 0, 0.8, 0.8])  # pyright: ignore


def test_last_refusal_names_the_threshold(painted: Recipe):
    actor = checked_actor(painted, [0.0] * 40, keep_above=0.5)
    with pytest.raises(ImagesRefusedError, match=r"the last as off_class\. .* or recipe.precision, lower recipe.keep_"):
        actor.generate([0])


def test_samples_without_a_check_have_no_score(painted: Recipe):
    assert "score" not in GeneratorActor(painted, ON_CPU).generate([0])


def test_check_without_a_scorer_is_an_error(painted: Recipe):
    with pytest.raises(ValueError, match="this job cannot score images"):
        GeneratorActor(dataclasses.replace(painted, check="timm:resnet18"), ON_CPU)


def test_scores_are_counted_by_class_and_template(painted: Recipe):
    actor = checked_actor(painted, [0.9, 0.2, 0.5, 0.6, 0.8], keep_above=0.5)
    batch = actor.generate(range(4))
    scores = actor.take_counts().scores
    second = painted.label_space.class_names[batch["label"][1]]
    template = painted.templates[0]
    assert (scores.num_scored["all images"], scores.num_scored[f"template {template}"]) == (5, 5)
    assert scores.means()[f"class {second}"] == pytest.approx((0.2 + 0.8) / 2)
    assert scores.means()["all images"] == pytest.approx(3.0 / 5)
    shown = {kind: [(each.score, each.index, each.attempt) for each in images] for kind, images in scores.shown.items()}
    accepted = [(0.9, 0, 0), (0.8, 1, 1), (0.6, 3, 0), (0.5, 2, 0)]
    assert [[(pytest.approx(score), *rest) for score, *rest in each] for each in (accepted, [*reversed(accepted)])] == [
        shown["highest scores"],
        shown["lowest accepted scores"],
    ]
    assert shown["highest refused scores"] == [(pytest.approx(0.2), 1, 0)]
    np.testing.assert_array_equal(scores.shown["highest scores"][1].image, batch["image"][1])


def test_extreme_images_are_reported_once_and_add_up_over_actors(painted: Recipe):
    counts = WorkCounts()
    first, second = checked_actor(painted, [*[0.5] * 8, 0.9, 0.1, 0.5, 0.5]), checked_actor(painted, [0.95, 0.4])
    first.generate(range(8))
    counts.add(first.take_counts())
    first.generate(range(8, 12))
    reported = first.take_counts()
    assert [each.score for each in reported.scores.shown["highest scores"]] == [pytest.approx(0.9)]
    assert [each.score for each in reported.scores.shown["lowest accepted scores"]] == [pytest.approx(0.1)]
    second.generate(range(12, 14))
    counts.add(reported)
    counts.add(second.take_counts())
    best = [round(each.score, 3) for each in counts.scores.shown["highest scores"]]
    assert best == [0.95, 0.9, *[0.5] * 6]
    assert counts.scores.num_scored["all images"] == 14


def test_share_of_the_scores_is_that_since_sharing_began_with_the_same_means():
    shown = {"highest scores": [ScoredImage(0.9, 0, 0, "zero", np.zeros((1, 1, 3), np.uint8))]}
    before = GenerationCounts(scores=ScoreCounts(Counter({"all images": 10}), Counter({"all images": 1000})))
    now = ScoreCounts(
        Counter({"all images": 30, "class zero": 7, "class one": 1}),
        Counter({"all images": 13_000, "class zero": 700, "class one": 900}),
        shown,
    )
    scores = GenerationCounts(scores=now).share(before, 0.5).scores
    assert scores.num_scored == {"all images": 10, "class zero": 4}  # half of an image is none
    assert scores.means() == {"class zero": 0.1, "all images": 0.6}
    assert scores.shown is shown
