import pytest

from training.config import TrainingConfig
from training.model.schedule import learning_rate

THOUSAND = TrainingConfig(
    num_images=1000,
    num_epochs=1,
    global_batch_size=50,
    base_learning_rate=0.256,
    final_learning_rate=0.01,
    warmup_fraction=0.2,
)


def test_warm_up_rises_linearly_to_the_peak_which_is_in_proportion_to_the_batch():
    assert THOUSAND.peak_learning_rate == pytest.approx(0.05)
    assert [learning_rate(seen, THOUSAND) for seen in (0, 50, 100, 200)] == pytest.approx([0.0, 0.0125, 0.025, 0.05])


def test_the_cosine_is_half_way_down_in_the_middle_and_ends_at_the_final_rate():
    assert learning_rate(600, THOUSAND) == pytest.approx((0.05 + 0.01) / 2)
    assert learning_rate(1000, THOUSAND) == pytest.approx(0.01)


def test_without_warm_up_it_starts_at_the_peak():
    config = TrainingConfig(num_images=1024, num_epochs=1, global_batch_size=256, warmup_fraction=0.0)
    assert learning_rate(0, config) == pytest.approx(0.1)
