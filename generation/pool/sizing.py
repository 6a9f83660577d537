"""The number of actors that a pool needs, from its trainer's waiting time. Uses neither Ray nor a clock.

Training and generation run at the same time. A trainer that waits for a share w of its time is busy for the share 1 - w
on the output of b busy actors. To be busy all the time, it needs b / (1 - w). If the trainer never waits, some actors
idle and b is smaller than the pool. One formula therefore covers growing and shrinking.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

GROW_WAITING_FRACTION = 0.02
"""The pool grows only if the trainer waits more than this share of its time, and shrinks only otherwise.

Queue length is ignored, because the stream always runs ahead.
"""

SPARE = 1.05
"""Actors provided per actor needed on average, since batch times vary."""

SHORTEST_WINDOW_SECONDS = 3.0
BATCHES_PER_WINDOW = 4
"""Window over which the trainer's waiting time is measured, in batch times: within one it may vary from all to none."""

BATCHES_BEFORE_TRAINING = 20
"""The most batches that a job requests before training starts, for the images of `samples.png`."""

AT_WORK_FRACTION = 0.9
"""Actors count as fully busy from this share of their time on: their reports are up to a second late."""

ROUNDING = 1e-9


@dataclass(frozen=True)
class TrainerTimes:
    """A trainer's busy and waiting time, reported about once a second."""

    seconds: float
    """Time spent training or waiting for images since the first batch arrived; 0 before that.

    Other time, such as validation, does not count.
    """

    waiting_seconds: float
    """The part of `seconds` spent waiting for images, including a wait in progress."""


def total_times(trainers: Sequence[TrainerTimes]) -> TrainerTimes | None:
    """Return the sum over the trainers of one pool; None without any."""
    if not trainers:
        return None
    return TrainerTimes(sum(each.seconds for each in trainers), sum(each.waiting_seconds for each in trainers))


@dataclass(frozen=True)
class PoolSnapshot:
    """The state of a pool and its trainer at one time."""

    at: float
    """Time in seconds on any one clock."""

    num_running: int
    """Running actors."""

    num_requests: float
    """Pending requests, in batches."""

    num_batches: int
    """Batches made so far, including those of dead actors."""

    working_seconds: float
    """Busy time so far, added up over actors."""

    trainer: TrainerTimes | None
    """None without a trainer: all requested images are then needed as soon as possible."""


def actors_needed(working_actors: float, waiting_fraction: float) -> float:
    """Return the number of busy actors that a trainer needs in order never to wait; infinite if it only waits.

    `working_actors` is the actors' busy time divided by the elapsed time; `waiting_fraction` is in 0..1.
    """
    return working_actors / (1 - waiting_fraction) if waiting_fraction < 1 else math.inf


