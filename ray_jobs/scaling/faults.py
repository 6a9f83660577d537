"""A pool of fixed size while things go wrong: what it is asked for, what it came to, and the targets that it missed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.pages.html import percent
from ray_jobs.cli.scale_config import LOSING_ACTORS, OF_NODES, ScaleConfig
from ray_jobs.scaling.experiments import Outcome, PoolMoment, Series
from ray_jobs.scaling.fault_injector import Struck, schedule
from ray_jobs.scaling.loads import Load, fixed_pool, whole_batches
from ray_jobs.scaling.throughput import Exactness, Outage, actor_outages, lost_fraction

SPARE_FRACTION = 0.05
"""Target: faults may cost so much of the throughput beyond the capacity that they took."""


def faults_load(config: ScaleConfig, rate: float) -> Load:
    """Return what a pool of a fixed size is asked for while things go wrong."""
    num_actors, seconds = config.faults.num_actors, config.faults.seconds
    num_images = whole_batches(config, num_actors * rate * seconds)
    return Load(fixed_pool(config, num_actors), (), num_images, config.faults)


@dataclass(frozen=True)
class FaultsResult:
    """A pool of fixed size while things go wrong."""

    num_actors: int
    seconds: float
    """From the first batch on, in which things went wrong and the rate was measured."""

    num_planned: dict[str, int]
    """What was to go wrong how often."""

    num_struck: dict[str, int]
    """What did: at times nobody was there to be hit."""

    nominal_per_second: float
    delivered_per_second: float
    loss_fraction: float
    """What of the nominal rate was not delivered."""

    lost_actor_fraction: float
    """Share of the generators' capacity that was out of work."""

    lost_fraction: float
    """The same with the times in which there was no trainer, when all of it was."""

    exactness: Exactness
    struck: list[Struck]
    series: Series

    @property
    def line(self) -> str:
        """What it came to, in short."""
        return (
            f"{sum(self.num_struck.values())} in {self.seconds:g} s cost {self.loss_fraction:.1%} of the throughput, "
            f"{self.lost_fraction:.1%} of the capacity was lost; {self.exactness.num_lost} samples lost, "
            f"{self.exactness.num_doubled} doubled"
        )

    @property
    def missed(self) -> list[str]:
        """The targets that were missed, a line each."""
        found = list(self.exactness.faults)
        for kind, planned in self.num_planned.items():
            if (struck := self.num_struck.get(kind, 0)) < planned:
                found.append(f"{kind} was planned {planned} times and came {struck}: nobody was there to be hit")
        on_nodes = [fault.num_actors for fault in self.struck if fault.kind in OF_NODES]
        if on_nodes and not any(on_nodes):
            found.append("no node that went wrong held an actor")
        if self.loss_fraction > self.lost_fraction + SPARE_FRACTION:
            found.append(
                f"{self.loss_fraction:.1%} of the throughput were lost, more than {SPARE_FRACTION:.0%} beyond the "
                f"{self.lost_fraction:.1%} of capacity that were"
            )
        return [f"Faults: {line}." for line in found]

    @property
    def facts(self) -> dict[str, str]:
        """What it came to, fact by fact."""
        struck = [
            f"{self.num_struck.get(kind, 0)} of {num} planned {kind.replace('_', ' ')}s"
            for kind, num in self.num_planned.items()
        ]
        return {
            "pool, time": f"{self.num_actors} actors, {self.seconds:g} s",
            "what went wrong": ", ".join(struck),
            "delivered": f"{self.delivered_per_second:.1f} of {self.nominal_per_second:.1f} images/s",
            "throughput lost": percent(self.loss_fraction),
            "capacity lost, of generators alone": percent(self.lost_actor_fraction),
            "the same, with the times without a trainer": percent(self.lost_fraction),
            "samples, lost, doubled": str(self.exactness),
        }


def faults_result(config: ScaleConfig, outcome: Outcome) -> FaultsResult:
    """Return what a run came to in which things went wrong."""
    num_actors, seconds = config.faults.num_actors, config.faults.seconds
    nominal = num_actors * outcome.actor_rate
    start, stop = outcome.first_batch_at, outcome.first_batch_at + seconds
    delivered = outcome.deliveries.rate_between(start, stop)
    of_actors, of_trainer = outages(outcome, stop)
    return FaultsResult(
        num_actors=num_actors,
        seconds=seconds,
        num_planned=dict(Counter(fault.kind for fault in schedule(config.faults))),
        num_struck=dict(Counter(fault.kind for fault in outcome.struck)),
        nominal_per_second=nominal,
        delivered_per_second=delivered,
        loss_fraction=1 - delivered / nominal,
        lost_actor_fraction=lost_fraction(of_actors, num_actors, start, stop),
        lost_fraction=lost_fraction(of_actors + of_trainer, num_actors, start, stop),
        exactness=outcome.exactness,
        struck=[fault.since(start) for fault in outcome.struck],
        series=outcome.series(),
    )


def outages(outcome: Outcome, stop: float) -> tuple[list[Outage], list[Outage]]:
    """Return how long generators were out of work, and how long there was no trainer, until a moment."""
    num_actors = outcome.load.generation.max_actors
    losses = [(fault.began_at, fault.num_actors) for fault in outcome.struck if fault.kind in LOSING_ACTORS]
    of_actors = actor_outages(losses, loaded_at(outcome.moments, num_actors), stop)
    for fault in outcome.struck:
        if fault.ended_at is not None:
            of_actors.append(Outage(fault.began_at, fault.ended_at, fault.num_actors))
    of_trainer = [
        Outage(fault.began_at, next((at for at in outcome.trainers_began_at if at > fault.began_at), stop), num_actors)
        for fault in outcome.struck
        if fault.kind == "trainer_kill"
    ]
    return of_actors, of_trainer


def loaded_at(moments: Sequence[PoolMoment], num_before: int) -> list[float]:
    """Return when each actor was seen to be up that came after so many."""
    seen, found = num_before, []
    for moment in moments:
        found += [moment.at] * max(0, moment.num_loads - seen)
        seen = max(seen, moment.num_loads)
    return found
