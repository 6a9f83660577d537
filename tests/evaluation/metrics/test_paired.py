"""Paired tests, Holm's correction and the Pareto front, against values by hand."""

import pytest

from evaluation.metrics.intervals import mean_interval
from evaluation.metrics.paired import holm, paired_test, pareto_front, verdict


def test_interval_of_a_mean_is_students():
    # mean 2, deviation 1, standard error 0.5774, t of 2 degrees of freedom 4.303
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.484, 2 + 2.484), abs=1e-3)
    assert mean_interval([1.0]) is None


def test_paired_test_of_three_seeds():
    found = paired_test([0.01, 0.02, 0.03])
    assert (found.num_pairs, found.difference) == (3, pytest.approx(0.02))
    assert found.interval == pytest.approx((-0.00484, 0.04484), abs=1e-5)
    # t is 0.02 / 0.005774 = 3.4641; with 2 degrees of freedom p is 1 - t / sqrt(t^2 + 2) = 1 - 3.4641 / 3.7417
    assert found.p_value == pytest.approx(0.0742, abs=1e-4)


def test_single_pair_has_neither_interval_nor_p():
    found = paired_test([0.1])
    assert (found.difference, found.interval, found.p_value) == (0.1, None, None)


def test_equal_differences_have_no_spread_to_test_against():
    found = paired_test([0.3 - 0.2, 0.2 - 0.1, 0.1])
    assert (found.interval, found.p_value) == (None, 1.0)


def test_holm_multiplies_by_the_number_of_tests_left():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # 3 * 0.01; 2 * 0.03; then 0.04 is raised
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("difference", "corrected_p", "expected"),
    [(0.1, 0.049, "better"), (-0.1, 0.049, "worse"), (0.1, 0.05, "not told apart")],
)
def test_verdict_is_by_the_corrected_p(difference: float, corrected_p: float, expected: str):
    assert verdict(difference, corrected_p) == expected


def test_front_has_the_points_that_no_other_beats():
    points = [(1.0, 0.5), (2.0, 0.7), (2.0, 0.6), (3.0, 0.7), (4.0, 0.8)]
    assert pareto_front(points) == [0, 1, 4]


def test_equal_points_are_both_on_the_front():
    assert pareto_front([(1.0, 0.5), (1.0, 0.5)]) == [0, 1]
