"""Fraction of the generators' rate that reaches training: `python -m benchmarks.delivery CONFIG`.

Painted generators have a known rate; one Ray Train worker consumes the images and discards them. The stream is compared
with the plain alternative, generators in a Ray Data actor pool. CONFIG is usually ray_jobs/configs/benchmark.yaml.
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import ray.data
from ray.data import ActorPoolStrategy, Dataset

from benchmarks.floors import below_floor, floors_of
from generation.config import GenerationConfig
from generation.engine.actor import GeneratorActor
from generation.indices import SampleRequest
from generation.pool.service import GenerationService, start_generation
from generation.recipes.recipe import Recipe
from generation.sample import SampleBatch
from generation.stream.stream import stream_samples
from ray_jobs.cli.config import JobConfig, load_config
from ray_jobs.cli.console import CONSOLE
from ray_jobs.cli.errors import user_errors
from ray_jobs.cluster.connect import connect
from ray_jobs.cluster.placement import Demand
from ray_jobs.cluster.room import check_placement, generation_demand, training_demand
from ray_jobs.job.tables import print_table
from ray_jobs.scaling.background import growth_bytes, resident_bytes, sampling
from ray_jobs.scaling.painted_trainer import PaintedJob, close_ledger, open_ledger, train_painted
from training.config import TrainingConfig

STREAM = "stream (Ray Serve)"

READER = Demand(
    what="reading tasks of Ray Data",
    count=1,
    resources={"CPU": 1.0},
    remedy="Lower generation.cpus_per_actor or training.cpus_per_worker",
)
"""Task that reads the actor pool's indices; without a free CPU for it the pool waits forever."""

WARM_UP_FRACTION = 0.1
"""Fraction of the samples before the steady rate is measured; by then the initial backlog is used up."""


@dataclass(frozen=True)
class Delivery:
    """The samples that reached the training worker, and how fast."""

    num_samples: int
    num_distinct: int
    rate_after_first_batch: float
    """Images per second."""

    steady_rate: float
    """Images per second after the warm-up."""

    driver_growth_bytes: int
    """Peak resident memory of the driver above its size after the first tenth of the run."""

    @property
    def rates(self) -> tuple[float, float]:
        """Both rates."""
        return self.rate_after_first_batch, self.steady_rate


def main() -> None:
    """Run the command: measure the stream, then the actor pool, and print a table; exit status 1 below the floor."""
    with user_errors():
        floors = floors_of("delivery")
        config, recipe, service = start_painters(sys.argv[1:], READER)
    with service:
        stream = deliver_stream(service, recipe, config)
    pool = deliver(actor_pool_samples(recipe, config.generation, config.training.num_trained), config.training)
    nominal = nominal_rate(config.generation)
    print_deliveries({STREAM: stream, "actor pool (Ray Data)": pool}, nominal)
    check_complete(stream, config.training)
    if below_floor(ratios_of(stream, nominal), floors):
        sys.exit(f"The stream missed its target: at least {floors[STREAM]:g} of the nominal rate.")


def ratios(arguments: Sequence[str]) -> dict[str, float]:
    """Measure the stream only; return its rate as a fraction of the nominal rate."""
    with user_errors():
        config, recipe, service = start_painters(arguments)
    with service:
        stream = deliver_stream(service, recipe, config)
    check_complete(stream, config.training)
    return ratios_of(stream, nominal_rate(config.generation))


def ratios_of(stream: Delivery, nominal: float) -> dict[str, float]:
    """Return the lower of the stream's rates as a fraction of the nominal rate, in images a second."""
    return {STREAM: min(stream.rates) / nominal}


def check_complete(stream: Delivery, config: TrainingConfig) -> None:
    """Exit with status 1 unless every sample was delivered."""
    if stream.num_distinct != config.num_trained:
        sys.exit(f"The stream delivered {stream.num_distinct} of {config.num_trained} samples.")


