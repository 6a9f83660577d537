"""Which batches of a pool are kept for which learners. Uses neither Ray nor threads.

Learners of one recipe want the same samples at different times. A batch is made for the first one that asks, and is
kept until all that want it have taken it, within `SharingConfig.buffered_bytes`. If the buffer is full:

- The first request of a batch waits for room, which comes when a slow learner takes its batches. A learner waits for
  at most `max_waiting_fraction` of the time since its first request.
- Then its batch is made, and of all batches the one needed last is dropped: the one that is furthest ahead of the
  learners that want it (Belady, 1966). They have it made again, and do not wait for room.
- Batches that are wanted only by learners that have not begun are dropped first, and nobody waits for those learners.

So no learner waits forever, and a slow one costs at most its own images again.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from generation.config import SharingConfig
from generation.engine.generator import GenerationFailedError
from generation.indices import IndexSet
from generation.work_clock import WorkClock

Batch = TypeVar("Batch")

EXPECTED = -1
"""Rank that stands for a learner's training streams until all of them are opened."""

AFTER_ALL = 1e15
"""Added to the number of batches before one that is only expected, so that it is dropped first."""


class Consumer(NamedTuple):
    """One stream of a learner: a training worker's by its rank, or another one (None)."""

    learner: str
    rank: int | None


@dataclass(frozen=True)
class SharingCounts:
    """What sharing saved, in batches, and what it cost."""

    num_distinct: int = 0
    num_made: int = 0
    """Includes batches made again, since they were dropped or lost."""

    num_shared: int = 0
    """Requests answered without making a batch."""

    num_taken: Counter[str] = field(default_factory=Counter)
    """Requests by learner."""

    waiting_seconds: dict[str, float] = field(default_factory=dict)
    """Time spent waiting for room, by learner."""


class Wants:
    """The batches that one consumer has not taken yet, by number."""

    def __init__(self, numbers: IndexSet) -> None:
        """Start with a set of batches that is not empty."""
        self._numbers = numbers
        lengths = numbers.stops - numbers.starts
        self._offsets = np.cumsum(lengths) - lengths
        self._is_left = np.ones(int(lengths.sum()) + 1, dtype=bool)
        self._is_left[-1] = False  # at position -1, which stands for other batches
        self._num_passed = 0
        """Batches before the first one left."""

    def num_before(self, numbers: np.ndarray) -> np.ndarray:
        """Return how many batches the consumer passes before each of these, float [N]; infinite for unwanted ones."""
        positions = self._positions(numbers)
        return np.where(self._is_left[positions], positions - self._num_passed, np.inf)

    def __contains__(self, number: int) -> bool:
        return bool(self._is_left[self._positions(np.array([number]))[0]])

    def discard(self, number: int) -> None:
        """Record that a batch was taken."""
        self._is_left[self._positions(np.array([number]))] = False
        while self._num_passed < len(self._is_left) - 1 and not self._is_left[self._num_passed]:
            self._num_passed += 1

    def _positions(self, numbers: np.ndarray) -> np.ndarray:
        """Return each batch's position among the consumer's batches; -1 for others."""
        row = np.searchsorted(self._numbers.starts, numbers, side="right") - 1
        is_inside = (row >= 0) & (numbers < self._numbers.stops[row])
        return np.where(is_inside, self._offsets[row] + numbers - self._numbers.starts[row], -1)


