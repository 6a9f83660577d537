import numpy as np
import pytest

from generation.indices import EMPTY, IndexSet, Wanted


def set_of(*ranges: range) -> IndexSet:
    return IndexSet.of_ranges(ranges)


def members(indices: IndexSet) -> list[int]:
    return indices.at(np.arange(len(indices))).tolist()


def test_ranges_that_overlap_or_touch_are_one():
    found = set_of(range(7, 9), range(3), range(2, 4), range(4, 5), range(20, 20))
    assert (found.starts.tolist(), found.stops.tolist()) == ([0, 7], [5, 9])
    assert members(found) == [0, 1, 2, 3, 4, 7, 8]
    assert IndexSet.of(np.array([8, 2, 0, 7, 1, 3, 4, 4])) == found


def test_unions_intersections_and_differences_are_those_of_sets():
    a, b = set_of(range(10), range(20, 30)), set_of(range(5, 8), range(25, 40))
    assert members(a | b) == [*range(10), *range(20, 40)]
    assert members(a & b) == [5, 6, 7, *range(25, 30)]
    assert members(a - b) == [*range(5), 8, 9, *range(20, 25)]
    assert a - EMPTY == a | EMPTY == a
    assert a & EMPTY == a - a == EMPTY
    assert not EMPTY


@pytest.mark.parametrize("seed", range(20))
def test_they_agree_with_pythons_sets(seed: int):
    random = np.random.default_rng(seed)
    a, b = (set(random.integers(0, 60, size=random.integers(0, 50)).tolist()) for _ in range(2))
    ours_a, ours_b = (IndexSet.of(np.array(sorted(each), dtype=np.int64)) for each in (a, b))
    assert members(ours_a | ours_b) == sorted(a | b)
    assert members(ours_a & ours_b) == sorted(a & b)
    assert members(ours_a - ours_b) == sorted(a - b)
    assert [int(i) for i in np.flatnonzero(ours_a.contains(np.arange(60)))] == sorted(a)
    assert members(ours_a.part(3, 17)) == sorted(a)[3:17]
    assert members(ours_a.select(ours_b)) == [n for i, n in enumerate(sorted(a)) if i in b]
    assert ours_a.num_below(np.arange(62)).tolist() == [sum(n < bound for n in a) for bound in range(62)]
    for size in (1, 3, 7, 64):
        assert members(ours_a.blocks(size)) == sorted({n // size for n in a})
        within = {run: sorted(n % size for n in a if n // size == run) for run in sorted({n // size for n in a})}
        assert {run: members(found) for run, found in ours_a.sections(size)} == within
        for offset in range(3):
            theirs = [n for n in sorted(a) if n // size % 3 == offset]
            assert members(ours_a.every(run=size, offset=offset, stride=3)) == theirs


def test_a_part_is_by_position():
    found = set_of(range(10, 13), range(100, 104))
    assert members(found.part(1, 5)) == [11, 12, 100, 101]
    assert found.part(5, 5) == found.part(7, 9) == EMPTY
    assert members(found.moved(5)) == [15, 16, 17, 105, 106, 107, 108]


def test_runs_are_shared_in_turns_by_number_and_nothing_is_left_out():
    found = set_of(range(5), range(10, 23))  # runs of 4: 0-3, 8-11 and 16-19 for one of 2 workers, else the other's
    assert members(found.every(run=4, offset=0, stride=2)) == [0, 1, 2, 3, 10, 11, 16, 17, 18, 19]
    assert members(found.every(run=4, offset=1, stride=2)) == [4, 12, 13, 14, 15, 20, 21, 22]
    assert found.every(run=20, offset=0, stride=1) == found
    assert EMPTY.every(run=4, offset=1, stride=2) == EMPTY


def test_whose_number_one_is_does_not_depend_on_what_is_gone():
    first = set_of(range(100)).every(run=4, offset=1, stride=3)
    assert members(first.part(0, 6)) == [4, 5, 6, 7, 16, 17]
    assert set_of(range(17, 100)).every(run=4, offset=1, stride=3) == first - set_of(range(17))


def test_blocks_are_the_runs_that_have_some_of_it():
    found = set_of(range(3, 5), range(10, 11), range(24, 33))
    assert members(found.blocks(4)) == [0, 1, 2, 6, 7, 8]
    assert members(found.blocks(100)) == [0]
    assert found.blocks(1) == found
    assert EMPTY.blocks(4) == EMPTY


def test_numbers_below_a_bound_are_counted_without_the_bound_itself():
    found = set_of(range(2, 5), range(8, 10))
    assert found.num_below(np.array([0, 2, 3, 5, 7, 8, 9, 10, 99])).tolist() == [0, 0, 1, 3, 3, 3, 4, 5, 5]
    assert EMPTY.num_below(np.array([0, 7])).tolist() == [0, 0]


def test_sections_are_numbered_and_count_from_their_own_start():
    found = set_of(range(8, 12), range(25, 27), range(45, 46))
    assert [(run, members(within)) for run, within in found.sections(10)] == [
        (0, [8, 9]),
        (1, [0, 1]),
        (2, [5, 6]),
        (4, [5]),
    ]
    assert list(EMPTY.sections(10)) == []


def test_who_wants_samples_once_is_alone_and_takes_them_in_any_order():
    wanted = Wanted.all_of(range(3), range(7, 9))
    assert members(wanted.serials) == [0, 1, 2, 7, 8]
    assert (wanted.num_consumers, wanted.in_order) == (1, False)


def test_numbers_up_to_the_last_sample_have_room():
    last = 2**63 - 2
    found = set_of(range(last, last + 1))
    assert members(found - set_of(range(5))) == [last]
    assert found.contains(np.array([last, 3])).tolist() == [True, False]
    assert found.num_below(np.array([last, last + 1])).tolist() == [0, 1]
    assert members(found.blocks(2**10)) == [2**53 - 1]
