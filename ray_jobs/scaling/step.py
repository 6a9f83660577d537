"""A trainer that becomes faster and slower again: what it asks of its pool, what that made of it, targets it missed."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.pages.html import percent
from ray_jobs.cli.scale_config import RATE_WINDOW_SECONDS, ScaleConfig
from ray_jobs.scaling.experiments import Outcome, PoolMoment, Series
from ray_jobs.scaling.loads import Load, Phase, whole_batches
from ray_jobs.scaling.throughput import Exactness, held_seconds, reaction_seconds

GRACE_SECONDS = 10.0
"""Target: beyond the time that actors take to start, a step may take so long."""

REACHED_FRACTION = 0.95
"""A rate counts as reached from this share of it on."""


def step_load(config: ScaleConfig, rate: float) -> Load:
    """Return what a pool is asked for that follows its trainer, slow, fast and slow again."""
    step = config.step
    few, many = (step.trainer_fraction * num * rate for num in (step.few_actors, step.many_actors))
    phases = (Phase(step.few_seconds, few), Phase(step.many_seconds, many), Phase(step.last_seconds, few))
    sizes = {"min_actors": step.few_actors, "initial_actors": step.few_actors, "max_actors": step.many_actors}
    pool = dataclasses.replace(config.generation, **sizes)
    num_images = sum(phase.seconds * phase.images_per_second for phase in phases)
    return Load(pool, phases, whole_batches(config, num_images))


@dataclass(frozen=True)
class StepResult:
    """A trainer that became faster and slower again, and what the pool made of it; None for what never came."""

    few_actors: int
    many_actors: int
    appetite_per_second: list[float]
    """What the trainer would have taken before, in and after the step."""

    delivered_per_second: list[float]
    """What it got, in the same parts of the run."""

    waiting_fraction: list[float]
    """Share of each part that it waited."""

    reaction_seconds: float | None
    """From the step up until the new rate was reached, for good."""

    start_seconds: float | None
    """How long the first actors that the step brought were awaited, until all of them were up."""

    release_seconds: float | None
    """From the step down until the pool had the few actors again."""

    most_actors: int
    device_seconds_per_image: float
    """Of all devices held by generators from the first batch to the end of the last part."""

    exactness: Exactness
    series: Series

    @property
    def line(self) -> str:
        """What it came to, in short."""
        return (
            f"{self.few_actors} to {self.many_actors} actors: new rate reached after {shown(self.reaction_seconds)}, "
            f"of which actors took {shown(self.start_seconds)} to start; given back after {shown(self.release_seconds)}"
        )

    @property
    def missed(self) -> list[str]:
        """The targets that were missed, a line each."""
        found = list(self.exactness.faults)
        if self.reaction_seconds is None:
            found.append(f"{self.appetite_per_second[1]:.1f} images/s were never reached")
        elif self.start_seconds is None:
            found.append("not all actors came up that the step brought")
        elif self.reaction_seconds > self.start_seconds + GRACE_SECONDS:
            found.append(
                f"the new rate was reached after {self.reaction_seconds:.1f} s, of which actors took "
                f"{self.start_seconds:.1f} s to start"
            )
        if self.release_seconds is None:
            found.append(f"the pool did not go back to {self.few_actors} actors")
        return [f"Step: {line}." for line in found]

    @property
    def facts(self) -> dict[str, str]:
        """What it came to, fact by fact."""
        by_part = zip(self.appetite_per_second, self.delivered_per_second, self.waiting_fraction, strict=True)
        names = ("before the step", f"from {self.few_actors} to {self.many_actors} actors", "after it")
        return {
            **{
                name: f"{appetite:.1f} images/s wanted, {delivered:.1f} delivered, waited {percent(waiting)}"
                for name, (appetite, delivered, waiting) in zip(names, by_part, strict=True)
            },
            "new rate reached after": shown(self.reaction_seconds),
            "of which actors took to start": shown(self.start_seconds),
            "actors given back after": shown(self.release_seconds),
            "most actors": f"{self.most_actors}",
            "device-seconds an image": f"{self.device_seconds_per_image:.4f}",
            "samples, lost, doubled": str(self.exactness),
        }


def shown(seconds: float | None) -> str:
    """Return seconds, or that there are none."""
    return "never" if seconds is None else f"{seconds:.1f} s"


def step_result(config: ScaleConfig, outcome: Outcome) -> StepResult:
    """Return what a run with a step came to."""
    step, deliveries, moments = config.step, outcome.deliveries, outcome.moments
    first = outcome.first_batch_at
    up = first + step.few_seconds
    down = up + step.many_seconds
    last = min(down + step.last_seconds, float(deliveries.came_at[-1]))  # what is left then, comes as fast as it may
    parts = [(first, up), (up, down), (down, last)]
    appetites = [phase.images_per_second for phase in outcome.load.phases]
    reaction = reaction_seconds(deliveries, up, down, REACHED_FRACTION * appetites[1], RATE_WINDOW_SECONDS)
    held = [(moment.at, moment.num_actors + moment.num_awaited) for moment in moments if first <= moment.at <= last]
    device_seconds = held_seconds(held, last) * (config.generation.gpus_per_actor or 1.0)
    return StepResult(
        few_actors=step.few_actors,
        many_actors=step.many_actors,
        appetite_per_second=appetites,
        delivered_per_second=[deliveries.rate_between(*part) for part in parts],
        waiting_fraction=[deliveries.waiting_fraction(*part) for part in parts],
        reaction_seconds=reaction if math.isfinite(reaction) else None,
        start_seconds=start_seconds(moments, up, down),
        release_seconds=release_seconds(moments, down, last, step.few_actors),
        most_actors=max(moment.num_actors for moment in moments if moment.at <= last),
        device_seconds_per_image=device_seconds / deliveries.num_between(first, last),
        exactness=outcome.exactness,
        series=outcome.series(),
    )


def start_seconds(moments: Sequence[PoolMoment], start: float, stop: float) -> float | None:
    """Return how long those were awaited that were the first to be between two moments; None if they never came."""
    within = [moment for moment in moments if start <= moment.at <= stop]
    first = next((moment for moment in within if moment.num_awaited), None)
    if first is None:
        return None
    wanted = first.num_actors + first.num_awaited
    up_at = (moment.at for moment in within if moment.at > first.at and moment.num_actors >= wanted)
    return next((at - first.at for at in up_at), None)


def release_seconds(moments: Sequence[PoolMoment], start: float, stop: float, num_actors: int) -> float | None:
    """Return how long after a moment there were no more than so many actors, None if that did not come in time."""
    released = (moment.at for moment in moments if start <= moment.at <= stop and moment.num_actors <= num_actors)
    return next((at - start for at in released), None)
