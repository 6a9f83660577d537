"""Settings of the scale experiments: pool sizes, steps of trainer speed, injected faults."""

from dataclasses import dataclass, field
from typing import Literal

from generation.ranges import AtLeastOne, Count, Documented, NotNegative, Positive, check_ranges
from ray_jobs.cli.config import JobConfig

RATE_WINDOW_SECONDS = 10.0
"""Window over which the delivery rate after a step is measured."""

FaultKind = Literal["actor_kill", "trainer_kill", "node_drop", "node_delay"]

NODE_FAULTS: tuple[FaultKind, ...] = ("node_drop", "node_delay")
ACTOR_LOSSES: tuple[FaultKind, ...] = ("actor_kill", "node_drop")
"""Faults that end actors; new actors replace them."""


@dataclass(frozen=True)
class SweepConfig(Documented):
    """Measure pools of several sizes, one after the other."""

    actors: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Number of generator actors of each pool; empty skips the sweep."""

    seconds: Positive = 60.0
    """Nominal duration for each pool, in seconds: it generates as many images as its actors make in this time."""

    trainer_images_per_second: NotNegative = 0.0
    """Speed limit of the fake trainer, in images per second; 0 consumes images as fast as they arrive."""

    def __post_init__(self) -> None:
        check_ranges(self, "sweep")
        if any(number < 1 for number in self.actors) or len(set(self.actors)) < len(self.actors):
            raise ValueError(f"sweep.actors is {', '.join(map(str, self.actors))}; use distinct numbers of 1 or more.")


@dataclass(frozen=True)
class StepConfig(Documented):
    """Speed the trainer up in mid-run and slow it down again; the pool autoscales to follow."""

    few_actors: AtLeastOne = 2
    """Trainer speed at the beginning and at the end, in actors whose output it consumes; also the pool's minimum."""

    many_actors: int = 16
    """Trainer speed during the step, in actors; also the pool's maximum. Equal to `few_actors` skips the step."""

    few_seconds: Positive = 30.0
    """Duration of the slow phase before the step, in seconds."""

    many_seconds: Positive = 60.0
    """Duration of the fast phase, in seconds."""

    last_seconds: Positive = 60.0
    """Duration of the slow phase after the step, in seconds."""

    trainer_fraction: float = 0.85
    """Fraction of those actors' output that the trainer consumes, above 0 and up to 1.

    The pool keeps 5% of spare capacity, and handing over batches takes time: near 1 it would add another actor.
    """

    def __post_init__(self) -> None:
        check_ranges(self, "step")
        if self.few_actors > self.many_actors:
            raise ValueError(
                f"step.few_actors is {self.few_actors}, more than step.many_actors, {self.many_actors}. Use a smaller "
                "number, or the same number to skip the step."
            )
        if self.is_on and self.many_seconds < RATE_WINDOW_SECONDS:
            raise ValueError(
                f"step.many_seconds is {self.many_seconds:g}; use {RATE_WINDOW_SECONDS:g} or more, the window in which "
                "the rate is measured."
            )
        if not 0 < self.trainer_fraction <= 1:
            raise ValueError(f"step.trainer_fraction is {self.trainer_fraction}; use a number above 0 and at most 1.")

    @property
    def is_on(self) -> bool:
        """Whether the step experiment runs."""
        return self.few_actors < self.many_actors


@dataclass(frozen=True)
class FaultsConfig(Documented):
    """Inject faults on a schedule into a run with a pool of fixed size; with all rates at 0 the run is skipped."""

    num_actors: AtLeastOne = 8
    """Number of generator actors in the pool."""

    seconds: Positive = 180.0
    """Time from the first batch in which faults are injected and the rate is measured, in seconds."""

    actor_kills_per_minute: NotNegative = 0.0
    """Mean number of kills per minute for each actor's process; 1 kills `num_actors` processes a minute. 0 for none."""

    trainer_kills_per_minute: NotNegative = 0.0
    """Number of kills per minute of the trainer's process; 0 for none."""

    node_drops_per_minute: NotNegative = 0.0
    """Number of local nodes lost per minute; a new node joins `node_return_seconds` later. 0 for none."""

    node_delays_per_minute: NotNegative = 0.0
    """Number of local nodes paused per minute, each with all its processes for `delay_seconds`; 0 for none."""

    node_return_seconds: NotNegative = 5.0
    """Time until a new node replaces a lost one, in seconds."""

    delay_seconds: Positive = 3.0
    """Duration of a pause of a node, in seconds; beyond about 10 s Ray considers the node lost."""

    seed: int = 0
    """Seed for the choice of victims; the times of the faults do not depend on it."""

    def __post_init__(self) -> None:
        check_ranges(self, "faults")

    @property
    def per_minute(self) -> dict[FaultKind, float]:
        """Number of faults per minute of each kind, in the whole cluster."""
        return {
            "actor_kill": self.num_actors * self.actor_kills_per_minute,
            "trainer_kill": self.trainer_kills_per_minute,
            "node_drop": self.node_drops_per_minute,
            "node_delay": self.node_delays_per_minute,
        }

    @property
    def is_on(self) -> bool:
        """Whether any fault is injected."""
        return any(self.per_minute.values())


@dataclass(frozen=True)
class ScaleConfig(JobConfig):
    """Measure how delivery scales with the number of generators, follows the trainer and survives faults."""

    num_local_nodes: Count = 0
    """Number of Ray nodes that the job starts on this machine, together large enough for the largest pool; 0 uses the
    running cluster, or a local one.
    """

    sweep: SweepConfig = field(default_factory=SweepConfig)
    step: StepConfig = field(default_factory=StepConfig)
    faults: FaultsConfig = field(default_factory=FaultsConfig)

    def __post_init__(self) -> None:
        check_ranges(self)
        of_nodes = [kind for kind in NODE_FAULTS if self.faults.per_minute[kind]]
        if of_nodes and self.num_local_nodes < 2:
            raise ValueError(
                f"faults.{of_nodes[0]}s_per_minute needs nodes started by this job, but num_local_nodes is "
                f"{self.num_local_nodes}; use 2 or more."
            )
        if not self.largest_pool:
            raise ValueError(
                "There is nothing to measure: sweep.actors is empty, and step and faults are off. Turn on one of them."
            )

    @property
    def largest_pool(self) -> int:
        """Largest number of actors in any of the experiments; 0 if there is none."""
        step = [self.step.many_actors] if self.step.is_on else []
        faults = [self.faults.num_actors] if self.faults.is_on else []
        return max([*self.sweep.actors, *step, *faults], default=0)
