import math

import numpy as np
import pytest

from evaluation.metrics import representation
from evaluation.metrics.likeness import (
    ClassifiedImages,
    Overlap,
    equal_numbers,
    frechet_distance,
    neighbour_radii,
    overlap,
    quality_report,
)

LABELS = np.array([0, 0, 0, 1, 1, 1])
NAMES = ("zero", "one")
REAL = ClassifiedImages(LABELS, np.array([[0.0], [1.0], [3.0], [10.0], [11.0], [13.0]]), np.array([0, 0, 1, 1, 1, 1]))


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)[:, None]


def test_point_is_not_its_own_neighbour():
    assert neighbour_radii(column(0, 1, 3, 7), 1).tolist() == [1, 1, 2, 4]
    assert neighbour_radii(column(0, 1, 3, 7), 2).tolist() == [3, 2, 3, 6]
    assert neighbour_radii(column(0, 1, 3, 7), 3).tolist() == [7, 6, 4, 7]


def test_copies_are_neighbours_at_distance_zero():
    assert neighbour_radii(column(2, 2, 2, 5), 2).tolist() == [0, 0, 0, 3]


def test_overlap_on_a_line():
    # Real radii 4, 2, 2, 2, 2; generated radii 3.5, 1, 1, 15.
    # 0.5 is near -3 and 1; 4 near 3; 5 is at the very edge of 3 and 7, which is outside; 20 near none.
    # 7 and 9 have no generated neighbour but lie in the ball of 20; -3 is at the edge of that of 0.5.
    assert overlap(column(-3, 1, 3, 7, 9), column(0.5, 4, 5, 20), 1) == Overlap(
        precision=2 / 4, recall=4 / 5, density=3 / 4, coverage=3 / 5
    )


def test_overlap_around_a_square():
    square = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    generated = np.array([[0.5, 0.5], [0.5, -0.5], [2.0, 0.0]])
    # With two neighbours the corners' radii are 1. The centre is in four balls, the point below in two.
    # (2, 0) is at an edge.
    assert overlap(square, generated, 2) == Overlap(precision=2 / 3, recall=1.0, density=6 / (2 * 3), coverage=1.0)


def test_swapping_sets_swaps_precision_and_recall():
    generator = np.random.default_rng(3)
    real, generated = generator.normal(size=(40, 2)), generator.normal(1, 1, size=(30, 2))
    assert overlap(real, generated).precision == overlap(generated, real).recall


def test_set_overlaps_itself_completely():
    points = np.random.default_rng(4).normal(size=(50, 3))
    itself = overlap(points, points.copy())
    assert (itself.precision, itself.recall, itself.coverage) == (1.0, 1.0, 1.0)
    # Each ball holds its centre and k - 1 others; the k-th is on its edge.
    assert overlap(column(0, 1, 3, 7), column(0, 1, 3, 7), 2).density == 1.0


def test_distant_sets_do_not_overlap():
    assert overlap(column(0, 1, 2), column(100, 101, 102), 1) == Overlap(0.0, 0.0, 0.0, 0.0)


def naive_overlap(real: np.ndarray, generated: np.ndarray, k: int) -> Overlap:
    def radius(points: np.ndarray, i: int) -> float:
        return sorted(math.dist(points[i], points[j]) for j in range(len(points)) if j != i)[k - 1]

    real_radii = [radius(real, i) for i in range(len(real))]
    generated_radii = [radius(generated, j) for j in range(len(generated))]
    hits = [[math.dist(x, y) < r for x, r in zip(real, real_radii, strict=True)] for y in generated]
    recalls = [[math.dist(x, y) < r for y, r in zip(generated, generated_radii, strict=True)] for x in real]
    return Overlap(
        precision=sum(any(row) for row in hits) / len(generated),
        recall=sum(any(row) for row in recalls) / len(real),
        density=sum(sum(row) for row in hits) / (k * len(generated)),
        coverage=sum(any(row) for row in zip(*hits, strict=True)) / len(real),
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [1, 5])
def test_blocks_match_a_plain_loop(seed: int, k: int, monkeypatch: pytest.MonkeyPatch):
    generator = np.random.default_rng(seed)
    real, generated = generator.normal(size=(37, 4)), generator.normal(0.5, 0.8, size=(43, 4))
    monkeypatch.setattr(representation, "BLOCK_MEBIBYTES", 0.001)
    got, expected = overlap(real, generated, k), naive_overlap(real, generated, k)
    assert (got.precision, got.recall, got.coverage) == (expected.precision, expected.recall, expected.coverage)
    assert got.density == pytest.approx(expected.density)


