from typing import Any

import pytest

from training.config import TrainingConfig


def test_epochs_are_whole_steps():
    config = TrainingConfig(num_images=1000, num_epochs=3, global_batch_size=100, num_workers=2)
    assert (config.steps_per_epoch, config.num_steps, config.num_trained) == (3, 9, 900)
    assert config.batch_size_per_worker == 50
    assert TrainingConfig(global_batch_size=96, num_workers=2, accumulate_batches=4).batch_size_per_worker == 12


def test_suggested_real_fraction_is_accepted():
    with pytest.raises(ValueError, match=r"Try 0\.333333"):
        TrainingConfig(global_batch_size=6, real_images="digits", real_fraction=0.3)
    assert TrainingConfig(global_batch_size=6, real_images="digits", real_fraction=0.333333).num_real_per_batch == 2


def test_real_images_replace_generated_images():
    config = TrainingConfig(
        num_images=960,
        num_epochs=1,
        global_batch_size=96,
        num_workers=2,
        accumulate_batches=3,
        real_images="digits",
        real_fraction=0.25,
        reuse=2,
    )
    assert (config.num_real_per_batch, config.num_real_per_step) == (4, 24)
    assert config.num_samples == 360  # 720 uses


def test_reuse_reduces_requested_samples():
    def num_samples(**settings: Any) -> int:
        return TrainingConfig(num_images=960, num_epochs=1, global_batch_size=96, **settings).num_samples

    assert num_samples() == 960
    assert num_samples(reuse=8) == 120
    assert num_samples(reuse=7) == 138  # 137.1
    assert num_samples(reuse=7, num_workers=4) == 138
    assert (
        num_samples(reuse=7, deterministic=True) == 192
    )  # 10 steps need two sevenths of their samples, in whole steps
    assert num_samples(reuse="auto", min_reuse=2, max_reuse=9) == 480


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_workers": 3, "global_batch_size": 256}, "num_workers 3 times accumulate_batches 1. Try 255"),
        ({"num_images": 100, "num_epochs": 2, "global_batch_size": 64}, "Use 128 or more"),
        ({"base_learning_rate": 0.0}, "base_learning_rate is 0.0"),
        ({"crop_size": 6}, "training.crop_size is 6; use 7 or more pixels"),
        ({"crop_scale": (0.5,)}, r"training.crop_scale is \[0.5\]; use the minimum and maximum fraction"),
        (
            {"augmentation": "multi_crop", "local_crop_scale": (0.3, 0.2)},
            r"training.local_crop_scale is \[0.3, 0.2\]; use",
        ),
        (
            {"augmentation": "affine", "crop_scale": (0.3, 0.9)},
            r"crop_scale is \[0.3, 0.9\], but .*=affine has no such",
        ),
        (
            {"local_crop_scale": (0.3, 0.9)},
            r"local_crop_scale is \[0.3, 0.9\], but training.augmentation=crop_flip has",
        ),
        ({"reuse": 0}, "training.reuse is 0; use auto, or 1 or more"),
        ({"reuse": "often"}, "training.reuse is 'often'; use auto, or 1 or more"),
        ({"reuse": True}, "training.reuse is True"),
        ({"reuse": "8"}, "training.reuse is '8'; use auto, or 1 or more without quotes"),
        ({"reuse": "auto", "min_reuse": 4, "max_reuse": 2}, "max_reuse is 2, less than min_reuse 4"),
        ({"max_waiting_fraction": 1.0}, "max_waiting_fraction is 1.0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"local_crop_size": 0}, "local_crop_size is 0"),
        ({"accumulate_batches": 3, "global_batch_size": 256}, "num_workers 1 times accumulate_batches 3. Try 255"),
        ({"warmup_fraction": 1.0}, "warmup_fraction is 1.0"),
        ({"num_epochs": 0}, "num_epochs is 0"),
        ({"reuse": "auto", "deterministic": True}, "reuse is auto, which depends on timing"),
        ({"loggers": ("wandb", "comet")}, "training.loggers lists comet; use wandb or mlflow"),
        ({"allow_unreadable": -1}, "training.allow_unreadable is -1; use 0 or more"),
        ({"real_images": "digits"}, "real_images is 'digits' and real_fraction 0.0; set both or neither"),
        (
            {"real_image_size": 512, "augmentation": "affine"},
            "real_image_size is 512, but training.augmentation=affine crops .* Remove the setting",
        ),
        ({"real_images": "digits", "real_fraction": 1.0}, "real_fraction is 1.0; use 0 to below 1"),
        (
            {"real_images": "digits", "real_fraction": 0.3},
            "0.3 of a worker's batch of 256 is 76.8 images, .* Try 0.300781",
        ),
        ({"real_images": "digits", "real_fraction": 1e-9}, "leaves fewer than 1 real or generated images"),
        (
            {"real_images": "digits", "real_fraction": 1 / 256, "separate_batch_norm": True},
            "leaves fewer than 2 real or generated images",
        ),
        ({"reuse": 5, "num_images": 1024, "num_epochs": 1}, "reuse is 5, but the run has 4 batches"),
        ({"separate_batch_norm": True}, "separate_batch_norm is true, but there are no real images"),
        ({"checkpoint_every_steps": -1}, "checkpoint_every_steps is -1"),
        ({"num_held_out": 1, "num_workers": 2}, "num_held_out is 1; use at least 1 per worker, 2 or more"),
    ],
)
def test_invalid_settings_are_rejected(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**settings)
