import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from evaluation import transfer
from evaluation.transfer import (
    Classifier,
    Labelled,
    Settings,
    Solver,
    Transfer,
    fit_lbfgs,
    fit_sgd,
    fit_transfer,
    held_out_rows,
    log_odds_average,
    mean_per_class,
)

BOTH = pytest.mark.parametrize("solver", ["lbfgs", "sgd"])


@pytest.fixture(autouse=True)
def one_thread():
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(num_threads)


def on_a_line(*values: float) -> Labelled:
    """Return two images a value: class 9 at the value, class 4 at its negative."""
    features = np.array([[sign * value] for value in values for sign in (1, -1)], dtype=np.float32)
    return Labelled(features, np.tile([9, 4], len(values)))


def clouds(num_images: int, seed: int) -> Labelled:
    """Return three Gaussian clouds that overlap, around corners of a triangle of side 2 * sqrt(2)."""
    labels = np.arange(num_images) % 3
    features = 2 * np.eye(3)[labels] + np.random.default_rng(seed).normal(size=(num_images, 3))
    return Labelled(features.astype(np.float32), labels)


def unit(labelled: Labelled) -> Labelled:
    return replace(labelled, features=labelled.features / np.linalg.norm(labelled.features, axis=1, keepdims=True))


@BOTH
def test_classes_on_two_sides_of_zero_are_told_apart(solver: Solver):
    found = fit_transfer(on_a_line(1, 2, 3, 4, 5), on_a_line(0.5, 6, 1.5), solver, num_trials=4)
    assert (found.top1, found.mean_per_class, found.validation_top1) == (1.0, 1.0, 1.0)
    assert (found.num_trainval, found.num_test, found.num_classes) == (10, 6, 2)
    assert found.learning_rate == 0.0 if solver == "lbfgs" else 0.1 <= found.learning_rate <= 100


