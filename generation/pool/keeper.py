"""What adds up what generator actors report, and decides how many there are to be."""

import time
from collections import Counter
from dataclasses import dataclass, field

import ray

from generation.config import GenerationConfig
from generation.engine.actor import WorkCounts
from generation.pool.sizing import PoolSizer, PoolSnapshot, TrainerTimes

LOADING_SILENT_SECONDS = 60.0
"""A process that loads a model says so every `TELL_SECONDS`, as far as its imports let it; one that is silent for so
long is taken to be gone.
"""


@dataclass
class GenerationCounts(WorkCounts):
    """What the pool has done so far, counts that add up over actors, dead ones included."""

    num_loads: Counter[str] = field(default_factory=Counter)
    """Models loaded by each actor's process, as `host:pid`; an actor started anew is another process."""

    load_seconds: float = 0.0
    """How long those loads took, added up."""

    loading: set[str] = field(default_factory=set)
    """Processes that are loading a model, and were heard of lately."""

    load_errors: list[str] = field(default_factory=list)
    """One line for each actor whose model could not be loaded, since another one was loaded or at work."""

    batch_sizes: dict[str, int] = field(default_factory=dict)
    """How many images each process makes at once: what it was told, or found, or was left with as memory ran out."""

    num_requests: dict[str, int] = field(default_factory=dict)
    """Requests that each process still had when it last answered one, since an actor last came up."""


@ray.remote(num_cpus=0)
class PoolKeeper:
    """Adds up what generator actors report, so that a dead actor's counts stay; decides how many there are to be."""

    def __init__(self, config: GenerationConfig) -> None:
        self.counts = GenerationCounts()
        self.num_batches = 0
        self.loading_at: dict[str, float] = {}
        """When each process that loads a model was heard of last."""

        self.initial_size = config.num_initial_actors
        self.trainer: TrainerTimes | None = None
        self.sizer = PoolSizer(config.min_actors, config.num_initial_actors, config.max_actors, config.idle_seconds)

    def note_loading(self, process: str) -> None:
        """Note that an actor's process is loading its model."""
        self.loading_at[process] = time.monotonic()

    def add_load(self, process: str, batch_size: int, load_seconds: float) -> None:
        """Count one model load of an actor's process, perhaps in the place of one that is gone with its requests."""
        self.loading_at.pop(process, None)
        self.counts.num_loads[process] += 1
        self.counts.load_seconds += load_seconds
        self.counts.num_requests.clear()
        self.counts.batch_sizes[process] = batch_size
        self.counts.load_errors.clear()

    def add_load_error(self, process: str, message: str) -> None:
        """Keep why a model could not be loaded."""
        self.loading_at.pop(process, None)
        self.counts.load_errors.append(message)

    def add_work(self, process: str, batch_size: int, num_requests: int, done: WorkCounts) -> None:
        """Count what a process has done since it last told, and the requests it still has."""
        self.counts.batch_sizes[process] = batch_size
        self.counts.num_requests[process] = num_requests
        self.counts.add(done)
        self.counts.load_errors.clear()  # they are no reason any more why none would be up
        self.num_batches += done.num_images_made > 0

    def report_trainer(self, trainer: TrainerTimes) -> None:
        """Note how the trainer's time goes by."""
        self.trainer = trainer

    def size(self, num_running: int, num_requests: float) -> int:
        """Return how many actors there are to be, from how many are up and how many batches are asked for.

        Until the first one is up, that is no question: nodes may take as long as they like.
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
                trainer=self.trainer,
            )
        )

    def snapshot(self) -> GenerationCounts:
        """Return the counts so far."""
        heard_since = time.monotonic() - LOADING_SILENT_SECONDS
        self.counts.loading = {process for process, at in self.loading_at.items() if at >= heard_since}
        return self.counts
