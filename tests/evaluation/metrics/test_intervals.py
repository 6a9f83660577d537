import numpy as np
import pytest
import scipy.stats

from evaluation.metrics.intervals import (
    pack_hits,
    paired_difference,
    student_interval,
    unpack_hits,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("num_hits", "num_images", "expected"),
    [
        (9, 10, (0.5958, 0.9821)),  # Brown, Cai and DasGupta (2001) have the formula; scipy the numbers
        (0, 10, (0.0, 0.2775)),
        (10, 10, (0.7225, 1.0)),
        (50, 100, (0.4038, 0.5962)),
    ],
)
def test_interval_of_a_fraction_is_wilsons(num_hits: int, num_images: int, expected: tuple[float, float]):
    assert wilson_interval(num_hits, num_images) == pytest.approx(expected, abs=1e-4)
    theirs = scipy.stats.binomtest(num_hits, num_images).proportion_ci(method="wilson")
    assert wilson_interval(num_hits, num_images) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


def test_wilson_interval_covers_95_percent_for_ten_images():
    ends = [wilson_interval(hits, 10) for hits in range(11)]
    covered = [low <= 0.9 <= high for low, high in ends]
    assert sum(scipy.stats.binom.pmf(hits, 10, 0.9) for hits in range(11) if covered[hits]) > 0.92


def of_counts(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Return hits of two models, by the number of images that both, only the first, only the second, or neither got."""
    pairs = [(True, True)] * both + [(True, False)] * first + [(False, True)] * second + [(False, False)] * neither
    hits = np.array(pairs)
    return hits[:, 0], hits[:, 1]


def test_difference_of_two_models():
    difference = paired_difference(*of_counts(60, 12, 3, 25))
    assert difference.points == pytest.approx(0.09)
    assert difference.p_value == pytest.approx(2 * sum(scipy.stats.binom.pmf(k, 15, 0.5) for k in range(4)))  # 0.035
    # (12.5 - 3.5) / 102 is 0.08824, its deviation sqrt(16 - 81 / 102) / 102 is 0.03823
    assert difference.interval == pytest.approx((0.0133, 0.1632), abs=1e-4)
    assert difference.is_significant


def test_equal_accuracies_are_not_significant():
    same = paired_difference(*of_counts(5, 0, 0, 5))
    assert (same.points, same.p_value) == (0.0, 1.0)
    assert not same.is_significant
    assert not paired_difference(*of_counts(50, 4, 2, 50)).is_significant


def test_significance_needs_both_interval_and_p():
    five, six = (paired_difference(*of_counts(50, num, 0, 50 - num)) for num in (5, 6))
    assert five.interval[0] > 0
    assert five.p_value == pytest.approx(2 / 2**5)  # 0.0625
    assert not five.is_significant
    assert six.p_value == pytest.approx(2 / 2**6)  # 0.03125
    assert six.is_significant


def test_interval_over_seeds_is_within_0_and_1():
    low, high = student_interval([1.0, 1.0, 0.98]) or (0.0, 0.0)
    assert low == pytest.approx(0.9933 - 4.303 * 0.00667, abs=1e-3)  # 0.0115 / sqrt(3) is 0.00667
    assert high == 1.0
    assert student_interval([0.0, 0.0, 0.02]) == (0.0, pytest.approx(0.0354, abs=1e-3))


def test_packed_hits_are_unpacked():
    hits = np.random.default_rng(0).random(50_001) < 0.7
    np.testing.assert_array_equal(unpack_hits(pack_hits(hits), 50_001), hits)
    assert len(pack_hits(hits)) < 8400