def test_frechet_distance_on_a_line_is_that_of_means_and_deviations():
    # Means 0 and 4, variances 2 and 18: 16 + (sqrt(18) - sqrt(2))^2.
    assert frechet_distance(column(-1, 1), column(1, 7)) == pytest.approx(16 + 8)


def mirrored(*points: tuple[float, float]) -> np.ndarray:
    """Return k points p and their opposites: their mean is 0, their covariance twice the sum of p p^T, over 2k - 1."""
    return np.array([*points, *((-x, -y) for x, y in points)])


def test_frechet_distance_of_gaussians_that_do_not_commute_has_its_closed_form():
    # Covariances ((2, 1), (1, 2)) and ((3, 0), (0, 1)), means 0 and (3, 4). In two dimensions
    # Tr (S T)^(1/2) = sqrt(Tr S T + 2 sqrt(det S T)): here sqrt(8 + 2 * 3).
    s = mirrored((1.5, 1.5), (math.sqrt(0.75), -math.sqrt(0.75)))
    t = mirrored((math.sqrt(4.5), 0), (0, math.sqrt(1.5))) + np.array([3.0, 4.0])
    np.testing.assert_allclose(np.cov(s, rowvar=False), [[2, 1], [1, 2]])
    expected = 25 + 4 + 4 - 2 * math.sqrt(14)
    assert frechet_distance(s, t) == pytest.approx(expected)
    assert frechet_distance(t, s) == pytest.approx(expected)


def test_frechet_distance_to_a_point_is_the_variance():
    # A Gaussian without width has no common covariance: |m|^2 + Tr S, with variances 2 and 5.
    points = mirrored((math.sqrt(3), 0), (0, math.sqrt(7.5)))
    assert frechet_distance(points, np.zeros((3, 2))) == pytest.approx(7)


def test_frechet_distance_of_few_images_ignores_the_dimensions_they_lack():
    generator = np.random.default_rng(7)
    few, many = generator.normal(size=(4, 3)), generator.normal(1, 2, size=(20, 3))
    wide = np.zeros((3, 50))
    wide[:, 5:8] = np.linalg.qr(generator.normal(size=(3, 3)))[0]
    assert frechet_distance(few @ wide, many @ wide) == pytest.approx(frechet_distance(few, many))


@pytest.mark.parametrize("shape", [(50, 4), (5, 40)])
def test_frechet_distance_of_a_shifted_set_is_the_squared_shift(shape: tuple[int, int]):
    points = np.random.default_rng(5).normal(size=shape)
    assert frechet_distance(points, points) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(points, points + 0.5) == pytest.approx(0.25 * shape[1])


def test_frechet_distance_is_symmetric():
    generator = np.random.default_rng(6)
    real, generated = generator.normal(size=(30, 8)), generator.normal(1, 2, size=(6, 8))
    assert frechet_distance(real, generated) == pytest.approx(frechet_distance(generated, real))


def test_recognised_is_the_fraction_classified_as_the_label():
    assert REAL.recognised() == pytest.approx(5 / 6)
    assert [REAL.at(np.equal(LABELS, label)).recognised() for label in (0, 1)] == [pytest.approx(2 / 3), 1.0]


def test_copy_of_the_real_images_has_full_coverage():
    report = quality_report(REAL, REAL, NAMES, num_neighbours=1)
    overall = report["overall"]
    assert (overall["precision"], overall["recall"], overall["coverage"]) == (1.0, 1.0, 1.0)
    assert overall["frechet_distance"] == pytest.approx(0.0, abs=1e-9)
    assert overall["diversity"] == overall["real_diversity"] == pytest.approx(2.0)  # of 1, 2 and 3 in each class
    assert overall["recognised"] == overall["real_recognised"] == pytest.approx(5 / 6)
    assert [(row["class_name"], row["num_real"]) for row in report["per_class"]] == [("zero", 3), ("one", 3)]


def test_identical_images_have_high_precision_and_low_coverage():
    same = ClassifiedImages(LABELS, np.array([[1.0], [1.0], [1.0], [11.0], [11.0], [11.0]]), LABELS)
    overall = quality_report(REAL, same, NAMES, num_neighbours=1)["overall"]
    assert (overall["precision"], overall["diversity"], overall["recognised"]) == (1.0, 0.0, 1.0)
    assert overall["coverage"] < 0.5


