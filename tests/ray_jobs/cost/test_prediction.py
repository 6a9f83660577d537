"""Predictions computed by hand: 16 steps of 64 images in four epochs, 64 held-out images, two actors."""

import dataclasses
from collections import Counter
from typing import Any

import pytest

from generation.config import GenerationConfig
from generation.engine.actor import WorkCounts
from generation.recipes.config import RecipeConfig
from generation.recipes.recipe import build_recipe
from generation.shards.config import DataConfig
from ray_jobs.cli.config import JobConfig, Prices, Rates
from ray_jobs.cost import prediction
from ray_jobs.cost.prediction import Prediction
from training.config import TrainingConfig
from training.progress import TrainingProgress

TRAINING = TrainingConfig(num_images=1024, num_epochs=4, num_held_out=64, global_batch_size=64)
RATES = Rates(
    generated_per_second=8.0, trained_per_second=128.0, validated_per_second=256.0, start_seconds=20.0, end_seconds=5.0
)
CONFIG = JobConfig(
    training=TRAINING,
    generation=GenerationConfig(min_actors=2, max_actors=2, gpus_per_actor=0.5),
    rates=RATES,
)


def predict(config: JobConfig) -> Prediction:
    return prediction.predict(config, build_recipe(config.recipe))


def predict_if_given(config: JobConfig) -> Prediction | None:
    return prediction.predict_if_given(config, build_recipe(config.recipe))


def num_before_first_batch(config: JobConfig) -> int:
    return prediction.num_before_first_batch(config, build_recipe(config.recipe))


def measured_rates(config: JobConfig, counts: WorkCounts, progress: TrainingProgress, **moments: float) -> Rates:
    return prediction.measured_rates(config, build_recipe(config.recipe), counts, progress, **moments)


def with_training(**changes: Any) -> JobConfig:
    return dataclasses.replace(CONFIG, training=dataclasses.replace(TRAINING, **changes))


def with_rates(**changes: float) -> JobConfig:
    return dataclasses.replace(CONFIG, rates=dataclasses.replace(RATES, **changes))


def test_run_takes_as_long_as_its_slower_side():
    found = predict(CONFIG)
    assert found.generation_seconds == (1024 + 64 - 64) / 16  # the first batch is already there
    assert found.training_seconds == 1024 / 128 + 4 * 64 / 256
    assert found.binding_side == "generation"
    assert found.time_to_first_batch_seconds == 20 + 64 / 16
    assert found.wall_seconds == 24 + 64 + 5
    assert (found.num_generated, found.num_trained) == (1088, 1024)
    faster = predict(with_rates(generated_per_second=512.0))
    assert (faster.binding_side, faster.generation_seconds, faster.run_seconds) == ("training", 1.0, 9.0)
    assert faster.wall_seconds == 20 + 64 / 1024 + 9 + 5


def test_workers_share_training_and_validation_images():
    assert predict(with_training(num_workers=2)).training_seconds == (1024 / 128 + 4 * 64 / 256) / 2


def test_image_used_four_times_is_generated_once():
    found = predict(with_training(reuse=4))
    assert found.num_generated == 256 + 64
    assert found.time_to_first_batch_seconds == 20 + 128 / 16  # a reservoir first holds half of its images
    assert found.generation_seconds == (256 + 64 - 128) / 16


MANY_CLASSES = JobConfig(
    recipe=RecipeConfig(label_space="imagenet1k", generator="painted", image_size=64),
    training=TrainingConfig(num_images=64_000, num_epochs=1, reuse=8, num_held_out=1),
    generation=GenerationConfig(max_actors=1),
    rates=Rates(generated_per_second=100.0, trained_per_second=800.0),
)
"""8,000 images; a reservoir holds 4,000 before its first batch."""


def test_first_batch_waits_for_full_reservoirs():
    found = predict(MANY_CLASSES)
    assert found.time_to_first_batch_seconds == 40
    assert found.generation_seconds == pytest.approx(40.01)  # 4,000 more, and the held-out one
    assert found.first_pass_seconds == 80 - 22.5  # 4,000 images are left, with 4.5 uses each on average
    assert (found.binding_side, found.wall_seconds) == ("training", 40 + 80)
    longer = dataclasses.replace(MANY_CLASSES.training, num_images=1_280_000)
    assert predict(dataclasses.replace(MANY_CLASSES, training=longer)).time_to_first_batch_seconds == 160


