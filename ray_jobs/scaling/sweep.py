"""The sweep over pool sizes: load, result and missed targets of each pool."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.pages.html import number, percent
from ray_jobs.cli.config import Prices
from ray_jobs.cli.scale_config import ScaleConfig
from ray_jobs.scaling.background import growth_bytes
from ray_jobs.scaling.experiments import LoadResult
from ray_jobs.scaling.loads import Load, Phase, fixed_pool, whole_batches
from ray_jobs.scaling.throughput import Exactness

MIN_FRACTION, MIN_FRACTION_OF_LARGE_POOLS, LARGE_POOL = 0.97, 0.95, 17
"""Targets for the delivered fraction of the nominal rate: in general, and with `LARGE_POOL` or more actors."""


def sweep_load(config: ScaleConfig, rate: float, num_actors: int) -> Load:
    """Return the load: a pool of fixed size and the images it makes in `sweep.seconds`; `rate` is an actor's."""
    phase = Phase(math.inf, config.sweep.trainer_images_per_second)
    num_images = whole_batches(config, num_actors * rate * config.sweep.seconds)
    return Load(fixed_pool(config, num_actors), (phase,), num_images)


@dataclass(frozen=True)
class SweepPoint:
    """The results of a pool of one size."""

    num_actors: int
    nominal_per_second: float
    """Images per second of all actors while busy."""

    delivered_per_second: float
    """Images per second at the trainer in the steady part of the run."""

    delivered_fraction: float
    """Delivered rate over nominal rate."""

    since_first_batch_per_second: float
    """Images per second from the first batch to the last; includes the end, when actors run out of work."""

    pool_start_seconds: float
    """Time from the start of the run until all actors were running."""

    first_batch_seconds: float
    """Time from the trainer's first request to its first batch."""

    time_to_first_batch_seconds: float
    """Time from the start of the run to the first batch."""

    waiting_fraction: float
    """Fraction of the time since the first batch that the trainer waited."""

    device_seconds_per_image: float
    """Device time of generators per image in the steady part; an actor without a GPU counts as one device."""

    cost_per_thousand: float | None
    """Cost of 1,000 images, generators and trainer; None without prices."""

    driver_bytes: int
    """Peak memory of the driver."""

    driver_growth_bytes: int
    """Peak memory of the driver above its size after the first tenth of the run."""

    store_bytes: int
    """Peak memory used in all object stores."""

    has_appetite: bool
    """Whether the trainer had a speed limit; the delivered fraction then says nothing about the pool."""

    exactness: Exactness

    @property
    def line(self) -> str:
        """A one-line summary for the log."""
        return (
            f"{self.num_actors} actors running after {self.pool_start_seconds:.1f} s, {self.delivered_per_second:.1f} "
            f"of {self.nominal_per_second:.1f} images/s delivered ({self.delivered_fraction:.3f})"
        )

    @property
    def missed(self) -> list[str]:
        """The missed targets, one line each."""
        least = MIN_FRACTION if self.num_actors < LARGE_POOL else MIN_FRACTION_OF_LARGE_POOLS
        slow = [f"delivered {self.delivered_fraction:.3f} of the nominal rate, less than {least:g}"]
        found = self.exactness.problems + (slow if self.delivered_fraction < least and not self.has_appetite else [])
        return [f"{self.num_actors} actors: {line}." for line in found]


def sweep_point(config: ScaleConfig, result: LoadResult) -> SweepPoint:
    """Return the results of a run with one pool size."""
    num_actors = result.load.generation.max_actors
    nominal = num_actors * result.actor_rate
    deliveries, first = result.deliveries, result.first_batch_at
    delivered = deliveries.steady_rate()
    devices = num_actors * (config.generation.gpus_per_actor or 1.0)
    driver = [state.driver_bytes for state in result.pool_states]
    return SweepPoint(
        num_actors=num_actors,
        nominal_per_second=nominal,
        delivered_per_second=delivered,
        delivered_fraction=delivered / nominal,
        since_first_batch_per_second=deliveries.mean_rate(),
        pool_start_seconds=result.up_at - result.began_at,
        first_batch_seconds=first - result.trainers_began_at[0],
        time_to_first_batch_seconds=first - result.began_at,
        waiting_fraction=deliveries.waiting_fraction(first, float(deliveries.delivered_at[-1])),
        device_seconds_per_image=devices / delivered,
        cost_per_thousand=cost_per_thousand(devices, config, delivered),
        driver_bytes=max(driver),
        driver_growth_bytes=growth_bytes(driver),
        store_bytes=max(state.store_bytes for state in result.pool_states),
        has_appetite=config.sweep.trainer_images_per_second > 0,
        exactness=result.exactness,
    )


def cost_per_thousand(generation_devices: float, config: ScaleConfig, images_per_second: float) -> float | None:
    """Return the cost of 1,000 images from the devices held while they are delivered; None without prices."""
    if config.prices == Prices(currency=config.prices.currency):
        return None
    cost_per_hour = config.prices.of_devices(generation_devices, config.training.gpus_per_worker or 1.0)
    return cost_per_hour / 3600 / images_per_second * 1000


def sweep_table(points: Sequence[SweepPoint], currency: str) -> list[list[str]]:
    """Return a header row and one row per pool."""
    rows = [sweep_row(point, currency) for point in points]
    return [list(rows[0]), *(list(row.values()) for row in rows)]


def sweep_row(point: SweepPoint, currency: str) -> dict[str, str]:
    """Return a pool's results as text, by column name."""
    return {
        "actors": f"{point.num_actors}",
        "nominal, images/s": f"{point.nominal_per_second:.1f}",
        "delivered": f"{point.delivered_per_second:.1f}",
        "fraction of nominal": f"{point.delivered_fraction:.3f}",
        "trainer waiting": percent(point.waiting_fraction),
        "all actors running, s": f"{point.pool_start_seconds:.1f}",
        "first batch from start, s": f"{point.time_to_first_batch_seconds:.1f}",
        "first batch from request, s": f"{point.first_batch_seconds:.1f}",
        "device-s per image": f"{point.device_seconds_per_image:.4f}",
        f"1,000 images, {currency}": number(point.cost_per_thousand),
        "driver, MB": f"{point.driver_bytes / 1e6:.1f}",
        "driver growth, MB": f"{point.driver_growth_bytes / 1e6:.1f}",
        "object stores, MB": f"{point.store_bytes / 1e6:.1f}",
        "samples": number(point.exactness.num_images),
        "lost": number(point.exactness.num_lost),
        "duplicated": number(point.exactness.num_doubled),
    }
