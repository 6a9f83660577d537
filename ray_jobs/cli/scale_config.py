"""Settings of scale experiments: how many actors, which steps, what goes wrong. Knows no cluster."""

from dataclasses import dataclass, field
from typing import Literal

from generation.ranges import AtLeastOne, Count, Documented, NotNegative, Positive, check_ranges
from ray_jobs.cli.config import JobConfig

RATE_WINDOW_SECONDS = 10.0
"""Over which it is measured whether a step's rate is reached."""

FaultKind = Literal["actor_kill", "trainer_kill", "node_drop", "node_delay"]

OF_NODES: tuple[FaultKind, ...] = ("node_drop", "node_delay")
LOSING_ACTORS: tuple[FaultKind, ...] = ("actor_kill", "node_drop")
"""What ends actors, which others then replace."""


@dataclass(frozen=True)
class SweepConfig(Documented):
    """Pools of several sizes, one after the other."""

    actors: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """How many generator actors each pool has; empty leaves the sweep out."""

    seconds: Positive = 60.0
    """Each pool is asked for as many images as it makes in this time."""

    trainer_images_per_second: NotNegative = 0.0
    """How fast the painted trainer would like to go; 0 takes what comes."""

    def __post_init__(self) -> None:
        check_ranges(self, "sweep")
        if any(number < 1 for number in self.actors) or len(set(self.actors)) < len(self.actors):
            raise ValueError(
                f"sweep.actors are {', '.join(map(str, self.actors))}; give numbers of 1 or more, each once."
            )


@dataclass(frozen=True)
class StepConfig(Documented):
    """A trainer that becomes faster in mid-run, and slower again; the pool follows it by itself."""

    few_actors: AtLeastOne = 2
    """The trainer begins, and ends, with an appetite for what so many actors make."""

    many_actors: int = 16
    """In between it has one for what so many make; as many as `few_actors` leaves the step out."""

    few_seconds: Positive = 30.0
    """How long it is slow at the beginning."""

    many_seconds: Positive = 60.0
    """How long it is fast."""

    last_seconds: Positive = 60.0
    """How long it is slow at the end."""

    trainer_fraction: float = 0.85
    """Share of what those actors make that it has an appetite for.

    A pool keeps a twentieth to spare and handing batches on takes some time too: for much more it would have one more.
    """

    def __post_init__(self) -> None:
        check_ranges(self, "step")
        if self.few_actors > self.many_actors:
            raise ValueError(
                f"step.few_actors is {self.few_actors}, more than many_actors {self.many_actors}. Give less, or as "
                "many to leave the step out."
            )
        if self.is_on and self.many_seconds < RATE_WINDOW_SECONDS:
            raise ValueError(
                f"step.many_seconds is {self.many_seconds:g}; give {RATE_WINDOW_SECONDS:g} or more, over which a rate "
                "is measured."
            )
        if not 0 < self.trainer_fraction <= 1:
            raise ValueError(f"step.trainer_fraction is {self.trainer_fraction}; give a share above 0, up to 1.")

    @property
    def is_on(self) -> bool:
        """Whether there is a step."""
        return self.few_actors < self.many_actors


@dataclass(frozen=True)
class FaultsConfig(Documented):
    """What goes wrong on a schedule while a pool of fixed size is at work; without any of it there is no such run."""

    num_actors: AtLeastOne = 8
    """Generator actors of the pool."""

    seconds: Positive = 180.0
    """How long things go wrong, and the rate is measured."""

    actor_kills_per_minute: NotNegative = 0.0
    """How often each actor's process is killed, in the mean; 1 is one per generator per minute."""

    trainer_kills_per_minute: NotNegative = 0.0
    """How often the trainer's process is."""

    node_drops_per_minute: NotNegative = 0.0
    """How often a local node is lost; another takes its place after `node_return_seconds`."""

    node_delays_per_minute: NotNegative = 0.0
    """How often a local node stands still, with all that it holds, for `delay_seconds`."""

    node_return_seconds: NotNegative = 5.0
    """Seconds until another node replaces a dropped one."""

    delay_seconds: Positive = 3.0
    """Beyond about 10 s Ray takes a node for lost."""

    seed: int = 0
    """Another seed hits others, at the same moments."""

    def __post_init__(self) -> None:
        check_ranges(self, "faults")

    @property
    def per_minute(self) -> dict[FaultKind, float]:
        """What goes wrong how often a minute."""
        return {
            "actor_kill": self.num_actors * self.actor_kills_per_minute,
            "trainer_kill": self.trainer_kills_per_minute,
            "node_drop": self.node_drops_per_minute,
            "node_delay": self.node_delays_per_minute,
        }

    @property
    def is_on(self) -> bool:
        """Whether anything goes wrong."""
        return any(self.per_minute.values())


@dataclass(frozen=True)
class ScaleConfig(JobConfig):
    """How delivery grows with the number of generators, follows a trainer, and stands faults."""

    num_local_nodes: Count = 0
    """Nodes that the job starts on this machine, each for as many actors as it takes for the largest pool; 0 is the
    running cluster, or a local one.
    """

    sweep: SweepConfig = field(default_factory=SweepConfig)
    step: StepConfig = field(default_factory=StepConfig)
    faults: FaultsConfig = field(default_factory=FaultsConfig)

    def __post_init__(self) -> None:
        check_ranges(self)
        of_nodes = [kind for kind in OF_NODES if self.faults.per_minute[kind]]
        if of_nodes and self.num_local_nodes < 2:
            raise ValueError(
                f"faults.{of_nodes[0]}s_per_minute needs nodes that this job starts, and num_local_nodes is "
                f"{self.num_local_nodes}. Give 2 or more."
            )
        if not self.largest_pool:
            raise ValueError("sweep.actors is empty, and step and faults are off: nothing would be measured.")

    @property
    def largest_pool(self) -> int:
        """Return the most actors that any of the experiments has at once."""
        step = [self.step.many_actors] if self.step.is_on else []
        faults = [self.faults.num_actors] if self.faults.is_on else []
        return max([*self.sweep.actors, *step, *faults], default=0)
