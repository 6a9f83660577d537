"""The summary of a finished run: summary.json and a printed table."""

import dataclasses
import time
from typing import Any, cast

from evaluation.result import Evaluation
from generation.recipes.recipe import Recipe
from ray_jobs.cli.config import JobConfig
from ray_jobs.cost.prediction import measured_rates, predict_if_given
from ray_jobs.job.tables import print_facts
from ray_jobs.monitor.advice import LITTLE_WAITING_FRACTION
from ray_jobs.monitor.progress import RunProgress
from training.progress import TrainingProgress

MEAN_SCORES = "mean_scores"
"""Entry of the summary with the check's mean scores by class and template."""


def summarize(
    config: JobConfig,
    recipe: Recipe,
    progress: RunProgress,
    evaluation: Evaluation | None,
    started_at: float,
) -> dict[str, Any]:
    """Return the run's results, with accuracies on the first real set; fractions are 0..1.

    The generators' device-seconds per accepted image are those of their work, without waiting; 0 without generators.

    `started_at` is a Unix time in seconds. Predictions are included if the settings have rates.
    """
    ended_at = time.time()
    training, counts = cast(TrainingProgress, progress.training), progress.counts  # a finished run has trained
    rates = measured_rates(config, recipe, counts, training, started_at, ended_at)
    devices, per_actor = config.generation.gpus_per_actor or 1.0, rates.generated_per_second
    return {
        **accuracies(evaluation),
        "num_generated": counts.num_images_made,
        "num_refused": dict(counts.num_refused),
        "num_left_out": dict(counts.num_left_out),
        "num_trained": training.num_trained,
        "num_model_loads": counts.num_loads.total(),
        "held_out_top1": training.held_out_top1,
        "generated_per_second": progress.generated_per_second,
        "generation_device_seconds_per_image": devices / per_actor if per_actor else 0.0,
        "trained_per_second": training.trained_per_second,
        "reuse": training.reuse,
        "batch_overlap": training.mean_batch_overlap,
        "waiting_fraction": training.waiting_fraction,
        "time_to_first_batch_seconds": training.first_batch_at - started_at,
        "training_seconds": training.training_seconds,
        "wall_seconds": ended_at - started_at,
        **compare_with_prediction(config, recipe, training, ended_at - started_at),
        "rates": dataclasses.asdict(rates),
        "recipe_hash": recipe.sha256,
    }


def accuracies(evaluation: Evaluation | None) -> dict[str, Any]:
    """Return the summary's results on the first real set; fractions are 0..1."""
    first_set = next(iter(evaluation["sets"].values()), None) if evaluation else None
    return {
        "top1": first_set and first_set["top1"],
        "top5": first_set and first_set["top5"],
        "num_real_images": first_set["num_images"] if first_set else 0,
    }


def compare_with_prediction(
    config: JobConfig, recipe: Recipe, training: TrainingProgress, wall_seconds: float
) -> dict[str, Any]:
    """Return predictions, the error of the wall time, and the binding side; empty without a prediction.

    For a pool of fixed size, GPU-hours and cost have the same relative error as the wall time.
    """
    prediction = predict_if_given(config, recipe)
    if prediction is None:
        return {}
    bound_by_pool = training.starved_seconds >= LITTLE_WAITING_FRACTION * training.learning_seconds
    return {
        "time_to_first_batch_seconds_predicted": prediction.time_to_first_batch_seconds,
        "wall_seconds_predicted": prediction.wall_seconds,
        "wall_seconds_error_fraction": prediction.wall_seconds / wall_seconds - 1,
        "binding_side": "generation" if bound_by_pool else "training",
        "binding_side_predicted": prediction.binding_side,
    }


def print_summary(summary: dict[str, Any]) -> None:
    """Print one row per number, without the many mean scores; nested numbers are named `group.part`."""
    facts: dict[str, str] = {}
    for name, value in summary.items():
        if name == MEAN_SCORES:
            continue
        parts = {f"{name}.{part}": number for part, number in value.items()} if isinstance(value, dict) else {}
        for each, number in (parts or {name: value}).items():
            facts[each] = f"{number:.4g}" if isinstance(number, float) else str(number)
    print_facts("Summary", facts)
