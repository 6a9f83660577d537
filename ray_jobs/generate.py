"""Generate a data set as shards: `python -m ray_jobs.generate CONFIG output=URI [--verify] [section.key=value ...]`.

Writes the samples that training with this config would stream, and below `held_out` those for its validation. Run it
again to generate missing shards: after a kill, or after raising `training.num_images`. `--verify` first checks every
stored sample and regenerates damaged shards.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from ray_jobs.cli.command_line import run_and_exit

    run_and_exit("generate")

import time
from collections.abc import Sequence
from contextlib import ExitStack

from evaluation.inference.check import build_scorer, check_scorer
from generation.pool.service import GenerationService, start_generation
from generation.recipes.checks import check_recipe
from generation.recipes.recipe import Recipe
from generation.shards.datasets import check_shards, write_shards
from generation.shards.shard_set import ShardSet
from ray_jobs.cli.announce import STARTED_AT, announce
from ray_jobs.cli.config import JobConfig
from ray_jobs.cli.errors import errors_at_work, user_errors
from ray_jobs.cli.run_folder import locked
from ray_jobs.cluster.connect import connect
from ray_jobs.cluster.room import check_placement, generation_demand
from ray_jobs.job.data_card import write_card
from ray_jobs.job.data_set import DataSplit, open_splits

PROGRESS_SECONDS = 10.0


def main(config: JobConfig, verify: bool) -> None:
    """Run the command: find the missing shards, generate them with a pool, and write a data card."""
    with ExitStack() as held:
        with user_errors():
            config, recipe, splits = prepare(config)
            for note in check_recipe(recipe, config.recipe):
                announce(note)
            held.enter_context(locked(splits[0].storage))
            connect()
            if verify:
                find_damage(splits, config)
            if all(split.is_complete for split in splits):
                finish([split.found for split in splits if split.found is not None])
                announce(f"nothing to generate: all images are in {splits[0].storage.url}")
                return
            check_scorer(recipe)  # not yet checked if shards were complete, but damaged
            check_placement([generation_demand(config.generation)])
            service = held.enter_context(start_generation(recipe, config.generation, build_scorer))
            announce(f"{service.num_loaded()} generator actors up, batches of {service.batch_size()}")
            sets = [split.create_or_extend(recipe, config.data, service.common_batch_size()) for split in splits]
        with errors_at_work("Complete shards are stored; run the same command to generate the rest."):
            for split, shards in zip(splits, sets, strict=True):
                generate(service, config, shards, split)
            finish(sets)
    announce(f"all {sum(len(split.indices) for split in splits):,} images are in {splits[0].storage.url}")


def prepare(config: JobConfig) -> tuple[JobConfig, Recipe, list[DataSplit]]:
    """Return settings, recipe and splits with their stored shards, checked as far as possible without a cluster."""
    recipe = config.opened_recipe
    config, splits = open_splits(config.output, recipe, config)
    if not all(split.is_complete for split in splits):
        check_scorer(recipe)
    return config, recipe, splits


def finish(sets: Sequence[ShardSet]) -> None:
    """Write the data card, and remove partly written files of killed jobs."""
    write_card(sets)
    sets[0].storage.remove_leftovers(STARTED_AT)


def find_damage(splits: Sequence[DataSplit], config: JobConfig) -> None:
    """Check every stored sample, announce problems, and mark damaged shards for regeneration."""
    for split in splits:
        if split.found is None:
            continue
        stored = sorted(set(range(len(split.found.ranges))) - set(split.found.missing()))
        announce(f"checking {len(stored)} shards in {split.storage.url}")
        rows = check_shards(split.found, stored, config.data.num_readers).take_all() if stored else []
        damaged = {int(row["number"]): str(row["problems"]) for row in rows if row["problems"]}
        for number, problems in sorted(damaged.items()):
            announce(f"shard {number} is damaged: {'; '.join(problems.splitlines()[:3])}")
        split.damaged = sorted(damaged)


def generate(service: GenerationService, config: JobConfig, shards: ShardSet, split: DataSplit) -> None:
    """Generate a split's missing and damaged shards, and announce progress."""
    numbers = split.to_make(shards)
    if not numbers:
        return
    announce(f"generating {len(numbers)} of {len(shards.ranges)} shards in {shards.storage.url}")
    began_at = announced_at = time.monotonic()
    num_images = num_shards = 0
    for row in write_shards(service, config.generation, shards, numbers, split.damaged).iter_rows():
        num_images, num_shards = num_images + int(row["num_images"]), num_shards + 1
        if time.monotonic() - announced_at >= PROGRESS_SECONDS or num_shards == len(numbers):
            announced_at = time.monotonic()
            rate = num_images / (announced_at - began_at)
            announce(f"{num_shards}/{len(numbers)} shards, {num_images:,} images, {rate:.1f}/s")
