import numpy as np
import pytest

from generation.indices import NOTHING, IndexSet


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
    assert a - NOTHING == a | NOTHING == a
    assert a & NOTHING == a - a == NOTHING
    assert not NOTHING


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


def test_a_part_is_by_position():
    found = set_of(range(10, 13), range(100, 104))
    assert members(found.part(1, 5)) == [11, 12, 100, 101]
    assert found.part(5, 5) == found.part(7, 9) == NOTHING
    assert members(found.moved(5)) == [15, 16, 17, 105, 106, 107, 108]


def test_runs_are_shared_in_turns_and_the_uneven_end_is_left_out():
    found = set_of(range(5), range(10, 24))  # 19 numbers: two strides of 2 workers with runs of 4, 3 left out
    assert members(found.every(run=4, offset=0, stride=2)) == [0, 1, 2, 3, 13, 14, 15, 16]
    assert members(found.every(run=4, offset=1, stride=2)) == [4, 10, 11, 12, 17, 18, 19, 20]
    assert found.every(run=20, offset=0, stride=1) == NOTHING
    assert found.every(run=19, offset=0, stride=1) == found


def test_numbers_up_to_the_last_sample_have_room():
    last = 2**63 - 2
    found = set_of(range(last, last + 1))
    assert members(found - set_of(range(5))) == [last]
    assert found.contains(np.array([last, 3])).tolist() == [True, False]
