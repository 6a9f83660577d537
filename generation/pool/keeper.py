"""The actor that collects the reports of generator actors and decides the pool's size."""

import dataclasses
import time
from collections import Counter
from dataclasses import dataclass, field

import ray

from generation.config import GenerationConfig
from generation.engine.actor import WorkCounts
from generation.engine.scores import ScoreCounts
from generation.pool.sizing import PoolSizer, PoolSnapshot, TrainerTimes, total_times

LOADING_TIMEOUT_SECONDS = 60.0
"""A loading process is considered dead after this long without a report.

It reports every `REPORT_SECONDS`, unless its imports block it.
"""


@dataclass
class GenerationCounts(WorkCounts):
    """Totals of the pool over all actors, including dead actors, and the state of its processes."""

    num_loads: Counter[str] = field(default_factory=Counter)
    """Model loads by process (`host:pid`); a restarted actor is a new process."""

    load_seconds: float = 0.0
    """Total time of those loads."""

    loading: set[str] = field(default_factory=set)
    """Processes that are loading a model and reported recently."""

    load_errors: list[str] = field(default_factory=list)
    """One line per failed model load since the last successful load or finished work."""

    batch_sizes: dict[str, int] = field(default_factory=dict)
    """Batch size of each process: configured, found by trial, or reduced after running out of memory."""

    num_requests: dict[str, int] = field(default_factory=dict)
    """Pending requests of each process at its last report; cleared when an actor starts."""

    def share(self, before: WorkCounts, factor: float) -> "GenerationCounts":
        """Return the counts with the work since `before`, times `factor`; the state of the processes is unchanged."""

        def times(now: Counter[str], then: Counter[str]) -> Counter[str]:
            return Counter({name: round(factor * number) for name, number in (now - then).items()})

        return dataclasses.replace(
            self,
            num_images_made=round(factor * (self.num_images_made - before.num_images_made)),
            num_refused=times(self.num_refused, before.num_refused),
            num_left_out=times(self.num_left_out, before.num_left_out),
            working_seconds=factor * (self.working_seconds - before.working_seconds),
            scores=self.scores.share(before.scores, factor),
        )


@ray.remote(num_cpus=0)
class PoolKeeper:
    """Collects the reports of generator actors, so that a dead actor's counts stay, and decides the pool's size."""

    def __init__(self, config: GenerationConfig) -> None:
        self.counts = GenerationCounts()
        self.num_batches = 0
        self.loading_at: dict[str, float] = {}
        """Time of the last report of each loading process."""

        self.initial_size = config.num_initial_actors
        self.trainers: dict[str, TrainerTimes] = {}
        """By learner."""

        self.sizer = PoolSizer(config.min_actors, config.num_initial_actors, config.max_actors, config.idle_seconds)

    def report_loading(self, process: str) -> None:
        """Record that an actor's process is loading its model."""
        self.loading_at[process] = time.monotonic()

    def add_load(self, process: str, batch_size: int, load_seconds: float) -> None:
        """Record a model load; pending requests are cleared, as the actor may replace a dead one."""
        self.loading_at.pop(process, None)
        self.counts.num_loads[process] += 1
        self.counts.load_seconds += load_seconds
        self.counts.num_requests.clear()
        self.counts.batch_sizes[process] = batch_size
        self.counts.load_errors.clear()

    def add_load_error(self, process: str, message: str) -> None:
        """Record why a model failed to load."""
        self.loading_at.pop(process, None)
        self.counts.load_errors.append(message)

    def add_work(self, process: str, batch_size: int, num_requests: int, done: WorkCounts) -> None:
        """Add a process's work since its last report; record its pending requests."""
        self.counts.batch_sizes[process] = batch_size
        self.counts.num_requests[process] = num_requests
        self.counts.add(done)
        self.counts.load_errors.clear()  # an actor is working: earlier load errors no longer matter
        self.num_batches += done.num_images_made > 0

    def report_trainer(self, trainer: TrainerTimes, learner: str = "") -> None:
        """Record a trainer's busy and waiting time; learners that share the pool have a trainer each."""
        self.trainers[learner] = trainer

    def size(self, num_running: int, num_requests: float) -> int:
        """Return the target number of actors, given the running actors and pending requests.

        Until the first actor has loaded its model, it is the initial size, however long nodes take.
        """
        if not self.counts.num_loads:
            return self.initial_size
        return self.sizer.size(
            PoolSnapshot(
                at=time.monotonic(),
                num_running=num_running,
                num_requests=num_requests,
                num_batches=self.num_batches,
                working_seconds=self.counts.working_seconds,
                trainer=total_times(list(self.trainers.values())),
            )
        )

    def snapshot(self) -> GenerationCounts:
        """Return the current counts, without the images in `scores`."""
        reported_since = time.monotonic() - LOADING_TIMEOUT_SECONDS
        self.counts.loading = {process for process, at in self.loading_at.items() if at >= reported_since}
        return dataclasses.replace(self.counts, scores=dataclasses.replace(self.counts.scores, shown={}))

    def scores(self) -> ScoreCounts:
        """Return the scores of the recipe's check, with images."""
        return self.counts.scores
