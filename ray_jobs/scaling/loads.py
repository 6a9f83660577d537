"""The load of a scale experiment: pool, trainer speed over time, number of images."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from generation.config import GenerationConfig
from generation.recipes.recipe import Recipe
from ray_jobs.cli.scale_config import FaultsConfig, ScaleConfig


@dataclass(frozen=True)
class Phase:
    """A part of a run with a constant trainer speed."""

    seconds: float
    images_per_second: float
    """Speed limit of the trainer; 0 consumes images as fast as they arrive."""


def trainer_rate_at(phases: Sequence[Phase], seconds: float) -> float:
    """Return the trainer's speed limit in images per second at a time since its first batch; 0 after all phases."""
    for phase in phases:
        if seconds < phase.seconds:
            return phase.images_per_second
        seconds -= phase.seconds
    return 0.0


@dataclass(frozen=True)
class Load:
    """The settings of a pool, and the images requested from it."""

    generation: GenerationConfig
    phases: tuple[Phase, ...]
    num_images: int
    faults: FaultsConfig = dataclasses.field(default_factory=FaultsConfig)
    """Faults injected during the run."""


def rate_per_actor(config: ScaleConfig, recipe: Recipe) -> float:
    """Return the images per second of a busy actor; ValueError if the rate is unknown."""
    generation = config.generation
    if generation.batch_sizes:
        raise ValueError(
            "generation.batch_sizes is set, but scale experiments need one rate for all actors. Remove it."
        )
    if recipe.generator != "painted":
        if not config.rates.generated_per_second:
            raise ValueError(
                "The rate of these generators is unknown, so the number of images cannot be chosen. Set "
                "rates.generated_per_second; summary.json of an earlier run has it."
            )
        return config.rates.generated_per_second
    if not (generation.painted_batch_seconds and generation.batch_size):
        raise ValueError(
            "The rate of the painted generators is unknown. Set generation.painted_batch_seconds and "
            "generation.batch_size above 0."
        )
    return generation.batch_size / generation.painted_batch_seconds


def fixed_pool(config: ScaleConfig, num_actors: int) -> GenerationConfig:
    """Return the settings of a pool of fixed size."""
    return dataclasses.replace(config.generation, min_actors=num_actors, max_actors=num_actors, initial_actors=0)


def whole_batches(config: ScaleConfig, num_images: float) -> int:
    """Return `num_images` rounded to whole batches, of actor or trainer, whichever are larger; at least two."""
    size = max(config.generation.batch_size, config.training.global_batch_size)
    return max(2, round(num_images / size)) * size
