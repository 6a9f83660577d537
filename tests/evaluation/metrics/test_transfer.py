import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_info, threadpool_limits

from evaluation.metrics import transfer
from evaluation.metrics.transfer import (
    Fit,
    LabeledFeatures,
    Predictor,
    Settings,
    Solver,
    Transfer,
    classes_of,
    fit_lbfgs,
    fit_transfer,
    fitter,
    held_out_rows,
    log_odds_average,
    mean_per_class,
)

BOTH = pytest.mark.parametrize("solver", ["lbfgs", "sgd"])


@pytest.fixture(autouse=True)
def one_thread_for_torch():
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def on_a_line(*values: float) -> LabeledFeatures:
    """Return two images per value: class 9 at the value, class 4 at its negative."""
    features = np.array([[sign * value] for value in values for sign in (1, -1)], dtype=np.float32)
    return LabeledFeatures(features, np.tile([9, 4], len(values)))


def clouds(num_images: int, seed: int) -> LabeledFeatures:
    """Return three overlapping Gaussian clouds around the corners of a triangle with side 2 * sqrt(2)."""
    labels = np.arange(num_images) % 3
    features = 2 * np.eye(3)[labels] + np.random.default_rng(seed).normal(size=(num_images, 3))
    return LabeledFeatures(features.astype(np.float32), labels)


def fitted(trainval: LabeledFeatures, solver: Solver, settings: Settings) -> Predictor:
    """Return a classifier fitted to all images with seed 0."""
    return fitter(trainval, solver, 0, "cpu")(np.arange(len(trainval.labels)), settings)


def unit(labelled: LabeledFeatures) -> LabeledFeatures:
    return replace(labelled, features=labelled.features / np.linalg.norm(labelled.features, axis=1, keepdims=True))


@BOTH
def test_classes_on_two_sides_of_zero_are_separated(solver: Solver):
    found = fit_transfer(on_a_line(1, 2, 3, 4, 5), on_a_line(0.5, 6, 1.5), solver, num_trials=4)
    assert (found["top1"], found["mean_per_class"], found["validation_top1"]) == (1.0, 1.0, 1.0)
    assert (found["num_trainval"], found["num_test"], found["num_classes"]) == (10, 6, 2)
    assert found["learning_rate"] == 0.0 if solver == "lbfgs" else 0.1 <= found["learning_rate"] <= 100


