"""What a painted trainer wants of a pool. Knows no experiment."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from generation.config import GenerationConfig
from generation.recipes.recipe import Recipe
from ray_jobs.cli.scale_config import FaultsConfig, ScaleConfig


@dataclass(frozen=True)
class Phase:
    """A part of a run in which the trainer has one appetite."""

    seconds: float
    images_per_second: float
    """What it takes if they come; 0 is all that comes."""


def appetite_at(phases: Sequence[Phase], seconds: float) -> float:
    """Return what the trainer takes a second, so long after its first batch; after the last phase all that comes."""
    for phase in phases:
        if seconds < phase.seconds:
            return phase.images_per_second
        seconds -= phase.seconds
    return 0.0


@dataclass(frozen=True)
class Load:
    """A pool, and what is wanted of it."""

    generation: GenerationConfig
    phases: tuple[Phase, ...]
    num_images: int
    faults: FaultsConfig = dataclasses.field(default_factory=FaultsConfig)
    """What goes wrong meanwhile."""


def rate_per_actor(config: ScaleConfig, recipe: Recipe) -> float:
    """Return images a second that an actor makes at work; ValueError if they are not known."""
    generation = config.generation
    if generation.batch_sizes:
        raise ValueError(
            "generation.batch_sizes gives actors several rates, and scale experiments know one. Leave it out."
        )
    if recipe.generator != "painted":
        if not config.rates.generated_per_second:
            raise ValueError(
                "How fast these generators are is not known, by which runs are measured out. Give "
                "rates.generated_per_second, as every run's summary.json has it."
            )
        return config.rates.generated_per_second
    if not (generation.painted_batch_seconds and generation.batch_size):
        raise ValueError(
            "Painted generators need a known rate: give generation.painted_batch_seconds and batch_size above 0."
        )
    return generation.batch_size / generation.painted_batch_seconds


def fixed_pool(config: ScaleConfig, num_actors: int) -> GenerationConfig:
    """Return the settings of a pool that neither grows nor shrinks."""
    return dataclasses.replace(config.generation, min_actors=num_actors, max_actors=num_actors, initial_actors=0)


def whole_batches(config: ScaleConfig, num_images: float) -> int:
    """Return about so many images, of which all batches are whole, those of actors and those of the trainer."""
    size = max(config.generation.batch_size, config.training.global_batch_size)
    return max(2, round(num_images / size)) * size
