"""Predicts a run's time and cost from rates, and measures the rates of a finished run.

Works on numbers only, without cluster, clock or files. Generation and training run at once and the slower
side determines the run's time; startup comes before it and evaluation after it.
"""

import math
from dataclasses import dataclass
from typing import Literal

from generation.engine.actor import WorkCounts
from generation.recipes.recipe import Recipe
from ray_jobs.cli.config import JobConfig, Rates
from training.data.reservoir import Uses, min_images
from training.progress import TrainingProgress


@dataclass(frozen=True)
class Prediction:
    """Prediction for a run that neither stops early nor loses nodes."""

    num_generated: int
    """Images that the pool generates, including held-out images."""

    num_trained: int
    generation_seconds: float
    """Time from the first batch until the pool has generated the images that training needs, without delays."""

    training_seconds: float
    """Training time without waiting, including validation."""

    first_pass_seconds: float
    """The part of it during generation: without replays of stored samples, and without the images left in reservoirs
    when the last image arrives.
    """

    time_to_first_batch_seconds: float
    run_seconds: float
    """From the first batch to the last step."""

    wall_seconds: float
    """From the job's start to its end."""

    generation_device_hours: float
    """GPU-hours of the pool, from the job's start to the last step; an actor without a GPU counts as one."""

    training_device_hours: float
    """The same for training workers."""

    @property
    def binding_side(self) -> Literal["generation", "training"]:
        """The slower side, which the other one waits for."""
        return "generation" if self.generation_seconds > self.first_pass_seconds else "training"


def predict(config: JobConfig, recipe: Recipe) -> Prediction:
    """Return the prediction from the settings' rates; ValueError if a required rate is unknown."""
    training, rates = config.training, config.rates
    num_actors = num_generators(config)
    check_rates(rates, num_actors)
    made_per_second = num_actors * rates.generated_per_second
    fewest, most = num_images_needed(config, recipe) if num_actors else (0, 0)
    first_batch_seconds = num_before_first_batch(config, recipe) / made_per_second if num_actors else 0.0
    generation_seconds = max(0.0, fewest / made_per_second - first_batch_seconds) if num_actors else 0.0
    training_seconds = training.num_trained / (training.num_workers * rates.trained_per_second)
    if rates.validated_per_second:
        num_validated = training.num_epochs * training.num_held_out
        training_seconds += num_validated / (training.num_workers * rates.validated_per_second)
    first_pass_seconds = training_seconds * (1 / (1 + config.data.replays) - left_fraction(config, recipe))
    run_seconds = max(generation_seconds, first_pass_seconds) + training_seconds - first_pass_seconds
    before_seconds = rates.start_seconds + first_batch_seconds
    held_hours = (before_seconds + run_seconds) / 3600
    return Prediction(
        num_generated=max(fewest, min(most, round(made_per_second * (first_batch_seconds + run_seconds)))),
        num_trained=training.num_trained,
        generation_seconds=generation_seconds,
        training_seconds=training_seconds,
        first_pass_seconds=first_pass_seconds,
        time_to_first_batch_seconds=before_seconds,
        run_seconds=run_seconds,
        wall_seconds=before_seconds + run_seconds + rates.end_seconds,
        generation_device_hours=num_actors * (config.generation.gpus_per_actor or 1.0) * held_hours,
        training_device_hours=training.num_workers * (training.gpus_per_worker or 1.0) * held_hours,
    )


def predict_if_given(config: JobConfig, recipe: Recipe) -> Prediction | None:
    """Return the prediction if the settings have rates; None without any, or for a resumed run."""
    return None if config.resume or config.rates == Rates() else predict(config, recipe)


def num_generators(config: JobConfig) -> int:
    """Return the number of generator actors, 0 for existing images; the maximum for a pool that may shrink."""
    return config.generation.max_actors if config.data.source == "stream" else 0


