"""A fake trainer: consumes images at a given rate, trains nothing and records each delivery.

It runs in a Ray Train worker, as training does; after a crash its replacement continues with the remaining samples.
Uses neither the pool nor the experiment that sets the rate.
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

from generation.indices import IndexSet, SampleRequest
from generation.pool.service import beside_driver
from generation.pool.sizing import TrainerTimes
from generation.work_clock import WorkClock
from ray_jobs.cluster.processes import this_process
from ray_jobs.scaling.background import Background
from ray_jobs.scaling.loads import Phase, trainer_rate_at
from ray_jobs.scaling.throughput import Deliveries
from training.config import TrainingConfig
from training.fit import UNLIMITED_RESTARTS, run_workers

REPORT_SECONDS = 1.0
"""Interval at which the trainer's times are reported to the pool."""


class DeliveryLedger:
    """Records the deliveries to the trainer; runs on the driver's node, so it survives the loss of trainer and nodes.

    A recorded batch counts as delivered, as if a training step and a checkpoint had followed.
    """

    def __init__(self) -> None:
        self.begun: list[tuple[float, str]] = []
        """Start of each trainer as Unix time in seconds, and its process as `host:pid`."""

        self.delivered_at: list[float] = []
        self.indices: list[np.ndarray] = []
        self.waiting_seconds: list[float] = []
        """Waiting time of the trainer for each batch."""

    def begin(self, process: str) -> tuple[IndexSet, float | None]:
        """Record the start of a trainer; return the samples delivered so far and the time of the first batch."""
        self.begun.append((time.time(), process))
        return IndexSet.of(np.concatenate([np.zeros(0, np.int64), *self.indices])), self.first_batch_at()

    def record(self, indices: np.ndarray, waiting_seconds: float) -> None:
        """Record a batch."""
        self.delivered_at.append(time.time())
        self.indices.append(indices)
        self.waiting_seconds.append(waiting_seconds)

    def first_batch_at(self) -> float | None:
        """Return the Unix time of the first batch, in seconds; None before that batch."""
        return self.delivered_at[0] if self.delivered_at else None

    def trainer(self) -> str:
        """Return the current trainer's process as `host:pid`."""
        return self.begun[-1][1]

    def deliveries(self) -> Deliveries:
        """Return times, sizes and waiting times of all batches."""
        nums = np.array([len(part) for part in self.indices])
        return Deliveries(np.array(self.delivered_at), nums, np.array(self.waiting_seconds))

    def snapshot(self) -> "DeliveryLedger":
        """Return self; through Ray, a copy of the ledger."""
        return self


def open_ledger() -> ActorHandle:
    """Start a ledger on this process's node."""
    actor = ray.remote(num_cpus=0)(DeliveryLedger).options(scheduling_strategy=beside_driver())  # pyright: ignore[reportAttributeAccessIssue]
    return cast(ActorHandle, actor.remote())


def close_ledger(ledger: ActorHandle) -> DeliveryLedger:
    """Stop a ledger and return its content."""
    delivered = cast(DeliveryLedger, ray.get(ledger.snapshot.remote()))
    ray.kill(ledger)
    return delivered


@dataclass(frozen=True)
class PaintedJob:
    """The settings of the fake trainer."""

    open: Callable[[SampleRequest], Dataset]
    num_images: int
    """It consumes samples 0 to `num_images - 1`, each once."""

    batch_size: int
    ledger: ActorHandle
    phases: tuple[Phase, ...] = ()
    """Its speed over time; empty consumes images as fast as they arrive."""

    report: Callable[[TrainerTimes], None] | None = None
    """Called with the trainer's busy and waiting time about once a second."""


def train_painted(job: PaintedJob, config: TrainingConfig) -> None:
    """Consume all images in one Ray Train worker; a lost worker is restarted and continues."""
    with tempfile.TemporaryDirectory() as scratch:
        run_workers(take_all, {"job": job}, config, Path(scratch), UNLIMITED_RESTARTS)


def take_all(settings: dict[str, PaintedJob]) -> None:
    """Consume the samples that have not been delivered yet."""
    job = settings["job"]
    taken, run_began_at = cast(tuple[IndexSet, float | None], ray.get(job.ledger.begin.remote(this_process())))
    left = IndexSet.of_ranges([range(job.num_images)]) - taken
    if len(left):
        PaintedTrainer(job, run_began_at).take(batches_of(job, left))


def batches_of(job: PaintedJob, left: IndexSet) -> Iterator[dict[str, np.ndarray]]:
    """Return the batches of the remaining samples; the stream runs in its own process, as in training."""
    own_node = [ray.get_runtime_context().get_node_id()]
    (iterator,) = job.open(SampleRequest(left)).streaming_split(1, locality_hints=own_node)
    batches = iterator.iter_batches(batch_size=job.batch_size, batch_format="numpy", prefetch_batches=1)
    return cast(Iterator[dict[str, np.ndarray]], iter(batches))


class PaintedTrainer:
    """Consumes batches at the rate of the current phase, and reports its waiting time."""

    def __init__(self, job: PaintedJob, run_began_at: float | None) -> None:
        """Start a trainer; `run_began_at` is the time of the run's first batch if an earlier trainer received it."""
        self.job = job
        self.run_began_at = run_began_at
        self.began_at: float | None = None
        """Time of this trainer's first batch."""

        self.waiting = WorkClock()
        """Waiting time since then."""

    def take(self, batches: Iterator[dict[str, np.ndarray]]) -> None:
        """Consume all batches."""
        with Background() as background:
            background.start(lambda: self._report_times(background))
            due_at, requested_at = 0.0, time.time()
            while (batch := self._next(batches)) is not None:
                delivered_at = time.time()
                ray.get(self.job.ledger.record.remote(batch["index"], delivered_at - requested_at))
                if self.began_at is None:
                    self.waiting.take()
                    self.began_at = delivered_at
                self.run_began_at = self.run_began_at or delivered_at
                if rate := trainer_rate_at(self.job.phases, delivered_at - self.run_began_at):
                    due_at = next_due_at(due_at, delivered_at, len(batch["index"]) / rate)
                    time.sleep(max(0.0, due_at - time.time()))
                requested_at = time.time()

    def _next(self, batches: Iterator[dict[str, np.ndarray]]) -> dict[str, np.ndarray] | None:
        with self.waiting:
            return next(batches, None)

    def _report_times(self, background: Background) -> None:
        while self.job.report is not None and not background.stopped.wait(REPORT_SECONDS):
            if self.began_at is not None:
                self.job.report(TrainerTimes(time.time() - self.began_at, self.waiting.seconds))


def next_due_at(due_at: float, delivered_at: float, period_seconds: float) -> float:
    """Return the due time of the next batch's request: one period after the due time of this batch.

    A delay shorter than the period, such as handing over a batch, is caught up; a longer wait is not.
    """
    return max(due_at, delivered_at - period_seconds) + period_seconds
