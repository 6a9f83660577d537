"""Images per second of one generator on one device: `python -m benchmarks.generator CONFIG [section.key=value ...]`.

Needs no Ray. Prints one row per batch size, with the rate without `recipe.check` beside it, and the rate of planning.
"""

import dataclasses
import sys
import time

from evaluation.inference.check import build_scorer
from generation.engine.actor import GeneratorActor
from generation.recipes.plan import plan_sample
from generation.recipes.recipe import Recipe
from ray_jobs.cli.config import JobConfig, load_config
from ray_jobs.cli.console import CONSOLE
from ray_jobs.job.tables import print_table

BATCH_SIZES = (1, 8, 32, 64, 128)
MIN_SECONDS = 5.0
"""Minimum duration of each measurement, after one warm-up batch."""


def main() -> None:
    """Measure the config's generator at several batch sizes."""
    config = load_config(JobConfig, sys.argv[1:])
    recipe = config.opened_recipe
    actors = [GeneratorActor(recipe, config.generation, build_scorer)]
    if recipe.check:
        unchecked = dataclasses.replace(recipe, check="", check_revision="", keep_above=0.0)
        actors.append(GeneratorActor(unchecked, config.generation))
    title = f"{recipe.model or recipe.generator}, {config.generation.threads_per_actor} threads"
    rates = [[images_per_second(actor, batch_size) for actor in actors] for batch_size in BATCH_SIZES]
    rows = [[f"{n}", *(f"{rate:.1f}" for rate in row)] for n, row in zip(BATCH_SIZES, rates, strict=True)]
    print_table(title, ("batch size", "images/s", "without the check")[: 1 + len(actors)], rows)
    print(f"planning alone: {plans_per_second(recipe):,.0f} plans/s")


def images_per_second(actor: GeneratorActor, batch_size: int) -> float:
    """Return the rate over at least `MIN_SECONDS`; each batch has new samples."""
    actor.generate(range(batch_size))
    start, started_at = batch_size, time.monotonic()
    while time.monotonic() - started_at < MIN_SECONDS:
        actor.generate(range(start, start + batch_size))
        start += batch_size
    return (start - batch_size) / (time.monotonic() - started_at)


def plans_per_second(recipe: Recipe) -> float:
    """Return the number of samples planned per second."""
    index, started_at = 0, time.monotonic()
    while time.monotonic() - started_at < 1.0:
        plan_sample(recipe, index)
        index += 1
    return index / (time.monotonic() - started_at)


if __name__ == "__main__":
    CONSOLE.detach_stderr()
    main()
