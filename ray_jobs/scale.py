"""Measure throughput by number of generators, autoscaling, and faults: `python -m ray_jobs.scale CONFIG [key=value]`.

Runs a sweep over pool sizes, a step in the trainer's speed that the pool follows, and a run with injected faults if
`faults` has any. `num_local_nodes` starts nodes on this machine; otherwise the running cluster is used. Writes
`scale.json` and `report.html`; exits with status 1 if a target is missed.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from ray_jobs.cli.command_line import run_and_exit

    run_and_exit("scale")

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import ray

from evaluation.inference.check import check_scorer
from generation.recipes.recipe import Recipe
from ray_jobs.cli.announce import announce
from ray_jobs.cli.config import to_yaml
from ray_jobs.cli.errors import user_errors
from ray_jobs.cli.run_folder import lock_run_folder, resolve, unlock
from ray_jobs.cli.scale_config import ScaleConfig
from ray_jobs.cluster.connect import connect, start_local
from ray_jobs.cluster.local_nodes import local_nodes
from ray_jobs.cluster.room import check_placement, generation_demand, training_demand
from ray_jobs.scaling.experiments import Experiments, node_size
from ray_jobs.scaling.faults import faults_load, faults_result
from ray_jobs.scaling.loads import fixed_pool, rate_per_actor
from ray_jobs.scaling.report import ScaleResults, print_results, write_report
from ray_jobs.scaling.step import step_load, step_result
from ray_jobs.scaling.sweep import sweep_load, sweep_point


def main(config: ScaleConfig) -> None:
    """Run the command: start nodes, run the experiments and write a report; exit status 1 if a target is missed."""
    results = ScaleResults()
    with user_errors():
        recipe, run_dir = prepare(config)
        open_cluster(config)
        with (
            local_nodes(config.num_local_nodes, node_size(config)) as nodes,
            user_errors(),
        ):  # at Ctrl-C, nodes end completely
            check_pool(config)
            run_lock = lock_run_folder(run_dir, to_yaml(config))
            with run_lock.undo as at_end:  # without any result, no files are left
                for results in measure(Experiments(config, recipe, nodes)):
                    at_end.pop_all()
                    at_end.callback(unlock, run_lock)
                    write_report(run_dir, config, recipe, results)
    print_results(results, config.prices.currency)
    print(f"Everything is in {run_dir}: report.html, scale.json")
    sys.exit("\n".join(results.missed) or None)


def prepare(config: ScaleConfig) -> tuple[Recipe, Path]:
    """Return recipe and run folder, checked as far as possible without a cluster."""
    if config.training.num_workers != 1:
        raise ValueError(f"training.num_workers is {config.training.num_workers}; the fake trainer needs 1. Use 1.")
    run_dir = resolve(config.output)
    recipe = config.opened_recipe
    rate_per_actor(config, recipe)
    check_scorer(recipe)
    return recipe, run_dir


def open_cluster(config: ScaleConfig) -> None:
    """Connect to the running cluster, or start a head for this job's local nodes."""
    if not config.num_local_nodes:
        connect()
    elif not ray.is_initialized():
        start_local()


def check_pool(config: ScaleConfig) -> None:
    """Raise ValueError if the cluster can never fit the largest pool and the trainer."""
    pool = fixed_pool(config, config.largest_pool)
    check_placement([generation_demand(pool), training_demand(config.training, pool.wait_for_nodes_seconds)])


def measure(experiments: Experiments) -> Iterator[ScaleResults]:
    """Run the experiments one after another; yield the results so far after each."""
    config, rate, results = experiments.config, experiments.rate, ScaleResults()
    for num_actors in config.sweep.actors:
        point = sweep_point(config, experiments.run(sweep_load(config, rate, num_actors)))
        announce(f"sweep: {point.line}")
        yield (results := replace(results, sweep=(*results.sweep, point)))
    if config.step.is_on:
        step = step_result(config, experiments.run(step_load(config, rate)))
        announce(f"step: {step.line}")
        yield (results := replace(results, step=step))
    if config.faults.is_on:
        faults = faults_result(config, experiments.run(faults_load(config, rate)))
        announce(f"faults: {faults.line}")
        yield (results := replace(results, faults=faults))
    yield replace(results, is_complete=True)