def start_painters(arguments: Sequence[str], *beside: Demand) -> tuple[JobConfig, Recipe, GenerationService]:
    """Return settings, recipe and a running pool of painted generators.

    ValueError if their rate is unknown, or the cluster cannot hold the pool, the trainer and the demands `beside`.
    """
    config = load_config(JobConfig, arguments)
    recipe = config.opened_recipe
    if recipe.generator != "painted" or not (config.generation.painted_batch_seconds and config.generation.batch_size):
        raise ValueError(
            "The benchmark needs generators of known rate. Set recipe.generator=painted, and "
            "generation.painted_batch_seconds and generation.batch_size above 0."
        )
    connect()
    wait_seconds = config.generation.wait_for_nodes_seconds
    check_placement([generation_demand(config.generation), training_demand(config.training, wait_seconds), *beside])
    return config, recipe, start_generation(recipe, config.generation)


def nominal_rate(config: GenerationConfig) -> float:
    """Return the rate of all painted generators, in images per second."""
    return config.max_actors * config.batch_size / config.painted_batch_seconds


def deliver_stream(service: GenerationService, recipe: Recipe, config: JobConfig) -> Delivery:
    """Deliver each sample of the run once from the live stream, without writing shards."""
    wanted = SampleRequest.all_of(range(config.training.num_trained))
    return deliver(stream_samples(service, recipe, config.generation, wanted), config.training)


def actor_pool_samples(recipe: Recipe, config: GenerationConfig, num_samples: int) -> Dataset:
    """Return the same rows from generators inside a Ray Data actor pool."""
    return (
        ray.data.range(num_samples, override_num_blocks=100, concurrency=1)
        .repartition(target_num_rows_per_block=config.batch_size)
        .map_batches(
            PooledGenerator,
            fn_constructor_args=[recipe, config],
            batch_size=config.batch_size,
            compute=ActorPoolStrategy(size=config.max_actors),
            num_cpus=config.cpus_per_actor,
            num_gpus=config.gpus_per_actor,
            label_selector=config.label_selector,
        )
    )


class PooledGenerator:
    """A `GeneratorActor` with the interface of Ray Data."""

    def __init__(self, recipe: Recipe, config: GenerationConfig) -> None:
        self.actor = GeneratorActor(recipe, config)

    def __call__(self, batch: dict[str, np.ndarray]) -> SampleBatch:
        """Return the samples of the batch's indices."""
        return self.actor.generate(batch["id"].tolist())


def deliver(dataset: Dataset, config: TrainingConfig) -> Delivery:
    """Consume a dataset in one training worker, and sample this driver's memory meanwhile."""
    ledger = open_ledger()
    job = PaintedJob(lambda _: dataset, config.num_trained, config.global_batch_size, ledger)
    with sampling(resident_bytes, interval_seconds=1.0) as memory:
        train_painted(job, dataclasses.replace(config, num_workers=1))
    delivered = close_ledger(ledger)
    deliveries, indices = delivered.deliveries(), np.concatenate(delivered.indices)
    warm_at, last_at = deliveries.delivered_at[[int(len(deliveries.nums) * WARM_UP_FRACTION), -1]]
    return Delivery(
        num_samples=len(indices),
        num_distinct=len(set(indices.tolist())),
        rate_after_first_batch=deliveries.mean_rate(),
        steady_rate=deliveries.rate_between(warm_at, last_at),
        driver_growth_bytes=growth_bytes(memory),
    )


def print_deliveries(deliveries: dict[str, Delivery], nominal: float) -> None:
    """Print both ways, rates as fractions of the nominal rate."""
    columns = ("", "samples", "distinct", "since first batch", "steady", "steady/nominal", "driver memory growth")
    rows = [
        [
            name,
            f"{delivery.num_samples:,}",
            f"{delivery.num_distinct:,}",
            f"{delivery.rate_after_first_batch / nominal:.3f}",
            f"{delivery.steady_rate:.1f}/s",
            f"{delivery.steady_rate / nominal:.3f}",
            f"{delivery.driver_growth_bytes / 1e6:.1f} MB",
        ]
        for name, delivery in deliveries.items()
    ]
    print_table(f"Delivered to training; nominal rate {nominal:g} images/s", columns, rows)


if __name__ == "__main__":
    CONSOLE.detach_stderr()
    main()