def num_images_needed(config: JobConfig, recipe: Recipe) -> tuple[int, int]:
    """Return the minimum and maximum number of images requested from a stream, including held-out images.

    They differ if `training.reuse` is auto: images are used up to `training.max_reuse` times rather than waiting for
    new images, except for those in the reservoirs at the end.
    """
    training, (train, held_out) = config.training, config.training.indices(config.data.replays)
    fewest = len(train)
    if training.least_uses != training.most_uses:
        num_uses = fewest * training.least_uses + num_left_uses(config, recipe)
        fewest = min(fewest, max(num_before_first_batch(config, recipe), math.ceil(num_uses / training.most_uses)))
    return fewest + len(held_out), len(train) + len(held_out)


def num_before_first_batch(config: JobConfig, recipe: Recipe) -> int:
    """Return the number of images that all workers together need before their first batches."""
    training, uses = config.training, Uses(config.training.least_uses, config.training.most_uses)
    size = (training.global_batch_size - training.num_real_per_step) // training.accumulate_batches
    to_draw = max(size, -(-uses.needed(size) // uses.most))
    return min(max(to_draw, num_filled(config, recipe)), len(training.indices(config.data.replays)[0]))


def num_filled(config: JobConfig, recipe: Recipe) -> int:
    """Return the number of images in all reservoirs together while the stream runs; 0 without reuse."""
    training, num_images = config.training, len(config.training.indices(config.data.replays)[0])
    num_of_worker = min_images(training, recipe.image_size, recipe.label_space.num_classes, num_images)
    return min(num_images, training.num_workers * num_of_worker)


def num_left_uses(config: JobConfig, recipe: Recipe) -> float:
    """Return the expected number of remaining uses of the images in full reservoirs.

    New images replace used-up images, so each has 1 to `most_uses` uses left, all equally likely.
    """
    return num_filled(config, recipe) * (config.training.most_uses + 1) / 2


def left_fraction(config: JobConfig, recipe: Recipe) -> float:
    """Return the share of training left when the pool's last image arrives; 0 with `auto`, where it may not."""
    training = config.training
    if not num_generators(config) or training.least_uses != training.most_uses:
        return 0.0
    return num_left_uses(config, recipe) / (
        training.num_steps * (training.global_batch_size - training.num_real_per_step)
    )


def check_rates(rates: Rates, num_actors: int) -> None:
    """Raise ValueError if a rate that the prediction needs is unknown."""
    for name, is_needed in (("generated_per_second", num_actors > 0), ("trained_per_second", True)):
        if is_needed and not getattr(rates, name):
            raise ValueError(
                f"rates.{name} is unknown, but the prediction needs it. Set it, or use the rates of a run: "
                "python -m ray_jobs.plan CONFIG --like RUN."
            )


def measured_rates(
    config: JobConfig,
    recipe: Recipe,
    counts: WorkCounts,
    progress: TrainingProgress,
    started_at: float,
    ended_at: float,
) -> Rates:
    """Return the rates of a run since it last resumed; times are Unix times in seconds.

    The startup time of a run that lost a worker is unknown.
    """
    training = config.training
    learning_seconds = progress.training_seconds - progress.waiting_seconds - progress.validation_seconds
    num_trained_since_resume = progress.num_trained - progress.num_trained_before
    lost_worker = progress.num_trained_before > 0 and not config.resume
    num_epochs = progress.epoch - progress.num_trained_before // (training.steps_per_epoch * training.global_batch_size)
    generated_per_second = per_second(counts.num_accepted, counts.working_seconds)
    made_per_second = num_generators(config) * generated_per_second
    first_batch_seconds = num_before_first_batch(config, recipe) / made_per_second if made_per_second else 0.0
    first_batch_seconds = min(first_batch_seconds, progress.first_batch_at - progress.requested_at)
    return Rates(
        generated_per_second=generated_per_second,
        trained_per_second=per_second(num_trained_since_resume, learning_seconds) / training.num_workers,
        validated_per_second=per_second(num_epochs * training.num_held_out, progress.validation_seconds)
        / training.num_workers,
        start_seconds=0.0 if lost_worker else max(0.0, progress.first_batch_at - started_at - first_batch_seconds),
        end_seconds=max(0.0, ended_at - progress.first_batch_at - progress.training_seconds),
    )


def per_second(number: int, seconds: float) -> float:
    """Return a rate, 0 if no time was measured."""
    return number / seconds if seconds > 0 else 0.0