@BOTH
def test_noise_features_need_strong_regularization(solver: Solver):
    # 80 dimensions of noise separate 120 images: unregularized weights memorize them.
    random = np.random.default_rng(0)
    labels = np.arange(120) % 5 // 4
    trainval = LabeledFeatures(random.normal(size=(120, 80)), labels)
    test = LabeledFeatures(random.normal(size=(500, 80)), np.arange(500) % 5 // 4)
    found = fit_transfer(trainval, test, solver, num_trials=20)
    assert found["C"] < 1
    assert (found["top1"], found["mean_per_class"], found["validation_top1"]) == (0.8, 0.5, pytest.approx(19 / 23))


def test_weak_signal_needs_weak_regularization():
    # The majority is 0.8: features of 0.001 need weights far above 1 to matter.
    labels = np.arange(50) % 5 // 4
    trainval = LabeledFeatures(0.001 * (2 * labels[:, None] - 1.0), labels)
    found = fit_transfer(trainval, trainval, "lbfgs", num_trials=20)
    assert found["C"] > 1000
    assert found["top1"] == 1.0


@BOTH
def test_test_images_are_classified_once_after_a_fit_to_all_others(solver: Solver, monkeypatch: pytest.MonkeyPatch):
    fits, classified = [], []

    def fit(rows: np.ndarray, settings: Settings) -> Predictor:
        fits.append((rows.tolist(), settings))

        def classify(features: np.ndarray) -> np.ndarray:
            classified.append(features.ravel().tolist())
            return np.full(len(features), int(settings.C > 1))  # the first class is the larger

        return classify

    def fitter(_trainval: LabeledFeatures, _solver: Solver, _seed: int, _device: str) -> Fit:
        return fit

    monkeypatch.setattr(transfer, "fitter", fitter)
    trainval = LabeledFeatures(np.arange(15.0)[:, None], np.repeat([0, 1], [10, 5]))
    test = LabeledFeatures(np.arange(3.0)[:, None] + 100, np.array([0, 1, 0]))
    found = fit_transfer(trainval, test, solver, num_trials=12)
    # Features are the row numbers: held-out rows are only in the last fit.
    assert [sorted(rows + values) for (rows, _), values in zip(fits[:-1], classified[:-1], strict=True)] == 12 * [
        list(range(15))
    ]
    assert [len(values) for values in classified] == [3] * 13
    assert (fits[-1][0], classified[-1]) == (list(range(15)), [100, 101, 102])
    assert fits[-1][1] == Settings(found["C"], found["learning_rate"])
    assert found["C"] <= 1
    assert (found["top1"], found["mean_per_class"], found["validation_top1"]) == (2 / 3, 0.5, 2 / 3)


@BOTH
def test_seed_determines_the_result(solver: Solver):
    def found(seed: int) -> Transfer:
        return fit_transfer(clouds(60, 0), clouds(60, 1), solver, seed=seed, num_trials=3)

    assert found(0) == found(0)
    assert found(0)["C"] != found(1)["C"]


def test_both_solvers_agree_on_clouds_of_unit_length():
    trainval, test = unit(clouds(300, 0)), unit(clouds(600, 1))
    by_lbfgs, by_sgd = (fit_transfer(trainval, test, solver, num_trials=6) for solver in ("lbfgs", "sgd"))
    assert 0.7 < by_lbfgs["top1"] < 0.95
    assert by_sgd["top1"] == pytest.approx(by_lbfgs["top1"], abs=0.03)
    assert by_sgd["mean_per_class"] == pytest.approx(by_sgd["top1"])  # 200 test images a class


@pytest.mark.parametrize("penalty", [0.01, 1.0, 100.0])
def test_regularization_is_the_same_in_both_solvers(penalty: float):
    trainval, test = unit(clouds(300, 0)), unit(clouds(600, 1))
    by_lbfgs = fitted(trainval, "lbfgs", Settings(penalty))(test.features)
    by_sgd = fitted(trainval, "sgd", Settings(penalty, 10.0))(test.features)
    assert np.mean(by_lbfgs == by_sgd) > 0.97


def test_sgd_with_the_strongest_penalty_and_the_highest_rate_still_ends():
    labels = np.array([1, 0, 0, 1, 1])
    classify = fitted(LabeledFeatures(np.ones((5, 2)), labels), "sgd", Settings(1e-5, 100.0))
    assert classify(np.zeros((2, 2))).tolist() == [1, 1]


def test_sgd_ignores_feature_length():
    trainval = clouds(60, 0)
    scale = np.linspace(0.01, 100, 60, dtype=np.float32)[:, None]
    once, scaled = (
        fitted(each, "sgd", Settings(1.0, 1.0))(clouds(60, 1).features)
        for each in (trainval, replace(trainval, features=trainval.features * scale))
    )
    np.testing.assert_array_equal(once, scaled)


@BOTH
def test_fit_uses_only_the_given_rows(solver: Solver):
    # The other rows contradict those of `on_a_line`, and outnumber them.
    line = on_a_line(1, 2, 3)
    features = np.concatenate([-line.features, line.features, -line.features])
    mixed = LabeledFeatures(features, np.tile(line.labels, 3) // 5)  # 4 and 9 to 0 and 1
    classify = fitter(mixed, solver, 0, "cpu")(np.arange(6, 12), Settings(1.0, 1.0))
    assert classify(np.array([[0.5], [-7.0]])).tolist() == [1, 0]


def test_features_are_classified_a_thousand_at_a_time_in_the_order_of_rows():
    sizes = []

    def classify(features: np.ndarray) -> np.ndarray:
        sizes.append(len(features))
        return features[:, 0]

    rows = np.arange(2999, -1, -2)
    np.testing.assert_array_equal(classes_of(classify, np.arange(3000)[:, None], rows), rows)
    assert sizes == [1024, 476]


def test_sgd_uses_read_only_features_without_a_copy(monkeypatch: pytest.MonkeyPatch):
    places = []
    monkeypatch.setattr(transfer, "fit_sgd", lambda features, *_: places.append(features.data_ptr()))
    features = clouds(6, 0).features
    features.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted(LabeledFeatures(features, np.arange(6) % 3), "sgd", Settings(1.0, 1.0))
    assert places == [features.ctypes.data]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_sgd_on_a_gpu_agrees_with_the_cpu():
    trainval, test = unit(clouds(300, 0)), unit(clouds(600, 1))
    by_cpu, by_gpu = (fit_transfer(trainval, test, "sgd", device, num_trials=3) for device in ("cpu", "cuda"))
    assert by_gpu["top1"] == pytest.approx(by_cpu["top1"], abs=0.01)


def test_lbfgs_uses_one_blas_thread(monkeypatch: pytest.MonkeyPatch):
    def blas_threads() -> set[int]:
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    during = []
    fit = LogisticRegression.fit
    monkeypatch.setattr(
        LogisticRegression, "fit", lambda self, *images: [during.append(blas_threads()), fit(self, *images)][1]
    )
    with threadpool_limits(2, user_api="blas"):
        fit_lbfgs(clouds(30, 0), np.arange(30), Settings(1.0))
        after = blas_threads()
    assert (during, after) == ([{1}], {2})


def test_unconverged_fit_is_used_without_warning(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(transfer, "LBFGS_ITERATIONS", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classify = fitted(on_a_line(1, 2), "lbfgs", Settings(1.0))
    assert classify(np.array([[1.5], [-1.5]])).tolist() == [9, 4]


def test_one_fifth_of_each_class_is_held_out():
    labels = np.repeat([3, 8, 5, 1], [11, 4, 2, 1])
    held_out = held_out_rows(labels, 0.2, seed=0)
    assert {label: int(held_out[labels == label].sum()) for label in (3, 8, 5, 1)} == {3: 2, 8: 1, 5: 1, 1: 0}
    np.testing.assert_array_equal(held_out, held_out_rows(labels, 0.2, seed=0))
    assert any((held_out_rows(labels, 0.2, seed) != held_out).any() for seed in range(1, 9))


def test_classes_have_equal_weight():
    hits = np.array([True, True, True, False, False])
    assert mean_per_class(hits, np.array([7, 7, 7, 7, 2])) == (3 / 4 + 0) / 2


def test_log_odds_of_nine_to_one_and_one_to_one():
    assert log_odds_average([0.9, 0.5], [10, 10]) == pytest.approx(math.log(9) / 2)


def test_perfect_accuracy_is_clipped_by_half_an_image():
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
def test_invalid_accuracies_are_refused(accuracies: list[float], num_test: list[int], message: str):
    with pytest.raises(ValueError, match=message):
        log_odds_average(accuracies, num_test)


FINE = LabeledFeatures(np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([5, 5, 6, 6]))


@pytest.mark.parametrize(
    ("trainval", "test", "message"),
    [
        (FINE, replace(FINE, labels=np.array([5, 6, 8, 7])), "test has 2 classes that trainval lacks, first 7"),
        (replace(FINE, labels=np.full(4, 5)), FINE, "only images of class 5"),
        (FINE, replace(FINE, features=np.ones((4, 2))), "features of 1 dimensions, test of 2"),
        (FINE, replace(FINE, features=FINE.features + math.nan), "test.features has NaN .* in 4 of 4 rows"),
        (replace(FINE, features=np.array([[0.0], [math.inf], [0.0], [0.0]])), FINE, "in 1 of 4 rows, first in row 1"),
        (replace(FINE, labels=np.array([5, 6])), FINE, r"trainval.labels has shape \[2\]"),
        (FINE, LabeledFeatures(np.zeros((0, 1)), np.zeros(0, np.int64)), r"test.features has shape \[0, 1\]"),
        (
            LabeledFeatures(np.eye(2), np.array([0, 1])),
            LabeledFeatures(np.eye(2), np.array([0, 1])),
            "0 validation images",
        ),
    ],
)
def test_inconsistent_sets_are_refused(trainval: LabeledFeatures, test: LabeledFeatures, message: str):
    with pytest.raises(ValueError, match=message):
        fit_transfer(trainval, test, "lbfgs", num_trials=1)


def test_zero_trials_are_refused():
    with pytest.raises(ValueError, match="0 trials and 2 validation images"):
        fit_transfer(FINE, FINE, "sgd", num_trials=0)
