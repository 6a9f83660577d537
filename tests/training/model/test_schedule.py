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


def test_warmup_is_linear_and_peak_scales_with_batch():
    assert THOUSAND.peak_learning_rate == pytest.approx(0.05)
    assert [learning_rate(seen, THOUSAND) for seen in (0, 50, 100, 200)] == pytest.approx([0.0, 0.0125, 0.025, 0.05])


def test_cosine_decay_reaches_its_middle_and_end():
    assert learning_rate(600, THOUSAND) == pytest.approx((0.05 + 0.01) / 2)
    assert learning_rate(1000, THOUSAND) == pytest.approx(0.01)


def test_without_warmup_schedule_starts_at_peak():
    config = TrainingConfig(num_images=1024, num_epochs=1, global_batch_size=256, warmup_fraction=0.0)
    assert learning_rate(0, config) == pytest.approx(0.1)
