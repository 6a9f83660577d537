"""Pools of several sizes: what each is asked for, what it came to, and the targets that it missed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.pages.html import number, percent
from ray_jobs.cli.config import Prices
from ray_jobs.cli.scale_config import ScaleConfig
from ray_jobs.scaling.background import growth_bytes
from ray_jobs.scaling.experiments import Outcome
from ray_jobs.scaling.loads import Load, Phase, fixed_pool, whole_batches
from ray_jobs.scaling.throughput import Exactness

MIN_FRACTION, MIN_FRACTION_OF_LARGE_POOLS, LARGE_POOL = 0.97, 0.95, 17
"""Targets: delivered over nominal, and that of pools of `LARGE_POOL` actors and more."""


def sweep_load(config: ScaleConfig, rate: float, num_actors: int) -> Load:
    """Return what a pool of a fixed size is asked for, whose actors have this rate each."""
    phase = Phase(math.inf, config.sweep.trainer_images_per_second)
    num_images = whole_batches(config, num_actors * rate * config.sweep.seconds)
    return Load(fixed_pool(config, num_actors), (phase,), num_images)


@dataclass(frozen=True)
class SweepPoint:
    """A pool of one size."""

    num_actors: int
    nominal_per_second: float
    """Images that its actors make while they are at work."""

    delivered_per_second: float
    """Images that came to the trainer in the steady part of the run."""

    delivered_fraction: float
    """Delivered over nominal."""

    since_first_batch_per_second: float
    """Images from the first batch to the last, its end included, when actors run out of work one by one."""

    pool_start_seconds: float
    """From nothing to all actors up."""

    first_batch_seconds: float
    """From the trainer's asking to its first batch."""

    time_to_first_batch_seconds: float
    """From nothing to the first batch."""

    waiting_fraction: float
    """Share of the time since the first batch that the trainer waited."""

    device_seconds_per_image: float
    """Devices that hold generators, in the steady part; an actor without a GPU counts as a device."""

    cost_per_thousand: float | None
    """Of images, by generators and trainer; None where no price is given."""

    driver_bytes: int
    """Most that the driver's memory was."""

    driver_growth_bytes: int
    """Most that it was above its first tenth."""

    store_bytes: int
    """Most that all object stores held."""

    has_appetite: bool
    """Whether the trainer wanted no more than so many images a second: then it is not the pool that is judged."""

    exactness: Exactness

    @property
    def line(self) -> str:
        """What it came to, in short."""
        return (
            f"{self.num_actors} actors up in {self.pool_start_seconds:.1f} s, {self.delivered_per_second:.1f} of "
            f"{self.nominal_per_second:.1f} images/s delivered ({self.delivered_fraction:.3f})"
        )

    @property
    def missed(self) -> list[str]:
        """The targets that were missed, a line each."""
        least = MIN_FRACTION if self.num_actors < LARGE_POOL else MIN_FRACTION_OF_LARGE_POOLS
        slow = [f"{self.delivered_fraction:.3f} of the nominal rate were delivered, less than {least:g}"]
        found = self.exactness.faults + (slow if self.delivered_fraction < least and not self.has_appetite else [])
        return [f"{self.num_actors} actors: {line}." for line in found]


def sweep_point(config: ScaleConfig, outcome: Outcome) -> SweepPoint:
    """Return what a run of a pool came to."""
    num_actors = outcome.load.generation.max_actors
    nominal = num_actors * outcome.actor_rate
    deliveries, first = outcome.deliveries, outcome.first_batch_at
    delivered = deliveries.steady_rate()
    devices = num_actors * (config.generation.gpus_per_actor or 1.0)
    driver = [moment.driver_bytes for moment in outcome.moments]
    return SweepPoint(
        num_actors=num_actors,
        nominal_per_second=nominal,
        delivered_per_second=delivered,
        delivered_fraction=delivered / nominal,
        since_first_batch_per_second=deliveries.mean_rate(),
        pool_start_seconds=outcome.up_at - outcome.began_at,
        first_batch_seconds=first - outcome.trainers_began_at[0],
        time_to_first_batch_seconds=first - outcome.began_at,
        waiting_fraction=deliveries.waiting_fraction(first, float(deliveries.came_at[-1])),
        device_seconds_per_image=devices / delivered,
        cost_per_thousand=cost_per_thousand(devices, config, delivered),
        driver_bytes=max(driver),
        driver_growth_bytes=growth_bytes(driver),
        store_bytes=max(moment.store_bytes for moment in outcome.moments),
        has_appetite=config.sweep.trainer_images_per_second > 0,
        exactness=outcome.exactness,
    )


def cost_per_thousand(generation_devices: float, config: ScaleConfig, images_per_second: float) -> float | None:
    """Return what a thousand images cost by devices that are held while they are delivered."""
    if config.prices == Prices(currency=config.prices.currency):
        return None
    an_hour = config.prices.of_devices(generation_devices, config.training.gpus_per_worker or 1.0)
    return an_hour / 3600 / images_per_second * 1000


def sweep_table(points: Sequence[SweepPoint], currency: str) -> list[list[str]]:
    """Return a row of names, and one a pool."""
    rows = [sweep_row(point, currency) for point in points]
    return [list(rows[0]), *(list(row.values()) for row in rows)]


def sweep_row(point: SweepPoint, currency: str) -> dict[str, str]:
    """Return a pool's numbers by their names."""
    return {
        "actors": f"{point.num_actors}",
        "nominal, images/s": f"{point.nominal_per_second:.1f}",
        "delivered": f"{point.delivered_per_second:.1f}",
        "share of nominal": f"{point.delivered_fraction:.3f}",
        "trainer waited": percent(point.waiting_fraction),
        "all actors up, s": f"{point.pool_start_seconds:.1f}",
        "first batch after, s": f"{point.time_to_first_batch_seconds:.1f}",
        "first batch since asked, s": f"{point.first_batch_seconds:.1f}",
        "device-s an image": f"{point.device_seconds_per_image:.4f}",
        f"1,000 images, {currency}": number(point.cost_per_thousand),
        "driver, MB": f"{point.driver_bytes / 1e6:.1f}",
        "it grew, MB": f"{point.driver_growth_bytes / 1e6:.1f}",
        "object stores, MB": f"{point.store_bytes / 1e6:.1f}",
        "samples": number(point.exactness.num_images),
        "lost": number(point.exactness.num_lost),
        "doubled": number(point.exactness.num_doubled),
    }
