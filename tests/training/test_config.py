import pytest

from training.config import TrainingConfig


def test_logical_epochs_are_whole_steps_of_the_global_batch():
    config = TrainingConfig(num_images=1000, num_epochs=3, global_batch_size=100, num_workers=2)
    assert (config.steps_per_epoch, config.num_steps, config.num_trained) == (3, 9, 900)
    assert config.batch_size_per_worker == 50


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_workers": 3, "global_batch_size": 256}, "cannot be shared by 3 workers. Try 255"),
        ({"num_images": 100, "num_epochs": 2, "global_batch_size": 64}, "Give 128 or more"),
        ({"peak_learning_rate": 0.0}, "peak_learning_rate is 0.0"),
        ({"warmup_fraction": 1.0}, "warmup_fraction is 1.0"),
        ({"num_epochs": 0}, "num_epochs is 0"),
        ({"num_held_out": 1, "num_workers": 2}, "num_held_out is 1; give at least one for each of the 2"),
    ],
)
def test_impossible_settings_are_refused_with_the_value(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**settings)