class PoolSizer:
    """Decides the number of actors, from the snapshots of the current window and the recent needs."""

    def __init__(self, min_actors: int, initial_actors: int, max_actors: int, idle_seconds: float) -> None:
        self.min_actors = min_actors
        self.max_actors = max_actors
        self.idle_seconds = idle_seconds
        self._size = initial_actors
        self._snapshots: deque[PoolSnapshot] = deque()
        self._waits = False
        self._is_growing = True
        """True until every actor of the last scale-up is running."""

        self._batch_seconds = 0.0
        """An actor's time per batch; 0 while unknown."""

        self._needs: deque[tuple[float, int]] = deque()
        """Time and number of needed actors at each snapshot within `idle_seconds`."""

        self._need_before_lull = initial_actors
        """The size that an idle pool returns to at the next request."""

    def size(self, snapshot: PoolSnapshot) -> int:
        """Return the target number of actors, `min_actors` to `max_actors`."""
        if not self._needs:
            self._needs.append((snapshot.at, self._size))
        if self._snapshots and is_restarted(self._snapshots[-1], snapshot):
            self._snapshots.clear()
        if self._is_growing and snapshot.num_running >= self._size:
            self._is_growing = False
            self._snapshots.clear()
        self._snapshots.append(snapshot)
        need = self._need(snapshot)
        while len(self._needs) > 1 and self._needs[0][0] < snapshot.at - self.idle_seconds:
            self._needs.popleft()
        recent_need = max(needed for _, needed in self._needs)
        if not need and self._needs[-1][1]:
            self._need_before_lull = recent_need
        self._needs.append((snapshot.at, need))
        size = min(max(need, self.min_actors, min(self._size, recent_need)), self.max_actors)
        self._is_growing |= size > self._size
        self._size = size
        return size

    def _need(self, snapshot: PoolSnapshot) -> int:
        """Return the number of actors needed, or the current size while that is unknown."""
        if snapshot.trainer is not None and not snapshot.trainer.seconds:
            return self._need_before_first_batch(snapshot)
        if not snapshot.num_requests:
            return 0
        if snapshot.trainer is None:
            return self.max_actors
        if not snapshot.num_running or not self._snapshots[0].num_running:
            self._snapshots = deque([snapshot])
            return max(self._need_before_lull, self._size)
        earlier = self._start_of_window(snapshot)
        return (
            self._trainer_needs(earlier, snapshot)
            if earlier is not None and has_progress(earlier, snapshot)
            else self._size
        )

    def _need_before_first_batch(self, snapshot: PoolSnapshot) -> int:
        """Return the maximum once training has sent requests and all actors are busy, else the current size.

        Training then waits all the time. Until then, nodes, models and workers may take any time to start; by then,
        training has allocated its own resources.
        """
        self._update_batch_seconds(snapshot)
        has_requests = (
            snapshot.num_requests > 0 and snapshot.num_batches + snapshot.num_requests > BATCHES_BEFORE_TRAINING
        )
        if not has_requests or self._is_growing or not self._batch_seconds:
            return self._size
        earlier = self._start_of_window(snapshot)
        if earlier is None or working_actors(earlier, snapshot) < AT_WORK_FRACTION * self._size:
            return self._size
        return self.max_actors

    def _trainer_needs(self, earlier: PoolSnapshot, snapshot: PoolSnapshot) -> int:
        waiting, working = waiting_fraction(earlier, snapshot), working_actors(earlier, snapshot)
        waited, self._waits = self._waits, waiting > GROW_WAITING_FRACTION
        needed = math.ceil(min(actors_needed(working, waiting) * SPARE, self.max_actors) - ROUNDING)
        if not self._waits:
            return min(needed, self._size)
        if not waited:  # Measure over a window of continuous waiting, so that one step is enough.
            self._snapshots = deque([snapshot])
        if not waited or self._is_growing:  # Do not request more until the last scale-up is complete.
            return self._size
        return max(needed, self._size)

    def _start_of_window(self, snapshot: PoolSnapshot) -> PoolSnapshot | None:
        """Drop snapshots from before the window; return its first one, or None until the window is full."""
        self._update_batch_seconds(snapshot)
        seconds = max(SHORTEST_WINDOW_SECONDS, BATCHES_PER_WINDOW * self._batch_seconds)
        while len(self._snapshots) > 2 and self._snapshots[1].at <= snapshot.at - seconds:
            self._snapshots.popleft()
        return self._snapshots[0] if self._snapshots[0].at <= snapshot.at - seconds else None

    def _update_batch_seconds(self, snapshot: PoolSnapshot) -> None:
        first = self._snapshots[0]
        if num_batches := snapshot.num_batches - first.num_batches:
            self._batch_seconds = (snapshot.working_seconds - first.working_seconds) / num_batches


def is_restarted(earlier: PoolSnapshot, later: PoolSnapshot) -> bool:
    """Return whether the trainer was restarted or replaced between two snapshots."""
    if earlier.trainer is None or later.trainer is None:
        return earlier.trainer is not later.trainer
    return later.trainer.seconds < earlier.trainer.seconds


def has_progress(earlier: PoolSnapshot, later: PoolSnapshot) -> bool:
    """Return whether the trainer had its first batch and reported new times between two snapshots."""
    if earlier.trainer is None or later.trainer is None:
        return False
    return 0 < earlier.trainer.seconds < later.trainer.seconds


def waiting_fraction(earlier: PoolSnapshot, later: PoolSnapshot) -> float:
    """Return the share of time that the trainer waited between two snapshots, 0..1."""
    before, after = cast(TrainerTimes, earlier.trainer), cast(TrainerTimes, later.trainer)
    return min(1.0, (after.waiting_seconds - before.waiting_seconds) / (after.seconds - before.seconds))


def working_actors(earlier: PoolSnapshot, later: PoolSnapshot) -> float:
    """Return the average number of busy actors between two snapshots, at most the number of running actors."""
    working_seconds = later.working_seconds - earlier.working_seconds
    most = max(earlier.num_running, later.num_running)
    return min(working_seconds / (later.at - earlier.at), most)
