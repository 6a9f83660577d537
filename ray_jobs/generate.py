"""Generate a data set as shards: `python -m ray_jobs.generate CONFIG output=URI [--verify] [section.key=value ...]`.

Writes the samples that training with this config would stream, and below `held_out` those that it is judged on.
Run again, it makes what is missing: after a kill, or when `training.num_images` has grown. `--verify` looks at
every sample that is there first, and makes damaged shards again.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from ray_jobs.cli.command_line import run_and_exit

    run_and_exit("generate")

import time
from collections.abc import Sequence
from contextlib import ExitStack

from generation.pool.service import GenerationService, start_generation
from generation.recipes.checks import check_recipe
from generation.recipes.recipe import Recipe
from generation.shards.datasets import check_shards, write_shards
from generation.shards.shard_set import ShardSet
from ray_jobs.cli.announce import STARTED_AT, announce
from ray_jobs.cli.config import JobConfig, open_recipe
from ray_jobs.cli.errors import errors_at_work, user_errors
from ray_jobs.cluster.connect import connect
from ray_jobs.cluster.room import check_placement, generation_demand
from ray_jobs.job.data_card import write_card
from ray_jobs.job.data_set import DataSplit, open_splits
from ray_jobs.job.run_folder import locked

PROGRESS_SECONDS = 10.0


def main(config: JobConfig, verify: bool) -> None:
    """Compose the job: what is there, what is to be made, a pool that makes it, a card."""
    with ExitStack() as held:
        with user_errors():
            config, recipe, parts = prepare(config)
            for note in check_recipe(recipe, config.recipe):
                announce(note)
            held.enter_context(locked(parts[0].storage))
            connect()
            if verify:
                find_damage(parts, config)
            if all(part.is_complete for part in parts):
                finish([part.found for part in parts if part.found is not None])
                announce(f"nothing to make: all images are in {parts[0].storage.url}")
                return
            check_placement([generation_demand(config.generation)])
            service = held.enter_context(start_generation(recipe, config.generation))
            announce(f"{service.num_loaded()} generator actors up, batches of {service.batch_size()}")
            sets = [part.create_or_extend(recipe, config.data, service.common_batch_size()) for part in parts]
        with errors_at_work("Whole shards stay; the same command makes the rest."):
            for part, shards in zip(parts, sets, strict=True):
                make(service, config, shards, part)
            finish(sets)
    announce(f"all {sum(len(part.indices) for part in parts):,} images are in {parts[0].storage.url}")


def prepare(config: JobConfig) -> tuple[JobConfig, Recipe, list[DataSplit]]:
    """Return settings, recipe and what is there already, all checked as far as that goes without a cluster."""
    recipe = open_recipe(config)
    config, parts = open_splits(config.output, recipe, config)
    return config, recipe, parts


def finish(sets: Sequence[ShardSet]) -> None:
    """Write the card, and remove what jobs that were killed left half-written."""
    write_card(sets)
    sets[0].storage.remove_leftovers(STARTED_AT)


def find_damage(parts: Sequence[DataSplit], config: JobConfig) -> None:
    """Look at every sample of the shards that are there, say what is wrong, and note whose shards to make again."""
    for part in parts:
        if part.found is None:
            continue
        there = sorted(set(range(len(part.found.ranges))) - set(part.found.missing()))
        announce(f"looking at {len(there)} shards in {part.storage.url}")
        rows = check_shards(part.found, there, config.data.num_readers).take_all() if there else []
        faulty = {int(row["number"]): str(row["problems"]) for row in rows if row["problems"]}
        for number, faults in sorted(faulty.items()):
            announce(f"shard {number} is damaged: {'; '.join(faults.splitlines()[:3])}")
        part.damaged = sorted(faulty)


def make(service: GenerationService, config: JobConfig, shards: ShardSet, part: DataSplit) -> None:
    """Make the shards that a part lacks or that are damaged, and say how it goes now and then."""
    numbers = part.to_make(shards)
    if not numbers:
        return
    announce(f"making {len(numbers)} of {len(shards.ranges)} shards in {shards.storage.url}")
    began_at = said_at = time.monotonic()
    num_images = num_shards = 0
    for row in write_shards(service, config.generation, shards, numbers, part.damaged).iter_rows():
        num_images, num_shards = num_images + int(row["num_images"]), num_shards + 1
        if time.monotonic() - said_at >= PROGRESS_SECONDS or num_shards == len(numbers):
            said_at = time.monotonic()
            rate = num_images / (said_at - began_at)
            announce(f"{num_shards}/{len(numbers)} shards, {num_images:,} images, {rate:.1f}/s")
