"""Who shares a batch, who waits and what is dropped, by a fake clock. With Ray: test_shared_batches.py."""

from collections import Counter
from dataclasses import dataclass, field

import pytest

from generation.config import SharingConfig
from generation.engine.generator import GenerationFailedError
from generation.indices import IndexSet
from generation.pool.sharing import EXPECTED, Consumer, SharedBuffer, SharingCounts


@dataclass
class Learners:
    """Learners `a`, `b`, ... that want batches 0 to 99, and a buffer of batches of 10 bytes; time stands still."""

    names: str = "ab"
    buffered_bytes: int = 1_000
    max_waiting_fraction: float = 0.25
    at: float = 100.0
    made: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        config = SharingConfig(self.buffered_bytes, self.max_waiting_fraction)
        self.buffer = SharedBuffer[int](config, batch_bytes=10, now=lambda: self.at)
        for name in self.names:
            self.buffer.register(Consumer(name, 0), IndexSet.of_ranges([range(100)]), num_ranks=1)

    def take(self, name: str, *numbers: int, rank: int | None = 0) -> list[int]:
        """Return which of these batches were made for a learner that takes them, waiting for none."""
        num_made = len(self.made)
        for number in numbers:
            assert self.buffer.take(Consumer(name, rank), number, lambda number=number: self._make(number)) == number
        return self.made[num_made:]

    def waits(self, name: str, number: int) -> bool:
        """Return whether a learner's request waits for room."""
        return self.buffer.must_wait(Consumer(name, 0), number)

    def wait(self, name: str, seconds: float) -> None:
        """Let a learner wait."""
        with self.buffer.waiting(name):
            self.at += seconds

    @property
    def held(self) -> list[int]:
        """The batches in the buffer."""
        return sorted(self.buffer.held)

    def _make(self, number: int) -> int:
        self.made.append(number)
        return number


def test_batch_is_made_once_and_kept_until_all_have_it():
    learners = Learners("abc")
    assert learners.take("a", 0, 1) == [0, 1]
    assert learners.take("b", 0) == []
    assert learners.held == [0, 1]
    assert learners.take("c", 0) == []
    assert learners.held == [1]
    assert learners.buffer.counts() == SharingCounts(2, num_made=2, num_shared=2, num_taken=Counter(a=2, b=1, c=1))


def test_learner_alone_keeps_nothing():
    learners = Learners("a")
    assert learners.take("a", 0, 1, 2) == [0, 1, 2]
    assert learners.held == []


def test_learner_waits_for_room_until_a_slower_one_takes_a_batch():
    learners = Learners(buffered_bytes=20)
    assert not learners.waits("a", 0)
    learners.take("a", 0, 1)
    learners.at += 4
    assert learners.waits("a", 2)
    assert not learners.waits("b", 0)  # it is held
    learners.take("b", 0)
    assert not learners.waits("a", 2)


def test_learner_waits_for_a_quarter_of_its_time():
    learners = Learners(buffered_bytes=10)
    assert not learners.waits("a", 0)
    learners.take("a", 0)
    learners.at += 3
    assert learners.waits("a", 1)
    assert learners.buffer.patience_seconds("a") == 1.0
    learners.wait("a", 1)  # of 4 seconds
    assert not learners.waits("a", 1)
    learners.at += 6
    assert learners.buffer.patience_seconds("a") == 2.0  # 3 of 12 seconds
    assert learners.buffer.counts().waiting_seconds == {"a": 1.0}


def test_fractions_of_zero_and_a_buffer_of_zero_let_nobody_wait():
    for learners in (Learners(buffered_bytes=10, max_waiting_fraction=0.0), Learners(buffered_bytes=0)):
        assert not learners.waits("a", 0)
        learners.take("a", 0)
        learners.at += 10
        assert not learners.waits("a", 1)


def test_slow_learner_keeps_its_next_batches_and_has_later_ones_made_again():
    learners = Learners(buffered_bytes=30)
    assert learners.take("a", 0, 1, 2, 3, 4) == [0, 1, 2, 3, 4]
    assert learners.held == [0, 1, 2]
    learners.at += 10
    assert not learners.waits("b", 3)  # it was made before
    assert learners.take("b", 0, 1, 2, 3, 4, 5) == [3, 4, 5]
    assert learners.held == [5]
    assert learners.take("a", 5) == []
    counts = learners.buffer.counts()
    assert counts == SharingCounts(6, 8, 4, num_taken=Counter(a=6, b=6), waiting_seconds={"b": 0.0})


def test_slow_learner_takes_no_room_from_two_that_are_close():
    learners = Learners("abs", buffered_bytes=30)
    learners.take("a", 0, 1, 2)
    learners.take("b", 0, 1, 2)
    assert learners.held == [0, 1, 2]  # for s
    assert learners.take("a", 3) == [3]
    assert learners.held == [0, 1, 3]  # s needs 2 after two others, and b needs 3 at once
    assert learners.take("b", 3) == []
    assert learners.take("a", 4) == [4]
    assert learners.held == [0, 1, 4]
    assert learners.take("b", 4) == []
    assert learners.take("s", 0, 1, 2, 3, 4) == [2, 3]