def test_full_reservoirs_are_trained_on_after_the_last_image():
    fast = dataclasses.replace(MANY_CLASSES, rates=dataclasses.replace(MANY_CLASSES.rates, trained_per_second=1600.0))
    found = predict(fast)
    assert (found.binding_side, found.first_pass_seconds) == ("generation", 40 - 11.25)
    assert found.wall_seconds == pytest.approx(40 + 40.01 + 11.25)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"num_workers": 2}, 128),  # 64 each
        ({"reservoir_min_images": 1}, 80),  # after a batch 64 of them have 4 uses left
        ({"reservoir_min_images": 100}, 100),
        ({"reservoir_min_images": 1000}, 256),  # all of them
        ({"real_images": "digits", "real_fraction": 0.25}, 96),  # half of 192
    ],
)
def test_number_of_images_before_the_first_batch(changes: dict, expected: int):
    assert num_before_first_batch(with_training(reuse=4, **changes)) == expected


def test_reservoir_size_depends_on_the_number_of_classes():
    longer = dataclasses.replace(MANY_CLASSES.training, num_images=1_280_000)
    config = dataclasses.replace(MANY_CLASSES, training=longer)
    assert num_before_first_batch(config) == 16 * 1000
    ten_classes = dataclasses.replace(MANY_CLASSES.recipe, label_space="digits")
    assert num_before_first_batch(dataclasses.replace(config, recipe=ten_classes)) == 16 * 256


def test_auto_reuse_waits_only_at_max_reuse():
    slow = dataclasses.replace(
        with_training(reuse="auto", max_reuse=8), rates=with_rates(trained_per_second=32.0).rates
    )
    found = predict(slow)
    assert found.generation_seconds == (164 + 64 - 64) / 16  # (1024 + 64 * 4.5) / 8: at the end 64 are half used
    assert (found.binding_side, found.run_seconds) == ("training", 1024 / 32 + 1)
    assert found.num_generated == 16 * (4 + 33)  # the pool's output in that time: 1.9 uses per image
    fast = predict(with_training(reuse="auto", max_reuse=4))
    assert (fast.binding_side, fast.run_seconds) == ("generation", (336 + 64 - 128) / 16)  # (1024 + 128 * 2.5) / 4
    assert fast.num_generated == 336 + 64
    plenty = predict(dataclasses.replace(slow, rates=dataclasses.replace(slow.rates, generated_per_second=100.0)))
    assert plenty.num_generated == 1024 + 64  # no more than without reuse


def test_auto_reuse_fills_reservoirs_at_any_max_reuse():
    often = predict(with_training(reuse="auto", max_reuse=1024, reservoir_min_images=100))
    assert (often.time_to_first_batch_seconds, often.generation_seconds) == (20 + 100 / 16, 64 / 16)


def test_real_images_in_a_batch_are_not_generated():
    found = predict(with_training(real_images="digits", real_fraction=0.25))
    assert (found.num_generated, found.time_to_first_batch_seconds) == (768 + 64, 20 + 48 / 16)


def test_replayed_images_are_generated_once():
    found = predict(dataclasses.replace(CONFIG, data=DataConfig(tee="somewhere", replays=1)))
    assert found.generation_seconds == (512 + 64 - 64) / 16
    assert found.run_seconds == 32 + 9 / 2
    slower = predict(dataclasses.replace(with_rates(trained_per_second=16), data=DataConfig(tee="a place", replays=1)))
    assert (slower.binding_side, slower.run_seconds) == ("training", 65.0)  # 32.5 for a pass
    between = predict(dataclasses.replace(with_rates(trained_per_second=20), data=DataConfig(tee="a place", replays=1)))
    assert between.training_seconds == 1024 / 20 + 1
    assert (between.binding_side, between.run_seconds) == ("generation", 32 + 26.1)


def test_existing_images_need_no_pool():
    found = predict(dataclasses.replace(with_rates(generated_per_second=0.0), data=DataConfig("shards", "somewhere")))
    assert (found.num_generated, found.generation_seconds, found.generation_device_hours) == (0, 0.0, 0.0)
    assert (found.binding_side, found.wall_seconds) == ("training", 20 + 9 + 5)


