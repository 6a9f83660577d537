import pytest

from training.schedule import learning_rate_factor


def test_warm_up_rises_linearly_to_the_peak():
    assert [learning_rate_factor(step, 100, 0.04) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_the_cosine_passes_one_half_in_the_middle_and_nears_zero_at_the_end():
    assert learning_rate_factor(50, 100, 0.0) == pytest.approx(0.5)
    assert learning_rate_factor(100, 100, 0.0) == pytest.approx(0.0)
    assert 0 < learning_rate_factor(99, 100, 0.0) < 0.001
