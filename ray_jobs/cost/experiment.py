"""What an experiment will cost, before it starts. Part of `ray_jobs.plan`."""

import dataclasses
from collections.abc import Sequence

from generation.recipes.recipe import Recipe
from ray_jobs.cli.config import JobConfig, Rates
from ray_jobs.cli.experiment_config import ExperimentConfig, Learner, group_of, learners
from ray_jobs.cli.run_folder import resolve
from ray_jobs.cost.prediction import num_generators, num_images_needed, predict
from ray_jobs.cost.table import read_rates
from ray_jobs.job.tables import print_table

COLUMNS = ("arm", "runs", "recipe", "images", "trained on", "minutes", "generators", "trainers", "cost")


@dataclasses.dataclass(frozen=True)
class ArmPlan:
    """What one run of an arm needs; times are None while a rate is unknown."""

    learner: Learner
    recipe: Recipe
    num_generated: int
    wall_seconds: float | None = None
    generation_hours: float | None = None
    """Busy hours of generator devices for the images of one run."""

    training_hours: float | None = None


def print_experiment(config: ExperimentConfig, like: str) -> None:
    """Print what each arm and all runs together need, from the rates of the settings or of an earlier run."""
    given = read_rates(resolve(like)) if like else None
    by_device = {each.arm: device_rate(each.config, given) for each in learners(config)}
    if config.budget.is_measured and not all(by_device.values()):
        raise ValueError(
            "budget.generator_device_seconds needs rates.generated_per_second, which the experiment itself measures. "
            "Set it for every arm, or use the rates of a run: figment plan CONFIG --like RUN."
        )
    found = learners(config, by_device)
    plans = [plan_of(each, given or each.config.rates) for each in found[:: len(config.seeds)]]
    rows = [row(config, each) for each in plans]
    print_table("Experiment", COLUMNS, [*rows, total(config, plans)], text=("arm", "recipe"))
    print(
        "An arm's row is of one run. In the sum, runs of the same recipe and generation settings share their images, "
        "and the minutes are those of all runs one after another. Hours are those of devices, generators' while busy."
    )
    if any(each.wall_seconds is None for each in plans):
        print("Times are unknown: set rates, or use those of a run with --like RUN.")


def device_rate(config: JobConfig, given: Rates | None) -> float:
    """Return images per second of one generator device."""
    return (given or config.rates).generated_per_second / (config.generation.gpus_per_actor or 1.0)


def plan_of(learner: Learner, rates: Rates) -> ArmPlan:
    """Return what one run of an arm needs."""
    config = dataclasses.replace(learner.config, rates=rates)
    recipe = config.opened_recipe
    num_generated = num_images_needed(config, recipe)[1] if num_generators(config) else 0
    known = ArmPlan(learner, recipe, num_generated)
    if not rates.trained_per_second or (num_generated and not rates.generated_per_second):
        return known
    prediction = predict(config, recipe)
    return dataclasses.replace(
        known,
        wall_seconds=prediction.wall_seconds,
        generation_hours=num_generated / device_rate(config, rates) / 3600 if num_generated else 0.0,
        training_hours=prediction.training_device_hours,
    )


def row(config: ExperimentConfig, plan: ArmPlan) -> list[str]:
    """Return an arm's row: the amounts of one run."""
    trained = plan.learner.config.training.num_trained
    name = (plan.learner.arm, str(len(config.seeds)), plan.recipe.sha256[:12])
    return [*name, *amounts(config, plan.num_generated, trained, sums_of([plan]))]


def total(config: ExperimentConfig, plans: Sequence[ArmPlan]) -> list[str]:
    """Return the row of all runs: the sum, and of the images of each group the largest number."""
    largest: dict[str, ArmPlan] = {}
    for plan in plans:
        group = group_of(plan.learner.config)
        largest[group] = max(plan, largest.get(group, plan), key=lambda each: each.num_generated)
    num_seeds, groups = len(config.seeds), list(largest.values())
    wall, _, training = (seconds and num_seeds * seconds for seconds in sums_of(plans))
    trained = num_seeds * sum(plan.learner.config.training.num_trained for plan in plans)
    name = ("all", str(num_seeds * len(plans)), f"{len({plan.recipe.sha256 for plan in plans})} recipes")
    generated = sum(plan.num_generated for plan in groups)
    return [*name, *amounts(config, generated, trained, (wall, sums_of(groups)[1], training))]


def sums_of(plans: Sequence[ArmPlan]) -> tuple[float | None, ...]:
    """Return wall seconds, generation hours and training hours of one run each; None where one is unknown."""
    columns = zip(*((plan.wall_seconds, plan.generation_hours, plan.training_hours) for plan in plans), strict=True)
    return tuple(None if None in column else sum(filter(None, column)) for column in columns)


def amounts(
    config: ExperimentConfig, num_generated: int, num_trained: int, known: tuple[float | None, ...]
) -> list[str]:
    """Return the columns after the recipe."""
    wall, generation, training = known
    images = [f"{num_generated:,}", f"{num_trained:,}"]
    if wall is None or generation is None or training is None:
        return [*images, *["?"] * 4]
    cost = config.prices.of_devices(generation, training)
    paid = f"{cost:,.2f} {config.prices.currency}" if cost else "-"
    return [*images, f"{wall / 60:,.1f}", f"{generation:,.3f} h", f"{training:,.3f} h", paid]
