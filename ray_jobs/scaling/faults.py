"""The experiment with injected faults on a pool of fixed size: load, result, missed targets."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.pages.html import percent
from ray_jobs.cli.scale_config import ACTOR_LOSSES, NODE_FAULTS, ScaleConfig
from ray_jobs.scaling.experiments import LoadResult, PoolState, Series
from ray_jobs.scaling.fault_injector import FaultEvent, schedule
from ray_jobs.scaling.loads import Load, fixed_pool, whole_batches
from ray_jobs.scaling.throughput import Exactness, Outage, actor_outages, lost_fraction

SPARE_FRACTION = 0.05
"""Target: throughput loss may exceed the capacity lost to faults by at most this much."""


def faults_load(config: ScaleConfig, rate: float) -> Load:
    """Return the load: a pool of fixed size, the images it makes in the given time, and the faults."""
    num_actors, seconds = config.faults.num_actors, config.faults.seconds
    num_images = whole_batches(config, num_actors * rate * seconds)
    return Load(fixed_pool(config, num_actors), (), num_images, config.faults)


@dataclass(frozen=True)
class FaultsResult:
    """The results of the experiment with injected faults."""

    num_actors: int
    seconds: float
    """Measured time, from the first batch on."""

    num_planned: dict[str, int]
    """Number of scheduled faults by kind."""

    num_struck: dict[str, int]
    """Number of injected faults by kind; fewer than scheduled if there was no victim at the time."""

    nominal_per_second: float
    delivered_per_second: float
    loss_fraction: float
    """Fraction of the nominal rate that was not delivered."""

    lost_actor_fraction: float
    """Fraction of the generators' capacity lost to missing or paused actors."""

    lost_fraction: float
    """The same, counting times without a trainer as a loss of all capacity."""

    exactness: Exactness
    struck: list[FaultEvent]
    series: Series

    @property
    def line(self) -> str:
        """A one-line summary for the log."""
        return (
            f"{sum(self.num_struck.values())} faults in {self.seconds:g} s: {self.loss_fraction:.1%} of the throughput "
            f"and {self.lost_fraction:.1%} of the capacity lost; {self.exactness.num_lost} samples lost, "
            f"{self.exactness.num_doubled} duplicated"
        )

    @property
    def missed(self) -> list[str]:
        """The missed targets, one line each."""
        found = list(self.exactness.problems)
        for kind, planned in self.num_planned.items():
            if (injected := self.num_struck.get(kind, 0)) < planned:
                found.append(f"{injected} of {planned} scheduled faults of kind {kind} had a victim")
        on_nodes = [fault.num_actors for fault in self.struck if fault.kind in NODE_FAULTS]
        if on_nodes and not any(on_nodes):
            found.append("no lost or paused node held an actor")
        if self.loss_fraction > self.lost_fraction + SPARE_FRACTION:
            found.append(
                f"throughput loss {self.loss_fraction:.1%} exceeds capacity loss {self.lost_fraction:.1%} by more than "
                f"{SPARE_FRACTION:.0%}"
            )
        return [f"Faults: {line}." for line in found]

    @property
    def facts(self) -> dict[str, str]:
        """Names and values for tables."""
        faults = [
            f"{self.num_struck.get(kind, 0)} of {num} scheduled {kind.replace('_', ' ')}s"
            for kind, num in self.num_planned.items()
        ]
        return {
            "pool, time": f"{self.num_actors} actors, {self.seconds:g} s",
            "faults": ", ".join(faults),
            "delivered": f"{self.delivered_per_second:.1f} of {self.nominal_per_second:.1f} images/s",
            "throughput lost": percent(self.loss_fraction),
            "capacity lost, generators": percent(self.lost_actor_fraction),
            "capacity lost, generators and trainer": percent(self.lost_fraction),
            "samples, lost, duplicated": str(self.exactness),
        }


def faults_result(config: ScaleConfig, result: LoadResult) -> FaultsResult:
    """Return the results of a run with injected faults."""
    num_actors, seconds = config.faults.num_actors, config.faults.seconds
    nominal = num_actors * result.actor_rate
    start, stop = result.first_batch_at, result.first_batch_at + seconds
    delivered = result.deliveries.rate_between(start, stop)
    of_actors, of_trainer = outages(result, stop)
    return FaultsResult(
        num_actors=num_actors,
        seconds=seconds,
        num_planned=dict(Counter(fault.kind for fault in schedule(config.faults))),
        num_struck=dict(Counter(fault.kind for fault in result.events)),
        nominal_per_second=nominal,
        delivered_per_second=delivered,
        loss_fraction=1 - delivered / nominal,
        lost_actor_fraction=lost_fraction(of_actors, num_actors, start, stop),
        lost_fraction=lost_fraction(of_actors + of_trainer, num_actors, start, stop),
        exactness=result.exactness,
        struck=[fault.since(start) for fault in result.events],
        series=result.series(),
    )


def outages(result: LoadResult, stop: float) -> tuple[list[Outage], list[Outage]]:
    """Return the outages of generators, and those of the trainer, until `stop`."""
    num_actors = result.load.generation.max_actors
    losses = [(fault.began_at, fault.num_actors) for fault in result.events if fault.kind in ACTOR_LOSSES]
    of_actors = actor_outages(losses, load_times(result.pool_states, num_actors), stop)
    for fault in result.events:
        if fault.ended_at is not None:
            of_actors.append(Outage(fault.began_at, fault.ended_at, fault.num_actors))
    of_trainer = [
        Outage(fault.began_at, next((at for at in result.trainers_began_at if at > fault.began_at), stop), num_actors)
        for fault in result.events
        if fault.kind == "trainer_kill"
    ]
    return of_actors, of_trainer


def load_times(states: Sequence[PoolState], num_before: int) -> list[float]:
    """Return the time at which each model load after the first `num_before` was first seen."""
    num_seen, times = num_before, []
    for state in states:
        times += [state.at] * max(0, state.num_loads - num_seen)
        num_seen = max(num_seen, state.num_loads)
    return times
