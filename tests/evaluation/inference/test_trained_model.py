"""Facts about a trained classifier, and its run's folder."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.images.decoding import Crop
from evaluation.inference.trained_model import model_of
from generation.indices import IndexSet
from generation.recipes.recipe import Recipe
from training.checkpoint import check_resumable
from training.config import TrainingConfig
from training.data.consumption import Consumption
from training.job import SET_SIZE, TrainingSamples, sets_of

CONFIG = TrainingConfig(num_images=640, num_epochs=1, global_batch_size=64, gpus_per_worker=0)


def checkpoint_of(recipe: Recipe, taken: list[range], sets: dict[str, int]) -> dict[str, Any]:
    consumption = Consumption(IndexSet.of_ranges(taken), np.zeros(0, np.int64), np.zeros(0, np.int32))
    return {
        "classifier": {"config": vars(CONFIG), "num_classes": 10, "image_size": 32},
        "recipe": {"json": recipe.to_json(), "sha256": recipe.sha256},
        "run": {"consumption": {"synthetic": consumption.to_checkpoint()}, "sets": sets},
        "trained_on": "generated",
        "global_step": 10,
    }


@pytest.mark.parametrize(
    ("taken", "set_size", "num_images"),
    [
        ([range(640)], 640, 640),
        ([range(40)], 640, 40),  # reuse: auto, each 16 times
        ([range(640)], 100, 100),  # six passes and a part over shards
    ],
)
def test_num_images_counts_each_image_once(painted: Recipe, taken: list[range], set_size: int, num_images: int):
    model = model_of(Path("/runs/a/checkpoint.ckpt"), "0", checkpoint_of(painted, taken, {SET_SIZE: set_size}))
    facts = model.facts
    assert (facts["name"], facts["num_images"], facts["num_trained"]) == ("a", num_images, 640)


def test_evaluation_of_an_active_run_is_in_its_folder(painted: Recipe):
    model = model_of(Path("/runs/a/checkpoints/step-000000000010.ckpt"), "0", checkpoint_of(painted, [], {SET_SIZE: 1}))
    assert (model.run_dir, model.facts["name"]) == (Path("/runs/a"), "a, step-000000000010")


def test_default_crop_has_the_training_size(painted: Recipe):
    checkpoint = checkpoint_of(painted, [], {SET_SIZE: 1})
    assert model_of(Path("checkpoint.ckpt"), "0", checkpoint).crop == Crop(37, 32, "bilinear")
    checkpoint["classifier"]["config"] = vars(dataclasses.replace(CONFIG, crop_size=28))
    assert model_of(Path("checkpoint.ckpt"), "0", checkpoint).crop == Crop(32, 28, "bilinear")


def test_run_on_real_images_does_not_resume_with_other_data(painted: Recipe):
    sets = sets_of(1000, names_hash=7, real=None)
    checkpoint = checkpoint_of(painted, [range(640)], sets)
    check_resumable(checkpoint, painted, CONFIG, sets)
    for other in (sets_of(1000, names_hash=8, real=None), sets_of(1000, names_hash=0, real=None)):
        with pytest.raises(ValueError, match="hash of their names was 7, is"):
            check_resumable(checkpoint, painted, CONFIG, other)
    generated = checkpoint_of(painted, [range(640)], sets_of(1000, 0, None))
    with pytest.raises(ValueError, match="hash of their names was None, is 7"):
        check_resumable(generated, painted, CONFIG, sets)
    mixed = sets_of(1000, 0, TrainingSamples(50, open=lambda _: None, kind="real", names_hash=9))
    with pytest.raises(ValueError, match="real images was None, is 50"):
        check_resumable(generated, painted, CONFIG, mixed)


@pytest.mark.parametrize("other", [{"reservoir_min_images": 1}, {"reservoir_bytes": 10**8}, {"num_workers": 2}])
def test_random_settings_may_change_unless_deterministic(other: dict, painted: Recipe):
    sets = sets_of(1000, names_hash=7, real=None)
    for is_deterministic in (False, True):
        config = dataclasses.replace(CONFIG, reuse=4, deterministic=is_deterministic)
        checkpoint = checkpoint_of(painted, [range(640)], sets)
        checkpoint["classifier"]["config"] = dataclasses.asdict(config)
        changed = dataclasses.replace(config, **other)
        if is_deterministic:
            with pytest.raises(ValueError, match=f"training.{next(iter(other))} was"):
                check_resumable(checkpoint, painted, changed, sets)
        else:
            check_resumable(checkpoint, painted, changed, sets)


def test_run_resumes_without_a_damaged_image(painted: Recipe):
    sets = sets_of(1000, names_hash=7, real=None)
    checkpoint = checkpoint_of(painted, [range(640)], sets)
    check_resumable(checkpoint, painted, dataclasses.replace(CONFIG, allow_unreadable=1), sets)
