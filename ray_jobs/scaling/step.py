"""The experiment with a step of the trainer's speed on an autoscaling pool: load, result, missed targets."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.pages.html import percent
from ray_jobs.cli.scale_config import RATE_WINDOW_SECONDS, ScaleConfig
from ray_jobs.scaling.experiments import LoadResult, PoolState, Series
from ray_jobs.scaling.loads import Load, Phase, whole_batches
from ray_jobs.scaling.throughput import Exactness, held_seconds, reaction_seconds

GRACE_SECONDS = 10.0
"""Target: the pool may take this much longer than its actors' start-up to reach the new rate."""

REACHED_FRACTION = 0.95
"""A rate counts as reached at this fraction of it."""


def step_load(config: ScaleConfig, rate: float) -> Load:
    """Return the load: an autoscaling pool and a trainer that is slow, fast and slow again."""
    step = config.step
    few, many = (step.trainer_fraction * num * rate for num in (step.few_actors, step.many_actors))
    phases = (Phase(step.few_seconds, few), Phase(step.many_seconds, many), Phase(step.last_seconds, few))
    sizes = {"min_actors": step.few_actors, "initial_actors": step.few_actors, "max_actors": step.many_actors}
    pool = dataclasses.replace(config.generation, **sizes)
    num_images = sum(phase.seconds * phase.images_per_second for phase in phases)
    return Load(pool, phases, whole_batches(config, num_images))


@dataclass(frozen=True)
class StepResult:
    """The results of the step experiment; None where an event did not happen."""

    few_actors: int
    many_actors: int
    appetite_per_second: list[float]
    """The trainer's speed limit in images per second before, in and after the step."""

    delivered_per_second: list[float]
    """Images per second delivered in the same phases."""

    waiting_fraction: list[float]
    """Fraction of each phase that the trainer waited."""

    reaction_seconds: float | None
    """Time from the step up until the new rate was reached and then held."""

    start_seconds: float | None
    """Time until all actors of the first scale-up were running."""

    release_seconds: float | None
    """Time from the step down until the pool was back at `few_actors`."""

    most_actors: int
    device_seconds_per_image: float
    """Device time of generators, including starting generators, from the first batch to the end of the last phase."""

    exactness: Exactness
    series: Series

    @property
    def line(self) -> str:
        """A one-line summary for the log."""
        return (
            f"{self.few_actors} to {self.many_actors} actors: new rate reached after {shown(self.reaction_seconds)}, "
            f"actor start-up {shown(self.start_seconds)}; actors released after {shown(self.release_seconds)}"
        )

    @property
    def missed(self) -> list[str]:
        """The missed targets, one line each."""
        found = list(self.exactness.problems)
        if self.reaction_seconds is None:
            found.append(f"the delivery rate did not reach {self.appetite_per_second[1]:.1f} images/s")
        elif self.start_seconds is None:
            found.append("the first scale-up did not complete")
        elif self.reaction_seconds > self.start_seconds + GRACE_SECONDS:
            found.append(
                f"the new rate was reached after {self.reaction_seconds:.1f} s, more than {GRACE_SECONDS:g} s beyond "
                f"the actor start-up time of {self.start_seconds:.1f} s"
            )
        if self.release_seconds is None:
            found.append(f"the pool did not shrink back to {self.few_actors} actors")
        return [f"Step: {line}." for line in found]

    @property
    def facts(self) -> dict[str, str]:
        """Names and values for tables."""
        by_part = zip(self.appetite_per_second, self.delivered_per_second, self.waiting_fraction, strict=True)
        names = ("before the step", f"step from {self.few_actors} to {self.many_actors} actors", "after the step")
        return {
            **{
                name: f"{rate:.1f} images/s requested, {delivered:.1f} delivered, trainer waiting {percent(waiting)}"
                for name, (rate, delivered, waiting) in zip(names, by_part, strict=True)
            },
            "new rate reached after": shown(self.reaction_seconds),
            "actor start-up": shown(self.start_seconds),
            "actors released after": shown(self.release_seconds),
            "most actors": f"{self.most_actors}",
            "device-seconds per image": f"{self.device_seconds_per_image:.4f}",
            "samples, lost, duplicated": str(self.exactness),
        }


def shown(seconds: float | None) -> str:
    """Return seconds as text; `never` for None."""
    return "never" if seconds is None else f"{seconds:.1f} s"


def step_result(config: ScaleConfig, result: LoadResult) -> StepResult:
    """Return the results of a run with a step of the trainer's speed."""
    step, deliveries, states = config.step, result.deliveries, result.pool_states
    first = result.first_batch_at
    up = first + step.few_seconds
    down = up + step.many_seconds
    last = min(down + step.last_seconds, float(deliveries.delivered_at[-1]))  # later images have no speed limit
    parts = [(first, up), (up, down), (down, last)]
    trainer_rates = [phase.images_per_second for phase in result.load.phases]
    reaction = reaction_seconds(deliveries, up, down, REACHED_FRACTION * trainer_rates[1], RATE_WINDOW_SECONDS)
    held = [(state.at, state.num_actors + state.num_pending) for state in states if first <= state.at <= last]
    device_seconds = held_seconds(held, last) * (config.generation.gpus_per_actor or 1.0)
    return StepResult(
        few_actors=step.few_actors,
        many_actors=step.many_actors,
        appetite_per_second=trainer_rates,
        delivered_per_second=[deliveries.rate_between(*part) for part in parts],
        waiting_fraction=[deliveries.waiting_fraction(*part) for part in parts],
        reaction_seconds=reaction if math.isfinite(reaction) else None,
        start_seconds=start_seconds(states, up, down),
        release_seconds=release_seconds(states, down, last, step.few_actors),
        most_actors=max(state.num_actors for state in states if state.at <= last),
        device_seconds_per_image=device_seconds / deliveries.num_between(first, last),
        exactness=result.exactness,
        series=result.series(),
    )


def start_seconds(states: Sequence[PoolState], start: float, stop: float) -> float | None:
    """Return how long the first scale-up between two times took; None if it did not complete."""
    within = [state for state in states if start <= state.at <= stop]
    first = next((state for state in within if state.num_pending), None)
    if first is None:
        return None
    target = first.num_actors + first.num_pending
    up_at = (state.at for state in within if state.at > first.at and state.num_actors >= target)
    return next((at - first.at for at in up_at), None)


def release_seconds(states: Sequence[PoolState], start: float, stop: float, num_actors: int) -> float | None:
    """Return how long after `start` the pool had at most `num_actors` actors; None if not by `stop`."""
    released = (state.at for state in states if start <= state.at <= stop and state.num_actors <= num_actors)
    return next((at - start for at in released), None)
