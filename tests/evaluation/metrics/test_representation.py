import math

import numpy as np
import pytest

from evaluation.metrics import representation
from evaluation.metrics.representation import (
    coding_length,
    describe,
    feature_redundancy,
    intra_class_distance,
    mean_pairwise_distance,
    sparsity,
)


def test_activation_at_the_threshold_counts_as_zero():
    features = np.array([[0.0, 1e-5, -2.0], [0.5, -1e-6, 0.0]])
    assert sparsity(features) == 4 / 6


def test_classes_have_equal_weight_and_features_are_normalized():
    features = np.array([[3.0, 0.0], [0.0, 5.0], [1.0, 0.0], [2.0, 0.0], [-4.0, 0.0]])
    labels = np.array([7, 7, 2, 2, 2])
    # Class 7: (1, 0) and (0, 1). Class 2: (1, 0), (1, 0), (-1, 0) with distances 0, 2, 2.
    assert intra_class_distance(features, labels) == pytest.approx((math.sqrt(2) + 4 / 3) / 2)


def test_class_with_one_image_has_no_distance():
    features = np.array([[3.0, 0.0], [0.0, 5.0], [1.0, 1.0]])
    assert intra_class_distance(features, np.array([0, 0, 1])) == pytest.approx(math.sqrt(2))


def test_dead_feature_vector_stays_at_the_origin():
    assert intra_class_distance(np.array([[0.0, 0.0], [0.0, 9.0]]), np.array([0, 0])) == 1.0


def test_distances_in_blocks_of_two_rows_are_those_of_a_loop(monkeypatch: pytest.MonkeyPatch):
    points = np.random.default_rng(0).normal(size=(61, 3))
    pairs = [np.linalg.norm(points[i] - points[j]) for i in range(61) for j in range(i)]
    monkeypatch.setattr(representation, "BLOCK_MEBIBYTES", 0.001)
    assert mean_pairwise_distance(points) == pytest.approx(np.mean(pairs))


def test_redundancy_is_the_mean_over_pairs_of_different_dimensions():
    # x, then a dimension uncorrelated with it, then -2x: magnitudes 0, 1, 0.
    assert feature_redundancy(np.array([[-1.0, 1.0, 2.0], [0.0, -2.0, 0.0], [1.0, 1.0, -2.0]])) == pytest.approx(1 / 3)


def test_redundancy_of_two_half_correlated_dimensions_is_a_half():
    assert feature_redundancy(np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]])) == pytest.approx(0.5)


def test_constant_dimensions_do_not_change_the_redundancy():
    # The mean of 0.1 is not exact in binary, so its deviation from the mean may not be zero.
    features = np.array([[0.0, 0.1, 0.0], [0.0, 0.1, 1.0], [1.0, 0.1, 1.0]])
    assert feature_redundancy(features) == pytest.approx(0.5)


def test_coding_length_of_orthogonal_features():
    # d = m = 2 and eps^2 = 0.5: det(I + 2 I) = 9. Lengths do not matter.
    assert coding_length(np.array([[3.0, 0.0], [0.0, 0.1]])) == pytest.approx(math.log(9) / 2)


def test_coding_length_of_one_image_has_one_factor():
    # d = 3, m = 1: 1 + 3 / 0.5 = 7.
    assert coding_length(np.array([[1.0, 2.0, 2.0]])) == pytest.approx(math.log(7) / 2)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5)])
def test_smaller_gram_matrix_gives_the_formula_of_the_source(shape: tuple[int, int]):
    features = np.random.default_rng(1).normal(size=shape)
    z = (features / np.linalg.norm(features, axis=1, keepdims=True)).T
    d, m = z.shape
    assert coding_length(features) == pytest.approx(0.5 * math.log(np.linalg.det(np.eye(d) + d / (m * 0.5) * z @ z.T)))


def test_describe_accepts_single_precision():
    features = np.array([[3.0, 0.0], [0.0, 5.0]], dtype=np.float32)
    described = describe(features, np.array([1, 1]))
    assert list(described.values()) == pytest.approx([0.5, math.sqrt(2), 1.0, math.log(3)])


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((0, 3)), r"shape \[0, 3\]"),
        (np.zeros((3, 0)), r"shape \[3, 0\]"),
        (np.zeros(3), r"shape \[3\]"),
        (np.array([[0.0, 1.0], [np.nan, 1.0]]), "1 of 2 rows, first in row 1"),
        (np.array([[np.inf, 1.0], [0.0, 1.0]]), "1 of 2 rows, first in row 0"),
    ],
)
def test_invalid_features_are_refused(features: np.ndarray, message: str):
    with pytest.raises(ValueError, match=message):
        describe(features, np.zeros(len(features), dtype=np.int64))


@pytest.mark.parametrize("labels", [np.array([0]), np.array([[0, 0]]), np.array([0.0, 1.0])])
def test_labels_that_do_not_fit_are_refused(labels: np.ndarray):
    with pytest.raises(ValueError, match="one integer per feature vector"):
        describe(np.eye(2), labels)


def test_features_without_pairs_are_refused():
    with pytest.raises(ValueError, match="None of the 2 images"):
        intra_class_distance(np.eye(2), np.array([0, 1]))
    with pytest.raises(ValueError, match="1 of 2 feature dimensions vary"):
        feature_redundancy(np.array([[0.0, 1.0], [1.0, 1.0]]))
