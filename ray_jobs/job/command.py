"""What every command does around its own work: says how it goes, and begins once folder and cluster are its own."""

from collections.abc import Sequence

from generation.config import GenerationConfig
from generation.pool.service import GenerationService, start_generation
from generation.recipes.recipe import Recipe
from ray_jobs.cli.announce import announce
from ray_jobs.cli.config import JobConfig, to_yaml
from ray_jobs.cluster.connect import connect, session_logs
from ray_jobs.cluster.placement import Demand
from ray_jobs.cluster.room import check_placement, generation_demand
from ray_jobs.job.run_folder import Claim, claim, resolve, withdrawn_at_errors


def begin(config: JobConfig, *stages: Sequence[Demand], goes_on: bool = False) -> Claim:
    """Lock the folder `output`, connect to Ray, and check that each stage of the job fits; ValueError if not.

    What fails leaves the folder as it was. `goes_on` is for a run that is there already.
    """
    claimed = claim(resolve(config.output), to_yaml(config), goes_on)
    with withdrawn_at_errors(claimed):
        connect()
        announce(f"connected to Ray; its logs are in {session_logs()}")
        check_placement(*stages)
    return claimed


def start_pool_alone(recipe: Recipe, config: GenerationConfig) -> GenerationService:
    """Connect to Ray and start a pool for a job that only generates; ValueError if it can never fit."""
    connect()
    check_placement([generation_demand(config)])
    return start_generation(recipe, config)