@BOTH
def test_features_that_say_nothing_need_a_strong_penalty_and_give_the_majority(solver: Solver):
    # 80 dimensions of noise separate 120 images: weights that are free learn them by heart.
    random = np.random.default_rng(0)
    labels = np.arange(120) % 5 // 4
    trainval = Labelled(random.normal(size=(120, 80)), labels)
    test = Labelled(random.normal(size=(500, 80)), np.arange(500) % 5 // 4)
    found = fit_transfer(trainval, test, solver, num_trials=20)
    assert found.C < 1
    assert (found.top1, found.mean_per_class, found.validation_top1) == (0.8, 0.5, pytest.approx(19 / 23))


def test_a_weak_signal_needs_a_weak_penalty():
    # The majority is 0.8: only weights far above 1 turn features of 0.001 into anything else.
    labels = np.arange(50) % 5 // 4
    trainval = Labelled(0.001 * (2 * labels[:, None] - 1.0), labels)
    found = fit_transfer(trainval, trainval, "lbfgs", num_trials=20)
    assert found.C > 1000
    assert found.top1 == 1.0


@BOTH
def test_test_images_are_classified_once_after_a_fit_to_all_others(solver: Solver, monkeypatch: pytest.MonkeyPatch):
    fitted, classified = [], []

    def fit(train: Labelled, settings: Settings, _seed: int) -> Classifier:
        fitted.append((len(train.labels), settings))

        def classify(features: np.ndarray) -> np.ndarray:
            classified.append(features)
            return np.full(len(features), int(settings.C > 1))  # the first class is the larger

        return classify

    monkeypatch.setitem(transfer.FITS, solver, fit)
    trainval = Labelled(np.arange(15.0)[:, None], np.repeat([0, 1], [10, 5]))
    test = Labelled(np.arange(3.0)[:, None] + 100, np.array([0, 1, 0]))
    found = fit_transfer(trainval, test, solver, num_trials=12)
    assert [num_images for num_images, _ in fitted] == [12] * 12 + [15]
    assert [len(features) for features in classified] == [3] * 13
    assert [bool((features >= 100).all()) for features in classified] == [False] * 12 + [True]
    assert fitted[-1][1] == Settings(found.C, found.learning_rate)
    assert found.C <= 1
    assert (found.top1, found.mean_per_class, found.validation_top1) == (2 / 3, 0.5, 2 / 3)


@BOTH
def test_a_seed_decides_all(solver: Solver):
    def found(seed: int) -> Transfer:
        return fit_transfer(clouds(60, 0), clouds(60, 1), solver, seed, num_trials=3)

    assert found(0) == found(0)
    assert found(0).C != found(1).C


def test_both_solvers_agree_on_clouds_of_unit_length():
    trainval, test = unit(clouds(300, 0)), unit(clouds(600, 1))
    by_lbfgs, by_sgd = (fit_transfer(trainval, test, solver, num_trials=6) for solver in ("lbfgs", "sgd"))
    assert 0.7 < by_lbfgs.top1 < 0.95
    assert by_sgd.top1 == pytest.approx(by_lbfgs.top1, abs=0.03)
    assert by_sgd.mean_per_class == pytest.approx(by_sgd.top1)  # 200 test images a class


@pytest.mark.parametrize("penalty", [0.01, 1.0, 100.0])
def test_a_penalty_means_the_same_to_both_solvers(penalty: float):
    trainval, test = unit(clouds(300, 0)), unit(clouds(600, 1))
    by_lbfgs = fit_lbfgs(trainval, Settings(penalty), 0)(test.features)
    by_sgd = fit_sgd(trainval, Settings(penalty, 10.0), 0)(test.features)
    assert np.mean(by_lbfgs == by_sgd) > 0.97


def test_sgd_with_the_strongest_penalty_and_the_highest_rate_still_ends():
    labels = np.array([1, 0, 0, 1, 1])
    classify = fit_sgd(Labelled(np.ones((5, 2)), labels), Settings(1e-5, 100.0), 0)
    assert classify(np.zeros((2, 2))).tolist() == [1, 1]


def test_sgd_takes_no_length_into_account():
    trainval = clouds(60, 0)
    scale = np.linspace(0.01, 100, 60, dtype=np.float32)[:, None]
    once, scaled = (
        fit_sgd(each, Settings(1.0, 1.0), 0)(clouds(60, 1).features)
        for each in (trainval, replace(trainval, features=trainval.features * scale))
    )
    np.testing.assert_array_equal(once, scaled)


def test_a_fifth_of_each_class_is_held_out_and_of_small_classes_one_image():
    labels = np.repeat([3, 8, 5, 1], [11, 4, 2, 1])
    held_out = held_out_rows(labels, 0.2, seed=0)
    assert {label: int(held_out[labels == label].sum()) for label in (3, 8, 5, 1)} == {3: 2, 8: 1, 5: 1, 1: 0}
    np.testing.assert_array_equal(held_out, held_out_rows(labels, 0.2, seed=0))
    assert any((held_out_rows(labels, 0.2, seed) != held_out).any() for seed in range(1, 9))


def test_classes_count_alike_whatever_their_size():
    hits = np.array([True, True, True, False, False])
    assert mean_per_class(hits, np.array([7, 7, 7, 7, 2])) == (3 / 4 + 0) / 2


def test_log_odds_of_nine_to_one_and_one_to_one():
    assert log_odds_average([0.9, 0.5], [10, 10]) == pytest.approx(math.log(9) / 2)


def test_perfect_sets_count_as_half_an_image_from_perfect():
    # 1 - 1/20 has odds of 19 to 1; 1/8 has odds of 1 to 7.
    assert log_odds_average([1.0], [10]) == pytest.approx(math.log(19))
    assert log_odds_average([1.0, 0.0], [10, 4]) == pytest.approx((math.log(19) - math.log(7)) / 2)


@pytest.mark.parametrize(
    ("accuracies", "num_test", "message"),
    [
        ([], [], "There are 0 accuracies"),
        ([0.5], [3, 4], r"1 accuracies for sets of \[3, 4\]"),
        ([0.5], [0], r"sets of \[0\] test images"),
        ([0.5, 76.1], [3, 4], "An accuracy is 76.1"),
        ([math.nan], [3], "An accuracy is nan"),
    ],
)
def test_what_has_no_log_odds_is_refused(accuracies: list[float], num_test: list[int], message: str):
    with pytest.raises(ValueError, match=message):
        log_odds_average(accuracies, num_test)


FINE = Labelled(np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([5, 5, 6, 6]))


@pytest.mark.parametrize(
    ("trainval", "test", "message"),
    [
        (FINE, replace(FINE, labels=np.array([5, 6, 8, 7])), "test has 2 classes that trainval lacks, first 7"),
        (replace(FINE, labels=np.full(4, 5)), FINE, "images of class 5 alone"),
        (FINE, replace(FINE, features=np.ones((4, 2))), "features of 1 dimensions, test of 2"),
        (FINE, replace(FINE, features=FINE.features + math.nan), "test.features has NaN .* in 4 of 4 rows"),
        (replace(FINE, features=np.array([[0.0], [math.inf], [0.0], [0.0]])), FINE, "in 1 of 4 rows, first in row 1"),
        (replace(FINE, labels=np.array([5, 6])), FINE, r"trainval.labels has shape \[2\]"),
        (FINE, Labelled(np.zeros((0, 1)), np.zeros(0, np.int64)), r"test.features has shape \[0, 1\]"),
        (Labelled(np.eye(2), np.array([0, 1])), Labelled(np.eye(2), np.array([0, 1])), "0 validation images"),
    ],
)
def test_sets_that_do_not_fit_are_refused(trainval: Labelled, test: Labelled, message: str):
    with pytest.raises(ValueError, match=message):
        fit_transfer(trainval, test, "lbfgs", num_trials=1)


def test_no_trials_choose_nothing():
    with pytest.raises(ValueError, match="0 trials and 2 validation images"):
        fit_transfer(FINE, FINE, "sgd", num_trials=0)
