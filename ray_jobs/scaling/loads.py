"""What a painted trainer wants of which pool, in each of the scale experiments. A function of the settings."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from generation.config import GenerationConfig
from generation.recipes.recipe import Recipe
from ray_jobs.scaling.config import FaultsConfig, ScaleConfig


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
    follows_trainer: bool = False
    """Whether the pool is told how the trainer does."""

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


def sweep_load(config: ScaleConfig, rate: float, num_actors: int) -> Load:
    """Return what a pool of a fixed size is asked for, whose actors have this rate each."""
    phase = Phase(math.inf, config.sweep.trainer_images_per_second)
    num_images = whole_batches(config, num_actors * rate * config.sweep.seconds)
    return Load(fixed_pool(config, num_actors), (phase,), num_images)


def step_load(config: ScaleConfig, rate: float) -> Load:
    """Return what a pool is asked for that follows its trainer, slow, fast and slow again."""
    step = config.step
    few, many = (step.appetite_fraction * num * rate for num in (step.few_actors, step.many_actors))
    phases = (Phase(step.few_seconds, few), Phase(step.many_seconds, many), Phase(step.last_seconds, few))
    pool = dataclasses.replace(
        config.generation,
        min_actors=step.few_actors,
        max_actors=step.many_actors,
        initial_actors=step.few_actors,
    )
    num_images = sum(phase.seconds * phase.images_per_second for phase in phases)
    return Load(pool, phases, whole_batches(config, num_images), follows_trainer=True)


def faults_load(config: ScaleConfig, rate: float) -> Load:
    """Return what a pool of a fixed size is asked for while things go wrong."""
    num_actors, seconds = config.faults.num_actors, config.faults.seconds
    num_images = whole_batches(config, num_actors * rate * seconds)
    return Load(fixed_pool(config, num_actors), (), num_images, faults=config.faults)


def fixed_pool(config: ScaleConfig, num_actors: int) -> GenerationConfig:
    """Return the settings of a pool that neither grows nor shrinks."""
    return dataclasses.replace(config.generation, min_actors=num_actors, max_actors=num_actors, initial_actors=0)


def whole_batches(config: ScaleConfig, num_images: float) -> int:
    """Return about so many images, of which all batches are whole, those of actors and those of the trainer."""
    size = max(config.generation.batch_size, config.training.global_batch_size)
    return max(2, round(num_images / size)) * size
