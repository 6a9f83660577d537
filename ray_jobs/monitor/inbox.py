"""What a training worker reports, on its way to the job's own process. Who reports hardly waits for who reads."""

import asyncio
from contextlib import suppress
from typing import cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayError

from generation.pool.service import beside_driver
from training.progress import TrainingProgress

READ_SECONDS = 10.0
"""How long an answer of the inbox is waited for at a time."""

ARRIVAL_SECONDS = 1.0
"""How long a worker waits for a report to arrive."""

LAST_ARRIVAL_SECONDS = 10.0
"""The same at the end of an epoch, of which the last report of a run is one: its process may end then."""


@ray.remote(num_cpus=0)
class Inbox:
    """Keeps reports until they are taken."""

    def __init__(self) -> None:
        self.reports: list[TrainingProgress] = []
        self.has_some = asyncio.Event()

    async def put(self, progress: TrainingProgress) -> None:
        """Keep a report."""
        self.reports.append(progress)
        self.has_some.set()

    async def take(self, wait_seconds: float) -> list[TrainingProgress]:
        """Return the reports since the last call, oldest first; wait so long for one."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.has_some.wait(), wait_seconds)
        self.has_some.clear()
        reports, self.reports = self.reports, []
        return reports


def open_inbox() -> ActorHandle:
    """Return an empty inbox on this process's node."""
    return cast(ActorHandle, Inbox.options(scheduling_strategy=beside_driver()).remote())


class Sender:
    """Sends reports to an inbox from another process.

    It waits for each to arrive, `ARRIVAL_SECONDS` at most, but for one after another that has not arrived; and at an
    epoch's end `LAST_ARRIVAL_SECONDS` at most.
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


class Receiver:
    """Takes reports out of an inbox."""

    def __init__(self, inbox: ActorHandle) -> None:
        self.inbox = inbox
        self.asked: ray.ObjectRef | None = None
        """An answer that has not come yet: what it will hold is in the inbox no more."""

    def take(self, wait_seconds: float) -> list[TrainingProgress]:
        """Return the reports since the last call, oldest first; wait so long for one.

        RayError if the inbox is gone, or does not answer: then the next call returns what it holds.
        """
        self.asked = self.asked or self.inbox.take.remote(wait_seconds)
        try:
            reports = ray.get(self.asked, timeout=READ_SECONDS)
        except GetTimeoutError:
            raise
        except RayError:
            self.asked = None
            raise
        self.asked = None
        return reports