def test_devices_are_paid_until_the_last_step():
    found = predict(with_rates(start_seconds=3600 - 4 - 64))
    assert found.generation_device_hours == 2 * 0.5
    assert found.training_device_hours == 1.0
    prices = Prices(generation_device_hour=3.0, training_device_hour=2.0)
    assert prices.of_devices(found.generation_device_hours, found.training_device_hours) == 5.0
    on_cpus = dataclasses.replace(CONFIG.generation, gpus_per_actor=0)
    on_cpus = dataclasses.replace(with_rates(start_seconds=3600 - 4 - 64), generation=on_cpus)
    assert predict(on_cpus).generation_device_hours == 2.0


@pytest.mark.parametrize("name", ["generated_per_second", "trained_per_second"])
def test_missing_required_rate_is_an_error(name: str):
    with pytest.raises(ValueError, match=rf"rates\.{name} is unknown.*--like RUN"):
        predict(with_rates(**{name: 0.0}))


def test_runs_without_rates_and_resumed_runs_are_not_predicted():
    assert predict_if_given(dataclasses.replace(CONFIG, rates=Rates())) is None
    assert predict_if_given(dataclasses.replace(CONFIG, resume=True)) is None
    assert predict_if_given(CONFIG) == predict(CONFIG)


PROGRESS = TrainingProgress(
    num_trained=1024,
    num_trained_before=0,
    epoch=4,
    requested_at=1018.0,
    first_batch_at=1024.0,
    training_seconds=80.0,
    waiting_seconds=71.0,
    pool_waiting_seconds=71.0,
    held_out_waiting_seconds=0.0,
    validation_seconds=1.0,
    num_delivered=1024,
    reuse=1.0,
    loss=0.5,
    held_out_top1=0.5,
)


def test_measured_rates_exclude_waiting_validation_and_refused_images():
    counts = WorkCounts(num_images_made=1120, num_refused=Counter(black=20, flat=12), working_seconds=136.0)
    found = measured_rates(CONFIG, counts, PROGRESS, started_at=1000.0, ended_at=1109.0)
    assert found == RATES  # 1088 / 136, 1024 / (80 - 71 - 1), 4 * 64 / 1, 24 - 64 / 16, 109 - 24 - 80


def test_measured_rates_start_at_the_last_resume():
    again = dataclasses.replace(PROGRESS, num_trained_before=512, training_seconds=76.0)  # after the second of 4 epochs
    workers = with_training(num_workers=2)
    resumed = dataclasses.replace(workers, resume=True)
    found = measured_rates(resumed, WorkCounts(), again, started_at=1000.0, ended_at=1105.0)
    assert found == Rates(
        generated_per_second=0.0,
        trained_per_second=512 / (76 - 71 - 1) / 2,
        validated_per_second=2 * 64 / 1 / 2,
        start_seconds=24.0,
        end_seconds=5.0,
    )


def test_startup_time_is_unknown_after_a_lost_worker():
    again = dataclasses.replace(PROGRESS, num_trained_before=512, first_batch_at=8000.0)
    found = measured_rates(CONFIG, WorkCounts(), again, started_at=1000.0, ended_at=8100.0)
    assert (found.start_seconds, found.end_seconds) == (0.0, 20.0)


def test_startup_time_excludes_filling_reservoirs():
    counts = WorkCounts(num_images_made=320, working_seconds=40.0)
    config, went = with_training(reuse=4), dataclasses.replace(PROGRESS, requested_at=1015.0)
    rates = measured_rates(config, counts, went, started_at=1000.0, ended_at=1109.0)
    assert rates.start_seconds == 24 - 128 / 16
    four = dataclasses.replace(CONFIG.generation, max_actors=4)
    like = predict(dataclasses.replace(config, generation=four, rates=rates))
    assert like.time_to_first_batch_seconds == 16 + 128 / 32
    near_its_end = dataclasses.replace(went, requested_at=1022.0)  # few images were missing
    rates = measured_rates(config, counts, near_its_end, started_at=1000.0, ended_at=1109.0)
    assert rates.start_seconds == 22


def test_own_rates_predict_a_run_exactly():
    counts = WorkCounts(num_images_made=1088, working_seconds=136.0)
    went = dataclasses.replace(PROGRESS, training_seconds=64.0, waiting_seconds=55.0)  # it waited for the pool
    rates = measured_rates(CONFIG, counts, went, started_at=1000.0, ended_at=1093.0)
    assert predict(dataclasses.replace(CONFIG, rates=rates)).wall_seconds == 93.0
