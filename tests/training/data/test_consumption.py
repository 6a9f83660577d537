from collections import Counter

import numpy as np
import pytest

from generation.indices import IndexSet
from training.data.consumption import (
    EMPTY_CONSUMPTION,
    Consumption,
    Ledger,
    RunSerials,
    Share,
    Worker,
    exact_share,
    loose_share,
    merged,
    step_share,
)
from training.data.reservoir import PixelStore, Reservoir, Uses


def uses_in(share: Share, reuse: int) -> Counter[int]:
    fresh = share.fresh.at(np.arange(len(share.fresh))).tolist()
    uses = Counter(dict.fromkeys(fresh, reuse))
    uses.update(dict(zip(share.begun.tolist(), share.uses_left.tolist(), strict=True)))
    return uses


def done(taken: range, left: dict[int, int]) -> Consumption:
    return Consumption(IndexSet.of_ranges([taken]), np.array([*left], np.int64), np.array([*left.values()], np.int32))


def test_remaining_uses_are_split_and_border_sample_is_shared():
    before = done(range(50), {3: 2, 10: 1, 40: 3})  # 6 uses, and 4 each of 50 to 99: 206 in all
    first, second = (exact_share(before, RunSerials(100, 100), 4, Worker(rank, 2), num_uses=206) for rank in range(2))
    assert uses_in(first, 4) == {3: 2, 10: 1, **dict.fromkeys(range(50, 75), 4)}
    assert uses_in(second, 4) == {40: 3, **dict.fromkeys(range(75, 100), 4)}
    first, second, third = (exact_share(before, RunSerials(100, 100), 4, Worker(rank, 3), 204) for rank in range(3))
    assert uses_in(first, 4) == {3: 2, **dict.fromkeys(range(50, 66), 4), 66: 2}  # 66 of 198 uses, and 2 of 6
    assert uses_in(second, 4) == {10: 1, 40: 1, 66: 2, **dict.fromkeys(range(67, 83), 4)}
    assert uses_in(third, 4) == {40: 2, **dict.fromkeys(range(83, 99), 4), 99: 2}  # the uneven rest is dropped


def test_each_pass_is_split_equally():
    before, serials = done(range(10), {}), RunSerials(60, 20)
    shares = [exact_share(before, serials, 2, Worker(rank, 2), num_uses=100) for rank in range(2)]
    assert [share.fresh for share in shares] == [
        IndexSet.of_ranges([range(10, 15), range(20, 30), range(40, 50)]),
        IndexSet.of_ranges([range(15, 20), range(30, 40), range(50, 60)]),
    ]
    loose = [loose_share(before, serials, Worker(rank, 2)) for rank in range(2)]
    assert [share.fresh for share in loose] == [share.fresh for share in shares]


