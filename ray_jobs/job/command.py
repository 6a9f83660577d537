"""What every command does around its own work: log its stages, lock its folder, connect to Ray."""

from collections.abc import Sequence

from evaluation.inference.check import build_scorer, check_scorer
from generation.config import GenerationConfig
from generation.pool.service import GenerationService, start_generation
from generation.recipes.recipe import Recipe
from ray_jobs.cli.announce import announce
from ray_jobs.cli.config import JobConfig, to_yaml
from ray_jobs.cli.run_folder import RunLock, lock_run_folder, resolve, undo_on_error
from ray_jobs.cluster.connect import connect, session_logs
from ray_jobs.cluster.placement import Demand
from ray_jobs.cluster.room import check_placement, generation_demand


def begin(config: JobConfig, *stages: Sequence[Demand], resume: bool = False) -> RunLock:
    """Lock the folder `output`, connect to Ray, and check that each stage of the job fits; ValueError if not.

    On failure the folder is left unchanged. `resume` continues an existing run.
    """
    run_lock = lock_run_folder(resolve(config.output), to_yaml(config), resume)
    with undo_on_error(run_lock):
        connect()
        announce(f"connected to Ray; its logs are in {session_logs()}")
        check_placement(*stages)
    return run_lock


def start_pool_alone(recipe: Recipe, config: GenerationConfig) -> GenerationService:
    """Connect to Ray and start a pool for a job that only generates; ValueError if it can never fit."""
    check_scorer(recipe)
    connect()
    check_placement([generation_demand(config)])
    return start_generation(recipe, config, build_scorer)