class SharedBuffer(Generic[Batch]):
    """Batches by number, made once for all learners that want them, and decides who waits and what is dropped."""

    def __init__(self, config: SharingConfig, batch_bytes: int, now: Callable[[], float] = time.monotonic) -> None:
        self.held: dict[int, Batch] = {}
        self._capacity = config.buffered_bytes // batch_bytes
        self._max_waiting_fraction = config.max_waiting_fraction
        self._now = now
        self._wants: dict[Consumer, Wants] = {}
        self._left: set[str] = set()
        """Learners that have ended."""

        self._opened: dict[str, set[int]] = {}
        """Ranks of each learner's training streams that are opened."""

        self._since: dict[str, float] = {}
        """Time of each learner's first request."""

        self._waiting: dict[str, WorkClock] = {}
        self._made: set[int] = set()
        self._num_made = self._num_shared = 0
        self._num_taken = Counter[str]()

    def register(self, consumer: Consumer, numbers: IndexSet, num_ranks: int = 0) -> None:
        """Record which batches a stream will request, in place of what it requested before a restart.

        The last of a learner's training streams also replaces what was expected; each one, ranks that it no longer has.
        """
        if consumer.rank == EXPECTED:  # the learner starts, maybe again
            self._left.discard(consumer.learner)
            self._opened[consumer.learner] = set()
        elif consumer.rank is not None:
            self._opened.setdefault(consumer.learner, set()).add(consumer.rank)
        if consumer.rank is not None:
            is_open = self._opened[consumer.learner].issuperset(range(num_ranks))
            kept = (None, *range(num_ranks), *(() if is_open else (EXPECTED,)))
            self._wants = {
                each: wants
                for each, wants in self._wants.items()
                if each.learner != consumer.learner or each.rank in kept
            }
        self._wants.pop(consumer, None)
        if len(numbers):
            self._wants[consumer] = Wants(numbers)
        self._drop_unwanted()

    def leave(self, learner: str) -> None:
        """Forget what a learner wants, and refuse its later requests."""
        self._left.add(learner)
        self._wants = {each: wants for each, wants in self._wants.items() if each.learner != learner}
        self._drop_unwanted()

    def must_wait(self, consumer: Consumer, number: int) -> bool:
        """Return whether a request waits for room; GenerationFailedError if the learner has left."""
        if consumer.learner in self._left:
            raise GenerationFailedError(f"The learner '{consumer.learner}' has ended and gets no more images.")
        self._since.setdefault(consumer.learner, self._now())
        is_of_stream = consumer in self._wants  # and not one of a few for a page, which never wait
        if not is_of_stream or len(self.held) < max(1, self._capacity) or number in self._made:
            return False
        others = (wants for each, wants in self._wants.items() if each != consumer and each.rank != EXPECTED)
        if not any(number in wants for wants in others) or self.patience_seconds(consumer.learner) <= 0:
            return False
        num_held = int(np.count_nonzero(self._needs()[1] < AFTER_ALL))  # without those only expected
        return num_held >= max(1, self._capacity)

    def patience_seconds(self, learner: str) -> float:
        """Return how long a learner may still wait from now on, without a break."""
        fraction, seconds = self._max_waiting_fraction, self._now() - self._since[learner]
        return (fraction * seconds - self.waiting(learner).seconds) / (1 - fraction)

    def waiting(self, learner: str) -> WorkClock:
        """Return the clock of a learner's waiting time."""
        return self._waiting.setdefault(learner, WorkClock(self._now))

    def take(self, consumer: Consumer, number: int, make: Callable[[], Batch]) -> Batch:
        """Return a held batch, or make it; keep it while other consumers want it."""
        self._num_taken[consumer.learner] += 1
        if consumer in self._wants and number in self._wants[consumer]:
            for each in (consumer, Consumer(consumer.learner, EXPECTED)):
                if each in self._wants:
                    self._wants[each].discard(number)
        is_wanted = any(number in wants for wants in self._wants.values())
        if number in self.held:
            self._num_shared += 1
            return self.held[number] if is_wanted else self.held.pop(number)
        self._num_made += 1
        self._made.add(number)
        batch = make()
        if is_wanted:
            self.held[number] = batch
            if len(self.held) > self._capacity:
                numbers, num_before = self._needs()
                del self.held[int(numbers[np.argmax(num_before)])]
        return batch

    def forget(self, number: int) -> None:
        """Drop a batch that was lost, so that the next request has it made again."""
        self.held.pop(number, None)

    def counts(self) -> SharingCounts:
        """Return the counts so far."""
        waiting = {learner: self.waiting(learner).seconds for learner in self._since}
        return SharingCounts(len(self._made), self._num_made, self._num_shared, self._num_taken, waiting)

    def _drop_unwanted(self) -> None:
        numbers, num_before = self._needs()
        for number in numbers[np.isinf(num_before)].tolist():
            del self.held[number]

    def _needs(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the held batches, and how many batches the nearest consumer passes before each; infinite for none."""
        numbers = np.fromiter(self.held, dtype=np.int64)
        num_before = np.full(len(numbers), np.inf)
        for each, wants in self._wants.items():
            later = AFTER_ALL if each.rank == EXPECTED else 0.0
            num_before = np.minimum(num_before, wants.num_before(numbers) + later)
        return numbers, num_before
