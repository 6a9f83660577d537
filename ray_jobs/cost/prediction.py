"""How long a run will take and what it will cost, from rates; and the rates of a run that is through.

Numbers in, numbers out: knows no cluster, clock or file. Two sides work at once and the slower one binds, whose time is
the run's; before it all has to start, and after it the classifier is evaluated.
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
    """What a run will come to, unless it stops early or loses a part of itself."""

    num_generated: int
    """Images that the pool makes, held-out ones included."""

    num_trained: int
    generation_seconds: float
    """What the pool needs from the first batch on for all that training cannot do without, if it is never held up."""

    training_seconds: float
    """What training needs if it never waits, the held-out accuracy included."""

    first_pass_seconds: float
    """How much of that goes by while images are generated: not on what is kept and trained on again, nor on what
    reservoirs have left when the last image comes.
    """

    time_to_first_batch_seconds: float
    run_seconds: float
    """From the first batch to the last step."""

    wall_seconds: float
    """From the job's start to its end."""

    generation_device_hours: float
    """What the pool's GPUs come to, held from the job's start to the last step; an actor without any counts as one."""

    training_device_hours: float
    """The same of training workers."""

    @property
    def binding_side(self) -> Literal["generation", "training"]:
        """Which side the other one waits for."""
        return "generation" if self.generation_seconds > self.first_pass_seconds else "training"


def predict(config: JobConfig, recipe: Recipe) -> Prediction:
    """Return what the settings' rates lead to; ValueError if one that is needed is unknown."""
    training, rates = config.training, config.rates
    num_actors = num_generators(config)
    check_known(rates, num_actors)
    made_per_second = num_actors * rates.generated_per_second
    fewest, most = num_images_needed(config, recipe) if num_actors else (0, 0)
    first_batch_seconds = num_before_first_batch(config, recipe) / made_per_second if num_actors else 0.0
    generation_seconds = max(0.0, fewest / made_per_second - first_batch_seconds) if num_actors else 0.0
    training_seconds = training.num_trained / (training.num_workers * rates.trained_per_second)
    if rates.judged_per_second:
        num_judged = training.num_epochs * training.num_held_out
        training_seconds += num_judged / (training.num_workers * rates.judged_per_second)
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
    """Return the prediction of a run whose settings have rates; None without any, or for one that is taken up again."""
    return None if config.resume or config.rates == Rates() else predict(config, recipe)


def num_generators(config: JobConfig) -> int:
    """Return how many actors generate, none where images are there already; a pool that may shrink counts in full."""
    return config.generation.max_actors if config.data.source == "stream" else 0


def num_images_needed(config: JobConfig, recipe: Recipe) -> tuple[int, int]:
    """Return how many images a stream is asked for at the least and at the most, held-out ones included.

    They differ where `training.reuse` is auto: images are used up to `training.max_reuse` times rather than waited for,
    but for those that reservoirs have at the end.
    """
    training, (train, held_out) = config.training, config.training.indices(config.data.replays)
    fewest = len(train)
    if training.least_uses != training.most_uses:
        num_uses = fewest * training.least_uses + num_left_uses(config, recipe)
        fewest = min(fewest, max(num_before_first_batch(config, recipe), math.ceil(num_uses / training.most_uses)))
    return fewest + len(held_out), len(train) + len(held_out)


def num_before_first_batch(config: JobConfig, recipe: Recipe) -> int:
    """Return how many images all workers together have before they take their first batches."""
    training, uses = config.training, Uses(config.training.least_uses, config.training.most_uses)
    size = (training.global_batch_size - training.num_real_per_step) // training.accumulate_batches
    to_draw = max(size, -(-uses.needed(size) // uses.most))
    return min(max(to_draw, num_filled(config, recipe)), len(training.indices(config.data.replays)[0]))


def num_filled(config: JobConfig, recipe: Recipe) -> int:
    """Return how many images all reservoirs together have while more come; 0 where none is used again."""
    training, num_images = config.training, len(config.training.indices(config.data.replays)[0])
    num_of_worker = min_images(training, recipe.image_size, recipe.label_space.num_classes, num_images)
    return min(num_images, training.num_workers * num_of_worker)


def num_left_uses(config: JobConfig, recipe: Recipe) -> float:
    """Return how often the images of full reservoirs may still be used, in the mean.

    New ones take the places of those that are used up: 1 to `most_uses` are left of each, all as probable.
    """
    return num_filled(config, recipe) * (config.training.most_uses + 1) / 2


def left_fraction(config: JobConfig, recipe: Recipe) -> float:
    """Return the share of training that is left when a pool's last image comes; with `auto` that need never come."""
    training = config.training
    if not num_generators(config) or training.least_uses != training.most_uses:
        return 0.0
    return num_left_uses(config, recipe) / (
        training.num_steps * (training.global_batch_size - training.num_real_per_step)
    )


def check_known(rates: Rates, num_actors: int) -> None:
    """Raise ValueError for an unknown rate without which nothing can be predicted."""
    for name, is_needed in (("generated_per_second", num_actors > 0), ("trained_per_second", True)):
        if is_needed and not getattr(rates, name):
            raise ValueError(
                f"rates.{name} is unknown, and without it nothing can be predicted. Give it, or take the rates of a "
                "run: python -m ray_jobs.plan CONFIG --like RUN."
            )


def measured_rates(
    config: JobConfig,
    recipe: Recipe,
    counts: WorkCounts,
    progress: TrainingProgress,
    started_at: float,
    ended_at: float,
) -> Rates:
    """Return the rates at which a run went, since it was last taken up; moments are in seconds of `time.time()`.

    Of a run that lost a worker it is not known how long it took to start.
    """
    training = config.training
    learning_seconds = progress.training_seconds - progress.waiting_seconds - progress.validation_seconds
    num_trained_since_resume = progress.num_trained - progress.num_trained_before
    lost_worker = progress.num_trained_before > 0 and not config.resume
    num_epochs = progress.epoch - progress.num_trained_before // (training.steps_per_epoch * training.global_batch_size)
    num_accepted = counts.num_images_made - counts.num_refused.total()
    generated_per_second = per_second(num_accepted, counts.working_seconds)
    made_per_second = num_generators(config) * generated_per_second
    first_batch_seconds = num_before_first_batch(config, recipe) / made_per_second if made_per_second else 0.0
    first_batch_seconds = min(first_batch_seconds, progress.first_batch_at - progress.requested_at)
    return Rates(
        generated_per_second=generated_per_second,
        trained_per_second=per_second(num_trained_since_resume, learning_seconds) / training.num_workers,
        judged_per_second=per_second(num_epochs * training.num_held_out, progress.validation_seconds)
        / training.num_workers,
        start_seconds=0.0 if lost_worker else max(0.0, progress.first_batch_at - started_at - first_batch_seconds),
        end_seconds=max(0.0, ended_at - progress.first_batch_at - progress.training_seconds),
    )


def per_second(number: int, seconds: float) -> float:
    """Return a rate, 0 where there was no time to measure it in."""
    return number / seconds if seconds > 0 else 0.0