def seen(features: np.ndarray, *labels: int) -> ClassifiedImages:
    """Return images that are classified as their labels."""
    return ClassifiedImages(np.array(labels), features, np.array(labels))


def test_diversity_is_the_mean_distance_within_a_class():
    # Class 0: distances 1, 3, 2, mean 2; class 1: 10.
    assert seen(column(0, 1, 3, 50, 60), 0, 0, 0, 1, 1).diversity() == pytest.approx(6)


def test_quality_report_has_each_class_and_overall():
    real = seen(column(0, 1, 3, 50, 60), 4, 4, 4, 9, 9)
    generated = seen(column(0, 2, 5, 1000, 1008), 4, 4, 4, 9, 9)
    found = quality_report(real, generated, "abcdefghij", num_neighbours=1)
    four, nine = found["per_class"]
    assert [(row["label"], row["class_name"]) for row in (four, nine)] == [(4, "e"), (9, "j")]
    assert (four["num_real"], four["num_generated"]) == (3, 3)
    assert four["diversity"] == pytest.approx(10 / 3)  # of 2, 3 and 5
    assert shared_by(four) == overlap(column(0, 1, 3), column(0, 2, 5), 1)
    assert shared_by(nine) == Overlap(0.0, 0.0, 0.0, 0.0)
    # Means 55 and 1004, variances 50 and 32.
    assert nine["frechet_distance"] == pytest.approx(949**2 + (math.sqrt(50) - math.sqrt(32)) ** 2)
    overall = found["overall"]
    assert (overall["num_real"], overall["num_generated"]) == (5, 5)
    assert overall["diversity"] == pytest.approx((10 / 3 + 8) / 2)
    assert shared_by(overall) == overlap(real.features, generated.features, 1)


def shared_by(row: dict[str, float]) -> Overlap:
    return Overlap(row["precision"], row["recall"], row["density"], row["coverage"])


def test_classes_are_compared_at_equal_numbers():
    labels, other_labels = np.array([4, 9, 4, 4, 9]), np.array([9, 4, 9, 4, 9, 9])
    rows, other_rows = equal_numbers(labels, other_labels, seed=0)
    assert sorted(labels[rows].tolist()) == sorted(other_labels[other_rows].tolist()) == [4, 4, 9, 9]
    assert len(set(other_rows.tolist())) == 4
    drawn = {tuple(equal_numbers(labels, other_labels, seed)[0].tolist()) for seed in range(20)}
    assert len(drawn) == 3  # one of three images of class 4 is dropped


def test_coverage_does_not_grow_with_the_number_of_images():
    random = np.random.default_rng(0)
    real, generated = random.normal(size=(50, 4)), random.normal(size=(5000, 4))
    once, often = (
        quality_report(seen(real, *[0] * 50), seen(generated[:num], *[0] * num), NAMES)["overall"] for num in (50, 5000)
    )
    assert often["num_generated"] == 50
    assert abs(often["coverage"] - once["coverage"]) < 0.2
    assert overlap(real, generated).coverage == 1.0  # as it was


def test_class_in_only_one_set_is_refused():
    with pytest.raises(ValueError, match=r"1 class\(es\) have only real or only generated images, first 2"):
        quality_report(seen(column(0, 1), 1, 1), seen(column(0, 1, 2), 1, 1, 2), NAMES, 1)


def test_too_few_images_for_the_neighbours_are_refused_by_class():
    with pytest.raises(ValueError, match=r"2 generated images of class 1, too few for 2 neighbours.*at least 3"):
        quality_report(seen(column(0, 1, 2), 1, 1, 1), seen(column(0, 1), 1, 1), NAMES, 2)
    with pytest.raises(ValueError, match="num_neighbours is 0"):
        quality_report(REAL, REAL, NAMES, 0)


def test_features_of_two_networks_are_refused():
    with pytest.raises(ValueError, match="2 dimensions and generated features 3"):
        quality_report(seen(np.eye(2), 0, 0), seen(np.eye(3), 0, 0, 0), NAMES, 1)


def test_invalid_features_are_named():
    with pytest.raises(ValueError, match="generated has NaN or infinite values in 1 of 2 rows"):
        quality_report(seen(column(0, 1), 0, 0), seen(column(0, math.nan), 0, 0), NAMES, 1)
    with pytest.raises(ValueError, match=r"real has shape \[0, 2\]"):
        quality_report(seen(np.zeros((0, 2))), seen(np.eye(2), 0, 0), NAMES, 1)