@pytest.mark.parametrize("seed", range(30))
def test_shares_have_exactly_the_remaining_uses(seed: int):
    random = np.random.default_rng(seed)
    num_serials, reuse, count = int(random.integers(1, 60)), int(random.integers(1, 6)), int(random.integers(1, 5))
    serials = RunSerials(num_serials, int(random.integers(1, 61)))
    taken = random.permutation(num_serials)[: random.integers(0, num_serials + 1)]
    left = {int(serial): int(random.integers(1, reuse + 1)) for serial in taken[: len(taken) // 2]}
    before = Consumption(IndexSet.of(taken), np.array([*left], np.int64), np.array([*left.values()], np.int32))
    rest = Counter(dict.fromkeys(set(range(num_serials)) - set(taken.tolist()), reuse)) + Counter(left)
    uses_each = rest.total() // count
    shares = [
        uses_in(exact_share(before, serials, reuse, Worker(rank, count), uses_each * count), reuse)
        for rank in range(count)
    ]
    assert [share.total() for share in shares] == [uses_each] * count
    together = sum(shares, Counter())
    assert together <= rest
    assert (rest - together).total() == rest.total() % count  # an uneven rest


def test_step_shares_follow_index_order():
    shares = [step_share(EMPTY_CONSUMPTION, RunSerials(40, 40), 4, Worker(rank, 2)) for rank in range(2)]
    assert shares[0].fresh == IndexSet.of_ranges([range(4), range(8, 12), range(16, 20), range(24, 28), range(32, 36)])
    assert shares[1].fresh == IndexSet.of_ranges(
        [range(4, 8), range(12, 16), range(20, 24), range(28, 32), range(36, 40)]
    )
    again = [step_share(done(range(16), {9: 1, 13: 2}), RunSerials(40, 40), 8, Worker(rank, 2)) for rank in range(2)]
    assert [share.fresh for share in again] == [
        IndexSet.of_ranges([range(16, 24), range(32, 40)]),
        IndexSet.of_ranges([range(24, 32)]),
    ]
    assert [share.begun.tolist() for share in again] == [[], [9, 13]]  # in the second block of 8


def test_loose_shares_are_equal():
    before = done(range(10), {2: 1, 5: 3, 7: 2})
    shares = [loose_share(before, RunSerials(31, 31), Worker(rank, 2)) for rank in range(2)]
    assert [share.fresh for share in shares] == [
        IndexSet.of_ranges([range(10, 21)]),
        IndexSet.of_ranges([range(21, 31)]),
    ]
    assert [share.begun.tolist() for share in shares] == [[2, 7], [5]]
    assert [share.uses_left.tolist() for share in shares] == [[1, 2], [3]]


def test_ledger_counts_uses_and_survives_checkpoint():
    ledger = Ledger(Share(IndexSet.of_ranges([range(10, 20)]), np.array([3]), np.array([1], np.int32)), 2, most_uses=2)
    assert ledger.uses_left(np.array([3, 10, 11])).tolist() == [1, 2, 2]
    ledger.take(np.array([3, 10, 11]))
    ledger.use(np.array([3, 11]))
    ledger.use(np.array([11]))
    state = merged(done(range(10), {3: 1}), [ledger.state()])
    again = Consumption.from_checkpoint(state.to_checkpoint())
    assert again.taken == state.taken == IndexSet.of_ranges([range(12)])
    assert dict(zip(again.begun.tolist(), again.uses_left.tolist(), strict=True)) == {10: 2}


def test_dropped_sample_stays_begun_until_pending_steps_end():
    nothing = np.zeros(0, np.int64)
    ledger = Ledger(Share(IndexSet.of_ranges([range(10)]), nothing, nothing.astype(np.int32)), 2, most_uses=9)
    ledger.take(np.array([4, 5]))
    ledger.use(np.array([4, 4, 5]))
    ledger.drop(np.array([4, 5]))  # a second use of 5 is drawn, its step pending
    assert ledger.state().begun.tolist() == [5]
    ledger.use(np.array([5]))
    assert ledger.state().begun.tolist() == []
    ledger.use(np.array([4]))  # by a step that was pending when 4 was dropped
    assert ledger.state().taken == IndexSet.of_ranges([range(4, 6)])


NUM_SERIALS, REUSE, GLOBAL_BATCH = 96, 3, 12
SERIALS = RunSerials(NUM_SERIALS, 40)


class Trainer:
    """A training worker's handling of its share, with empty images and without a clock."""

    def __init__(self, share: Share, rank: int, batch_size: int) -> None:
        self.batch_size = batch_size
        self.ledger = Ledger(share, REUSE, REUSE)
        self.coming = share.serials.at(np.arange(len(share.serials)))
        self.reservoir = Reservoir(PixelStore(100 * 12, 2), Uses(REUSE, REUSE), key=(0, rank, 0))

    def step(self, number: int, random: np.random.Generator) -> list[int]:
        while not self.reservoir.can_draw(self.batch_size, not len(self.coming)) or (
            len(self.coming) and random.random() < 0.5
        ):
            serials, self.coming = np.split(self.coming, [min(len(self.coming), int(random.integers(1, 5)))])
            self.ledger.take(serials)
            uses_left = self.ledger.uses_left(serials)
            self.reservoir.add(serials, serials, np.zeros((len(serials), 2, 2, 3), np.uint8), uses_left)
        serials = self.reservoir.draw(number, self.batch_size, not len(self.coming))["serial"].numpy()
        self.ledger.use(serials)
        return serials.tolist()


@pytest.mark.parametrize("seed", range(10))
def test_random_kills_and_resizes_change_no_use_counts(seed: int):
    random = np.random.default_rng(seed)
    num_steps = NUM_SERIALS * REUSE // GLOBAL_BATCH
    saved, committed = EMPTY_CONSUMPTION, []
    while len(committed) < num_steps:
        count = int(random.choice([1, 2, 3, 4]))
        num_uses = (num_steps - len(committed)) * GLOBAL_BATCH
        shares = [exact_share(saved, SERIALS, REUSE, Worker(rank, count), num_uses) for rank in range(count)]
        workers = [Trainer(share, rank, GLOBAL_BATCH // count) for rank, share in enumerate(shares)]
        before, steps = saved, []
        for number in range(len(committed), min(num_steps, len(committed) + int(random.integers(1, 10)))):
            steps.append([serial for worker in workers for serial in worker.step(number, random)])
            if random.random() < 0.4 or number == num_steps - 1:  # a checkpoint commits the steps before it
                saved = merged(before, [worker.ledger.state() for worker in workers])
                committed += steps
                steps = []
    assert len(committed) == num_steps
    assert Counter(serial for step in committed for serial in step) == dict.fromkeys(range(NUM_SERIALS), REUSE)
    assert len(saved.begun) == 0
