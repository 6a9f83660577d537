"""Progress reports from a training worker to the driver. A slow reader hardly delays the worker."""

import asyncio
from contextlib import suppress
from typing import cast

import ray
from ray.actor import ActorHandle

from generation.pool.service import beside_driver
from training.progress import TrainingProgress

ARRIVAL_SECONDS = 1.0
"""How long a worker waits for a report to arrive."""

LAST_ARRIVAL_SECONDS = 10.0
"""The same at the end of an epoch, which includes a run's last report: its process may end right after."""


@ray.remote(num_cpus=0)
class Inbox:
    """Buffers reports until their reader has them."""

    def __init__(self) -> None:
        self.reports: list[TrainingProgress] = []
        self.num_read = 0
        self.has_some = asyncio.Event()

    async def put(self, progress: TrainingProgress) -> None:
        """Add a report."""
        self.reports.append(progress)
        self.has_some.set()

    async def read(self, num_read: int, wait_seconds: float) -> list[TrainingProgress]:
        """Return the reports after the first `num_read`, oldest first; wait up to `wait_seconds` for one."""
        if num_read > self.num_read:  # Ray may reorder calls
            del self.reports[: num_read - self.num_read]
            self.num_read = num_read
        if not self.reports:
            self.has_some.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.has_some.wait(), wait_seconds)
        return list(self.reports)


def open_inbox() -> ActorHandle:
    """Return an empty inbox on this process's node."""
    return cast(ActorHandle, Inbox.options(scheduling_strategy=beside_driver()).remote())


class Sender:
    """Sends reports to an inbox from another process.

    It waits up to `ARRIVAL_SECONDS` for a report to arrive, but not while an earlier one is still pending; at an
    epoch's end it always waits, up to `LAST_ARRIVAL_SECONDS`.
    """

    def __init__(self, inbox: ActorHandle) -> None:
        self.inbox = inbox
        self.sent: ray.ObjectRef | None = None
        self.epoch = 0

    def __call__(self, progress: TrainingProgress) -> None:
        """Send a report."""
        is_stuck = self.sent is not None and not ray.wait([self.sent], timeout=0)[0]
        is_end, self.epoch = progress.epoch != self.epoch, progress.epoch
        self.sent = self.inbox.put.remote(progress)
        if is_end or not is_stuck:
            ray.wait([self.sent], timeout=LAST_ARRIVAL_SECONDS if is_end else ARRIVAL_SECONDS)