def test_registering_again_replaces_what_a_stream_wants():
    learners = Learners()
    learners.take("a", 0, 1, 2)
    learners.buffer.register(Consumer("b", 0), IndexSet.of_ranges([range(2, 100)]), num_ranks=1)  # resumed
    assert learners.held == [2]
    learners.buffer.register(Consumer("b", 0), IndexSet.of_ranges([]), num_ranks=1)
    assert learners.held == []


def test_restart_with_fewer_workers_drops_the_others():
    learners = Learners("a")
    for rank, numbers in enumerate([range(50), range(50, 100)]):
        learners.buffer.register(Consumer("b", rank), IndexSet.of_ranges([numbers]), num_ranks=2)
    learners.take("a", 0, 60)
    assert learners.held == [0, 60]
    learners.buffer.register(Consumer("b", 0), IndexSet.of_ranges([range(10)]), num_ranks=1)
    assert learners.held == [0]


def test_batch_at_the_border_of_two_workers_is_made_once():
    learners = Learners("")
    for rank, numbers in enumerate([range(4), range(3, 8)]):
        learners.buffer.register(Consumer("a", rank), IndexSet.of_ranges([numbers]), num_ranks=2)
    assert learners.take("a", 3, rank=0) == [3]
    assert learners.take("a", 3, rank=1) == []


def test_batches_are_kept_for_a_learner_that_is_still_starting():
    learners = Learners("a")
    learners.buffer.register(Consumer("b", EXPECTED), IndexSet.of_ranges([range(3), range(1000, 1001)]))
    learners.take("a", 0, 1, 2, 3)
    assert learners.held == [0, 1, 2]
    assert learners.take("b", 0, rank=None) == []  # for a page, before its streams are open
    held_out = IndexSet.of_ranges([range(1000, 1001)])
    learners.buffer.register(Consumer("b", None), held_out, num_ranks=1)
    assert learners.take("b", 1, rank=None) == []  # for a page
    assert learners.held == [0, 1, 2]
    learners.buffer.register(Consumer("b", 0), IndexSet.of_ranges([range(2, 3)]), num_ranks=1)
    assert learners.held == [2]
    learners.buffer.register(Consumer("a", None), held_out, num_ranks=1)
    assert learners.take("a", 1000, rank=None) == [1000]
    assert learners.take("b", 1000, rank=None) == []


def test_batches_are_kept_until_all_workers_of_a_learner_have_begun():
    learners = Learners("a")
    learners.buffer.register(Consumer("b", EXPECTED), IndexSet.of_ranges([range(6)]))
    learners.take("a", 0, 3)
    learners.buffer.register(Consumer("b", 0), IndexSet.of_ranges([range(3)]), num_ranks=2)
    assert learners.held == [0, 3]
    assert learners.take("b", 0) == []
    assert learners.held == [3]
    learners.buffer.register(Consumer("b", 1), IndexSet.of_ranges([range(4, 6)]), num_ranks=2)
    assert learners.held == []


def test_nobody_waits_for_a_learner_that_has_not_begun():
    learners = Learners("ab", buffered_bytes=20)
    learners.buffer.register(Consumer("c", EXPECTED), IndexSet.of_ranges([range(100)]))
    assert not learners.waits("a", 0)
    learners.take("a", 0, 1)
    learners.take("b", 0, 1)
    learners.at += 10
    assert learners.held == [0, 1]  # for c
    assert not learners.waits("a", 2)
    assert learners.take("a", 2) == [2]
    assert learners.held == [0, 2]  # b comes before c
    assert not learners.waits("a", 3)
    assert learners.take("a", 3) == [3]
    assert learners.held == [2, 3]
    assert learners.waits("a", 4)  # for b


def test_batches_are_kept_for_the_one_that_needs_them_soonest():
    learners = Learners("a", buffered_bytes=20)
    learners.buffer.register(Consumer("b", 0), IndexSet.of_ranges([range(40, 60)]), num_ranks=1)
    learners.take("a", 40, 41, 42, 59)
    assert learners.held == [40, 41]
    learners.buffer.register(Consumer("c", 0), IndexSet.of_ranges([range(59, 60)]), num_ranks=1)
    learners.take("b", 59)
    assert learners.held == [40, 59]  # c needs it next


def test_learner_that_has_left_is_refused_and_no_batch_is_kept_for_it():
    learners = Learners("ab", buffered_bytes=10)
    assert not learners.waits("a", 0)
    learners.take("a", 0)
    learners.at += 4
    assert learners.waits("a", 1)
    learners.buffer.leave("b")
    assert learners.held == []
    assert not learners.waits("a", 1)
    with pytest.raises(GenerationFailedError, match="'b' has ended"):
        learners.waits("b", 1)
    learners.buffer.register(Consumer("b", EXPECTED), IndexSet.of_ranges([range(1)]))  # it is started again
    assert not learners.waits("b", 1)


def test_lost_batch_is_made_again_for_the_next_that_asks():
    learners = Learners("abc")
    learners.take("a", 0)
    learners.buffer.forget(0)
    assert learners.take("b", 0) == [0]
    assert learners.take("c", 0) == []
    assert learners.buffer.counts() == SharingCounts(1, num_made=2, num_shared=1, num_taken=Counter("abc"))
