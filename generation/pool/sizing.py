"""How many actors a pool needs, by what its trainer lacks. Numbers in, a number out: no Ray, no clock.

Training and generation work at once. A trainer that waits for a share w of its time works for the share 1 - w with what
b actors make at work: to work all the time it needs the work of b / (1 - w). One that does not wait leaves actors idle,
and b is less than the pool. So one formula tells how far to grow and how far to shrink.
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import cast

GROW_WAITING_FRACTION = 0.02
"""A pool grows only for a trainer that waits for more than this share of its time, and shrinks only for one that does
not: a queue that is full because the stream runs ahead says nothing.
"""

SPARE = 1.05
"""A pool has so many times the actors that are needed in the mean: no two batches take the same time."""

SHORTEST_WINDOW_SECONDS = 3.0
BATCHES_PER_WINDOW = 4
"""A trainer's waiting is measured over a window of so many batches' time: in between it may have images, or none."""

BATCHES_BEFORE_TRAINING = 20
"""A job asks for no more than these before training asks: its sheet of samples has so many images."""

AT_WORK_FRACTION = 0.9
"""Actors that work for so much of their time are taken to work all of it: they tell up to a second late."""

ROUNDING = 1e-9


@dataclass(frozen=True)
class TrainerTimes:
    """What a trainer says of its time, once a second or so."""

    seconds: float
    """How long it learnt or waited, since its first batch came; 0 before that, whether it has asked for it or not."""

    waiting_seconds: float
    """How much of that it waited for images, a wait that is not over included. Neither counts time for anything else,
    such as judging.
    """


@dataclass(frozen=True)
class PoolSnapshot:
    """A pool and its trainer at one moment."""

    at: float
    """In seconds of any one clock."""

    num_running: int
    """Actors that are up."""

    num_requests: float
    """Batches asked for and not answered."""

    num_batches: int
    """Batches that actors have made so far, dead ones included."""

    working_seconds: float
    """Time in which they had anything to do, added up over actors."""

    trainer: TrainerTimes | None
    """None where none says anything: whoever asks wants all as soon as may be."""


def actors_needed(working_actors: float, waiting_fraction: float) -> float:
    """Return how many actors' work a trainer takes if it never waits, from what it took while it waited at times.

    `working_actors` is the time that actors worked over the time that went by; infinite for a trainer that only waits.
    """
    return working_actors / (1 - waiting_fraction) if waiting_fraction < 1 else math.inf


class PoolSizer:
    """Decides how many actors there are to be; remembers what it saw within its window, and what was needed lately."""

    def __init__(self, min_actors: int, initial_actors: int, max_actors: int, idle_seconds: float) -> None:
        self.min_actors = min_actors
        self.max_actors = max_actors
        self.idle_seconds = idle_seconds
        self._size = initial_actors
        self._looks: deque[PoolSnapshot] = deque()
        self._waits = False
        self._is_growing = True
        """Whether not all that were asked for have been up since."""

        self._batch_seconds = 0.0
        """What a batch takes an actor, as far as that is known."""

        self._needs: deque[tuple[float, int]] = deque()
        """What was needed at each look within `idle_seconds`."""

        self._need_before_lull = initial_actors
        """What an idle pool that is asked again grows to."""

    def size(self, look: PoolSnapshot) -> int:
        """Return how many actors there are to be, `min_actors` to `max_actors`."""
        if not self._needs:
            self._needs.append((look.at, self._size))
        if self._looks and began_anew(self._looks[-1], look):
            self._looks.clear()
        if self._is_growing and look.num_running >= self._size:
            self._is_growing = False
            self._looks.clear()
        self._looks.append(look)
        need = self._need(look)
        while len(self._needs) > 1 and self._needs[0][0] < look.at - self.idle_seconds:
            self._needs.popleft()
        lately = max(needed for _, needed in self._needs)
        if not need and self._needs[-1][1]:
            self._need_before_lull = lately
        self._needs.append((look.at, need))
        size = min(max(need, self.min_actors, min(self._size, lately)), self.max_actors)
        self._is_growing |= size > self._size
        self._size = size
        return size

    def _need(self, look: PoolSnapshot) -> int:
        """Return what is needed; as many as there are, as long as that cannot be told."""
        if look.trainer is not None and not look.trainer.seconds:
            return self._need_before_first_batch(look)
        if not look.num_requests:
            return 0
        if look.trainer is None:
            return self.max_actors
        if not look.num_running or not self._looks[0].num_running:
            self._looks = deque([look])
            return max(self._need_before_lull, self._size)
        earlier = self._start_of_window(look)
        return self._trainer_needs(earlier, look) if earlier is not None and told_between(earlier, look) else self._size

    def _need_before_first_batch(self, look: PoolSnapshot) -> int:
        """Return as many as there are until training has asked and they work all the time: then it waits all the time.

        Until then nodes, models and workers may take as long as they like. Training's own room is taken by then.
        """
        self._note_batch_seconds(look)
        has_asked = look.num_requests > 0 and look.num_batches + look.num_requests > BATCHES_BEFORE_TRAINING
        if not has_asked or self._is_growing or not self._batch_seconds:
            return self._size
        earlier = self._start_of_window(look)
        if earlier is None or working_actors(earlier, look) < AT_WORK_FRACTION * self._size:
            return self._size
        return self.max_actors

    def _trainer_needs(self, earlier: PoolSnapshot, look: PoolSnapshot) -> int:
        waiting, working = waiting_fraction(earlier, look), working_actors(earlier, look)
        waited, self._waits = self._waits, waiting > GROW_WAITING_FRACTION
        needed = math.ceil(min(actors_needed(working, waiting) * SPARE, self.max_actors) - ROUNDING)
        if not self._waits:
            return min(needed, self._size)
        if not waited:  # A window in which it waits all along tells what it needs, in one step.
            self._looks = deque([look])
        if not waited or self._is_growing:  # What was asked for comes before more is.
            return self._size
        return max(needed, self._size)

    def _start_of_window(self, look: PoolSnapshot) -> PoolSnapshot | None:
        """Forget the looks before the window; return its first, None while it is not full."""
        self._note_batch_seconds(look)
        seconds = max(SHORTEST_WINDOW_SECONDS, BATCHES_PER_WINDOW * self._batch_seconds)
        while len(self._looks) > 2 and self._looks[1].at <= look.at - seconds:
            self._looks.popleft()
        return self._looks[0] if self._looks[0].at <= look.at - seconds else None

    def _note_batch_seconds(self, look: PoolSnapshot) -> None:
        first = self._looks[0]
        if num_batches := look.num_batches - first.num_batches:
            self._batch_seconds = (look.working_seconds - first.working_seconds) / num_batches


def began_anew(earlier: PoolSnapshot, later: PoolSnapshot) -> bool:
    """Return whether the trainer was started again between two looks, or is another one."""
    if earlier.trainer is None or later.trainer is None:
        return earlier.trainer is not later.trainer
    return later.trainer.seconds < earlier.trainer.seconds


def told_between(earlier: PoolSnapshot, later: PoolSnapshot) -> bool:
    """Return whether the trainer, its first batch long there, said something new between two looks."""
    if earlier.trainer is None or later.trainer is None:
        return False
    return 0 < earlier.trainer.seconds < later.trainer.seconds


def waiting_fraction(earlier: PoolSnapshot, later: PoolSnapshot) -> float:
    """Return the share of its time that the trainer waited between two looks, 0..1."""
    before, after = cast(TrainerTimes, earlier.trainer), cast(TrainerTimes, later.trainer)
    return min(1.0, (after.waiting_seconds - before.waiting_seconds) / (after.seconds - before.seconds))


def working_actors(earlier: PoolSnapshot, later: PoolSnapshot) -> float:
    """Return how many actors' time was spent at work between two looks, no more than there were."""
    working_seconds = later.working_seconds - earlier.working_seconds
    most = max(earlier.num_running, later.num_running)
    return min(working_seconds / (later.at - earlier.at), most)
