"""A trainer that learns nothing: takes images as fast as it is told to, and has each that came noted.

It runs where training would, in a Ray Train worker, and goes on after its loss. Knows neither the pool nor why it is
asked to go faster.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import ray
from ray.actor import ActorHandle
from ray.data import Dataset

from generation.indices import IndexSet, Wanted
from generation.pool.service import beside_driver
from generation.pool.sizing import TrainerTimes
from generation.work_clock import WorkClock
from ray_jobs.cluster.processes import this_process
from ray_jobs.scaling.background import Background
from ray_jobs.scaling.loads import Phase, appetite_at
from ray_jobs.scaling.throughput import Deliveries
from training.config import TrainingConfig
from training.fit import UNLIMITED_RESTARTS, run_workers

HEARD_EVERY_SECONDS = 1.0
"""How often the pool is told how the trainer does."""


class DeliveryLedger:
    """Notes what came to the trainer and when; beside the driver, which neither a lost trainer nor a lost node ends.

    What is noted is done: as if a step had been taken, and a checkpoint written.
    """

    def __init__(self) -> None:
        self.begun: list[tuple[float, str]] = []
        """When each trainer began, in seconds of `time.time()`, and its process, as `host:pid`."""

        self.came_at: list[float] = []
        self.indices: list[np.ndarray] = []
        self.waiting_seconds: list[float] = []
        """How long the trainer waited for each batch."""

    def begin(self, process: str) -> tuple[IndexSet, float | None]:
        """Note that a trainer begins; return what has come already, and when the first batch did."""
        self.begun.append((time.time(), process))
        return IndexSet.of(np.concatenate([np.zeros(0, np.int64), *self.indices])), self.first_batch_at()

    def take(self, indices: np.ndarray, waiting_seconds: float) -> None:
        """Note a batch."""
        self.came_at.append(time.time())
        self.indices.append(indices)
        self.waiting_seconds.append(waiting_seconds)

    def first_batch_at(self) -> float | None:
        """Return when the first batch came, if it has, in seconds of `time.time()`."""
        return self.came_at[0] if self.came_at else None

    def trainer(self) -> str:
        """Return the process of the trainer that began last."""
        return self.begun[-1][1]

    def deliveries(self) -> Deliveries:
        """Return all that came, as numbers."""
        nums = np.array([len(part) for part in self.indices])
        return Deliveries(np.array(self.came_at), nums, np.array(self.waiting_seconds))

    def snapshot(self) -> "DeliveryLedger":
        """Return all that is noted."""
        return self


def open_ledger() -> ActorHandle:
    """Start a ledger beside this process."""
    actor = ray.remote(num_cpus=0)(DeliveryLedger).options(scheduling_strategy=beside_driver())  # pyright: ignore[reportAttributeAccessIssue]
    return cast(ActorHandle, actor.remote())


def close_ledger(ledger: ActorHandle) -> DeliveryLedger:
    """End a ledger and return what it has noted."""
    notes = cast(DeliveryLedger, ray.get(ledger.snapshot.remote()))
    ray.kill(ledger)
    return notes


@dataclass(frozen=True)
class PaintedJob:
    """What the trainer is told."""

    open: Callable[[Wanted], Dataset]
    num_images: int
    """It takes the samples 0 to `num_images - 1`, each once."""

    batch_size: int
    ledger: ActorHandle
    phases: tuple[Phase, ...] = ()
    """How fast it takes them; without any, as they come."""

    report: Callable[[TrainerTimes], None] | None = None
    """Is told about once a second how the trainer's time goes by."""


def train_painted(job: PaintedJob, config: TrainingConfig) -> None:
    """Let one worker take all images; a lost one is replaced, and goes on."""
    with tempfile.TemporaryDirectory() as scratch:
        run_workers(take_all, {"job": job}, config, Path(scratch), UNLIMITED_RESTARTS)


def take_all(settings: dict[str, PaintedJob]) -> None:
    """Take what has not come yet, batch by batch."""
    job = settings["job"]
    taken, run_began_at = cast(tuple[IndexSet, float | None], ray.get(job.ledger.begin.remote(this_process())))
    left = IndexSet.of_ranges([range(job.num_images)]) - taken
    if len(left):
        PaintedTrainer(job, run_began_at).take(batches_of(job, left))


def batches_of(job: PaintedJob, left: IndexSet) -> Iterator[dict[str, np.ndarray]]:
    """Return the batches of what is left; the stream is executed in a process of its own, as in training."""
    here = [ray.get_runtime_context().get_node_id()]
    (iterator,) = job.open(Wanted(left)).streaming_split(1, locality_hints=here)
    batches = iterator.iter_batches(batch_size=job.batch_size, batch_format="numpy", prefetch_batches=1)
    return cast(Iterator[dict[str, np.ndarray]], iter(batches))


class PaintedTrainer:
    """Takes batches at the pace of its appetite, and tells how long it waits for them."""

    def __init__(self, job: PaintedJob, run_began_at: float | None) -> None:
        """Take when the run's first batch came, if another trainer has had it."""
        self.job = job
        self.run_began_at = run_began_at
        self.began_at: float | None = None
        """When its own first batch came."""

        self.waiting = WorkClock()
        """How long it has waited since."""

    def take(self, batches: Iterator[dict[str, np.ndarray]]) -> None:
        """Take all."""
        with Background() as beside:
            beside.start(lambda: self._tell(beside))
            due_at, asked_at = 0.0, time.time()
            while (batch := self._next(batches)) is not None:
                came_at = time.time()
                ray.get(self.job.ledger.take.remote(batch["index"], came_at - asked_at))
                if self.began_at is None:
                    self.waiting.take()
                    self.began_at = came_at
                self.run_began_at = self.run_began_at or came_at
                if appetite := appetite_at(self.job.phases, came_at - self.run_began_at):
                    due_at = next_due_at(due_at, came_at, len(batch["index"]) / appetite)
                    time.sleep(max(0.0, due_at - time.time()))
                asked_at = time.time()

    def _next(self, batches: Iterator[dict[str, np.ndarray]]) -> dict[str, np.ndarray] | None:
        with self.waiting:
            return next(batches, None)

    def _tell(self, beside: Background) -> None:
        while self.job.report is not None and not beside.is_over.wait(HEARD_EVERY_SECONDS):
            if self.began_at is not None:
                self.job.report(TrainerTimes(time.time() - self.began_at, self.waiting.seconds))


def next_due_at(due_at: float, came_at: float, period_seconds: float) -> float:
    """Return when the next batch is to be asked for: a period after this one was, or should have been.

    What a batch takes to be handed over is made up for; a longer wait is not.
    """
    return max(due_at, came_at - period_seconds) + period_seconds
