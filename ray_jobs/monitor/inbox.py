"""What a training worker reports, on its way to the job's own process. Who reports never waits for who reads."""

from typing import cast

import ray
from ray.actor import ActorHandle

from generation.pool.service import beside_driver
from training.progress import TrainingProgress

READ_SECONDS = 10.0
"""How long an answer of the inbox is waited for."""

ARRIVAL_SECONDS = 1.0
"""How long a worker waits for its report to arrive, so that the last one is there before its process ends."""


@ray.remote(num_cpus=0)
class Inbox:
    """Keeps reports until they are taken."""

    def __init__(self) -> None:
        self.reports: list[TrainingProgress] = []

    def put(self, progress: TrainingProgress) -> None:
        """Keep a report."""
        self.reports.append(progress)

    def take(self) -> list[TrainingProgress]:
        """Return the reports since the last call, oldest first."""
        reports, self.reports = self.reports, []
        return reports


def open_inbox() -> ActorHandle:
    """Return an empty inbox on this process's node."""
    return cast(ActorHandle, Inbox.options(scheduling_strategy=beside_driver()).remote())


class Sender:
    """Sends reports to an inbox from another process: one that does not answer delays a worker once."""

    def __init__(self, inbox: ActorHandle) -> None:
        self.inbox = inbox
        self.sent: ray.ObjectRef | None = None

    def __call__(self, progress: TrainingProgress) -> None:
        """Send a report."""
        is_stuck = self.sent is not None and not ray.wait([self.sent], timeout=0)[0]
        self.sent = self.inbox.put.remote(progress)
        if not is_stuck:
            ray.wait([self.sent], timeout=ARRIVAL_SECONDS)


def take(inbox: ActorHandle) -> list[TrainingProgress]:
    """Return the reports that have come since the last call; RayError if the inbox is gone or does not answer."""
    return ray.get(inbox.take.remote(), timeout=READ_SECONDS)
