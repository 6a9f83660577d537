"""What a pool costs when several learners share it: `python -m benchmarks.sharing CONFIG [--learners N]`.

Painted generators have a known rate; learners are threads that take the stream's batches and train nothing. The first
one alone is the reference. In the last two rows the buffer holds a tenth of the images.
"""

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from zlib import crc32

import click

from benchmarks.delivery import nominal_rate, start_painters
from benchmarks.floors import below_floor, floors_of
from generation.config import GenerationConfig, SharingConfig
from generation.indices import IndexSet, SampleRequest
from generation.pool.service import REQUESTS_PER_ACTOR, GenerationService
from generation.pool.shared_batches import SharedService, shared
from generation.recipes.recipe import Recipe
from generation.stream.stream import BatchRequester
from ray_jobs.cli.config import JobConfig
from ray_jobs.cli.console import CONSOLE
from ray_jobs.cli.errors import user_errors
from ray_jobs.job.tables import print_table

NUM_LEARNERS = 8
SLOW_RATE = 0.5
"""Rate of a slow learner, as a fraction of the generators' rate."""

SMALL_BUFFER = 0.1
"""Size of the buffer if one learner is slow or killed, as a fraction of all images."""

KILLED_AFTER = 0.3
"""Fraction of its images after which a learner is killed. Nobody notices, so the others wait for it."""


@dataclass(frozen=True)
class Learner:
    """A learner that takes images as fast as they come, or at a limited rate, until it has all or is killed."""

    name: str
    images_per_second: float = 0.0
    share_taken: float = 1.0

    def run(self, client: SharedService, config: GenerationConfig, num_samples: int) -> tuple[float, int]:
        """Return the seconds needed, and a checksum of the samples."""
        started_at, checksum = time.monotonic(), 0
        request, size = SampleRequest(IndexSet.of_ranges([range(num_samples)]), rank=0), client.batch_size()
        window = REQUESTS_PER_ACTOR * config.max_actors
        requester = BatchRequester(client.registered(request), config, size, window)
        for number, batch in enumerate(requester.request_set(request.serials), start=1):
            checksum = crc32(batch["image"][::8].tobytes(), checksum)
            if number * size >= self.share_taken * num_samples:
                break
            if self.images_per_second:
                time.sleep(max(0.0, started_at + number * size / self.images_per_second - time.monotonic()))
        return time.monotonic() - started_at, checksum


@dataclass(frozen=True)
class Outcome:
    """What several learners on one pool cost."""

    made_per_distinct: float
    seconds: float
    """Until the last learner that is neither slow nor killed had its images."""

    waiting_fraction: float
    """The largest share of its time that one of those waited for room."""

    checksums: frozenset[int]
    """Of those learners' samples; one if all got the same."""


@click.command()
@click.argument("arguments", nargs=-1)
@click.option("--learners", "num_learners", default=NUM_LEARNERS)
def main(arguments: tuple[str, ...], num_learners: int) -> None:
    """Measure one learner, several, a slow and a killed one; print a table; exit status 1 if a floor is missed."""
    with user_errors():
        floors = floors_of("sharing")
        config, recipe, service = start_painters(arguments)
    with service:
        buffer = SharingConfig(int(SMALL_BUFFER * config.training.num_trained * recipe.image_bytes))
        slow = Learner("slow", SLOW_RATE * nominal_rate(config.generation))
        killed = Learner("killed", share_taken=KILLED_AFTER)
        outcomes = {
            "one learner": run(service, recipe, config, equal(1)),
            f"{num_learners} learners": run(service, recipe, config, equal(num_learners)),
            "one of them slow": run(service, recipe, config, [slow, *equal(num_learners - 1)], buffer),
            "one of them killed": run(service, recipe, config, [killed, *equal(num_learners - 1)], buffer),
        }
    print_outcomes(outcomes)
    if below_floor(ratios_of(*list(outcomes.values())[:2]), floors):
        sys.exit("Sharing missed its targets: 1.1 times the images and 1.15 times the time of one learner.")


def ratios(arguments: Sequence[str]) -> dict[str, float]:
    """Measure one learner and several equal ones; return images and time of one as fractions of those of several."""
    with user_errors():
        config, recipe, service = start_painters(arguments)
    with service:
        return ratios_of(*(run(service, recipe, config, equal(number)) for number in (1, NUM_LEARNERS)))


def ratios_of(one: Outcome, several: Outcome) -> dict[str, float]:
    """Return images and time of one learner as fractions of those of several; exit unless all got the same samples."""
    if one.checksums != several.checksums:
        sys.exit("Learners that share a pool got other samples than one alone.")
    return {"images": one.made_per_distinct / several.made_per_distinct, "time": one.seconds / several.seconds}


def equal(number: int) -> list[Learner]:
    """Return learners as fast as the generators."""
    return [Learner(f"learner {i}") for i in range(number)]


def run(
    service: GenerationService,
    recipe: Recipe,
    config: JobConfig,
    learners: Sequence[Learner],
    sharing: SharingConfig | None = None,
) -> Outcome:
    """Run learners at the same time, each over all samples."""
    num_samples = config.training.num_trained
    with shared(service, recipe, sharing or SharingConfig()) as pool, ThreadPoolExecutor(len(learners)) as threads:
        clients = [pool.learner(learner.name, range(num_samples)) for learner in learners]
        runs = [
            threads.submit(learner.run, client, config.generation, num_samples)
            for learner, client in zip(learners, clients, strict=True)
        ]
        results = {learner.name: each.result() for learner, each in zip(learners, runs, strict=True)}
        counts = pool.counts()
    fast = [learner.name for learner in learners if not learner.images_per_second and learner.share_taken == 1.0]
    return Outcome(
        made_per_distinct=counts.num_made / counts.num_distinct,
        seconds=max(results[name][0] for name in fast),
        waiting_fraction=max(counts.waiting_seconds[name] / results[name][0] for name in fast),
        checksums=frozenset(results[name][1] for name in fast),
    )


def print_outcomes(outcomes: dict[str, Outcome]) -> None:
    """Print the cost of each row, with times relative to the first."""
    columns = ("", "images made per distinct image", "time of the others", "waited for room")
    first = next(iter(outcomes.values()))
    rows = [
        [name, f"{each.made_per_distinct:.3f}", f"{each.seconds / first.seconds:.3f}", f"{each.waiting_fraction:.0%}"]
        for name, each in outcomes.items()
    ]
    print_table(f"Learners that share a pool; one alone takes {first.seconds:.1f} s", columns, rows)


if __name__ == "__main__":
    CONSOLE.detach_stderr()
    main()
