import logging
import pickle
from functools import partial

import numpy as np
import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, OutOfMemoryError

from generation.config import GenerationConfig
from generation.engine.generator import ActorFailedError
from generation.indices import EMPTY, IndexSet, Wanted
from generation.pool.service import GenerationFailedError
from generation.shards.datasets import encoding
from generation.stream.stream import MAX_DEATHS, Asker, Requester, Stage, num_askers_of, wanted_of_unit
from generation.stream.units import MAX_UNITS, in_blocks, unit_sizes, work_units


def set_of(*ranges: range) -> IndexSet:
    return IndexSet.of_ranges(ranges)


def ranges_of(units: list[dict[str, int]]) -> list[range]:
    return [range(unit["start"], unit["stop"]) for unit in units]


def test_units_are_of_whole_batches_and_leave_out_where_nothing_is_wanted():
    # Batches 0 to 37, 125 and 126: 32 in the first unit, which is 8 windows long.
    units = work_units(set_of(range(300), range(1000, 1010)), batch_size=8, num_askers=1, window=4)
    assert ranges_of(units) == [range(256), range(256, 1016)]
    assert ranges_of(work_units(set_of(range(250, 257)), batch_size=8, num_askers=1, window=4)) == [range(248, 264)]
    assert work_units(EMPTY, batch_size=8, num_askers=1, window=4) == []


def test_units_become_shorter_towards_the_end_of_a_stream():
    assert unit_sizes(100, num_askers=4, window=4) == [25, 19, 14, 11, 8, 6, 5, 4, 4, 4]
    assert unit_sizes(300, num_askers=2, window=8) == [64, 64, 64, 54, 27, 14, 8, 5]
    assert unit_sizes(100, num_askers=1, window=8) == [64, 36]  # nobody to share with
    assert unit_sizes(3, num_askers=4, window=4) == [3]


def test_units_travel_in_their_order_in_blocks_of_like_sizes():
    units = [{"start": i, "stop": i + 1} for i in range(7)]
    assert [block["start"] for block in in_blocks(units, 3)] == [[0, 1], [2, 3, 4], [5, 6]]
    assert [block["stop"] for block in in_blocks(units, 100)] == [[i] for i in range(1, 8)]
    assert in_blocks([], 3) == []


@pytest.mark.parametrize("seed", range(5))
def test_units_hold_every_index_of_a_scattered_set_once_and_none_is_idle(seed: int):
    random = np.random.default_rng(seed)
    wanted = IndexSet.of(random.integers(0, 20_000, size=60))
    held = [set_of(unit) for unit in ranges_of(work_units(wanted, batch_size=8, num_askers=4, window=2))]
    assert len(held) > 4
    assert sum(len(wanted & unit) for unit in held) == len(wanted)
    assert all(len(wanted & unit) for unit in held)
    assert {int(bound) % 8 for unit in held for bound in (*unit.starts, *unit.stops)} == {0}


def test_a_set_that_is_scattered_over_billions_makes_no_more_units_either():
    every_other_run = set_of(range(64 * 10**7)).every(32, 0, 64)
    units = work_units(every_other_run, batch_size=32, num_askers=8, window=4)
    assert len(units) <= MAX_UNITS
    assert every_other_run - set_of(*ranges_of(units)) == EMPTY


def test_a_billion_images_make_no_more_units_than_ray_data_can_take():
    units = ranges_of(work_units(set_of(range(10**9)), batch_size=32, num_askers=8, window=4))
    assert len(units) <= MAX_UNITS
    assert set_of(range(10**9)) - set_of(*units) == EMPTY


class LosingService:
    """Stands for the pool: loses its first answers, then gives the indices back."""

    def __init__(self, num_losses: int, error: Exception | None = None) -> None:
        self.num_losses = num_losses
        self.error = error or ActorDiedError()
        self.asked: list[range] = []

    def ask(self, indices: range):
        self.asked.append(indices)
        return self

    def result(self, timeout_s: float) -> dict:
        if len(self.asked) <= self.num_losses:
            raise self.error
        index = np.array(self.asked[-1])
        return {"index": index, "label": index, "image": index, "attempt": index}

    def raise_if_failed(self) -> None:
        pass


def ask_for_four(service: LosingService) -> list[list[int]]:
    asker = Asker(service, GenerationConfig(), batch_size=4, window=1)  # pyright: ignore[reportArgumentType]
    return [batch["index"].tolist() for batch in asker.ask_set(set_of(range(8, 12)))]


def test_an_image_comes_in_the_same_batch_whoever_asks_for_it():
    service = LosingService(0)
    asker = Asker(service, GenerationConfig(), batch_size=4, window=1)  # pyright: ignore[reportArgumentType]
    assert [batch["index"].tolist() for batch in asker.ask_set(set_of(range(6, 11)))] == [[6, 7], [8, 9, 10]]
    assert service.asked == [range(4, 8), range(8, 12)]


def test_batches_of_which_nothing_is_wanted_are_not_asked_for():
    service = LosingService(0)
    asker = Asker(service, GenerationConfig(), batch_size=4, window=1)  # pyright: ignore[reportArgumentType]
    batches = list(asker.ask_set(set_of(range(6, 7), range(17, 19), range(30, 33))))
    assert [batch["index"].tolist() for batch in batches] == [[6], [17, 18], [30, 31], [32]]
    assert service.asked == [range(4, 8), range(16, 20), range(28, 32), range(32, 36)]
    assert list(asker.ask_set(EMPTY)) == []


def test_a_unit_requests_its_wanted_indices_and_their_serials_are_the_same():
    service = LosingService(0)
    wanted = set_of(range(3), range(30, 40), range(64, 70))
    requester = Requester(partial(wanted_of_unit, wanted), service, GenerationConfig(), 4, 1)
    batches = list(requester({"start": np.array([[32]]), "stop": np.array([[64]])}))
    assert [batch["serial"].tolist() for batch in batches] == [[32, 33, 34, 35], [36, 37, 38, 39]]
    assert all(np.array_equal(batch["serial"], batch["index"]) for batch in batches)
    assert service.asked == [range(32, 36), range(36, 40)]


@pytest.mark.parametrize(("num_actors", "in_a_stream", "encoding_as_well"), [(1, 2, 2), (8, 2, 8), (32, 8, 16)])
def test_askers_that_encode_are_more_than_a_streams(num_actors: int, in_a_stream: int, encoding_as_well: int):
    config = GenerationConfig(max_actors=num_actors)
    everything = Wanted.all_of(range(8))
    stages = Stage(lambda _, unit: iter([unit])), encoding(lambda _, unit: iter([unit]))
    assert [num_askers_of(config, everything, stage) for stage in stages] == [in_a_stream, encoding_as_well]


@pytest.mark.parametrize(("before", "after"), [("ERROR", "ERROR"), ("INFO", "WARNING")])
def test_a_stream_in_the_driver_leaves_serves_warnings_off_the_console(before: str, after: str):
    serve_log = logging.getLogger("ray.serve")
    level = serve_log.level
    try:
        serve_log.setLevel(before)
        ask_for_four(LosingService(0))
        assert logging.getLevelName(serve_log.level) == after
    finally:
        serve_log.setLevel(level)


@pytest.mark.parametrize(("path", "is_told"), [("/lib/ray/serve/_private/a.py", False), ("/home/me/a.py", True)])
def test_what_serve_asks_a_lost_actor_in_vain_is_no_trace(path: str, is_told: bool):
    ask_for_four(LosingService(0))
    record = logging.LogRecord("asyncio", logging.ERROR, path, 1, "never retrieved: defined at %s", (path,), None)
    assert bool(logging.getLogger("asyncio").filter(record)) == is_told


@pytest.fixture
def no_pause(monkeypatch):
    monkeypatch.setattr("generation.stream.stream.RETRY_SECONDS", 0.0)


@pytest.mark.usefixtures("no_pause")
def test_a_batch_whose_answer_was_lost_is_asked_for_again():
    service = LosingService(MAX_DEATHS - 1)
    assert ask_for_four(service) == [[8, 9, 10, 11]]
    assert service.asked == [range(8, 12)] * MAX_DEATHS


@pytest.mark.usefixtures("no_pause")
def test_a_batch_that_kills_one_actor_after_another_ends_the_stream():
    with pytest.raises(GenerationFailedError, match=r"^5 actors died that had .* 8 to 11: .*generation\.batch_size"):
        ask_for_four(LosingService(1000))


class KilledService(LosingService):
    """Loses its answers to actors that the memory monitor ends."""

    def __init__(self, *processes: str) -> None:
        super().__init__(len(processes))
        self.processes = processes

    def result(self, timeout_s: float) -> dict:
        if len(self.asked) <= self.num_losses:
            self.error = OutOfMemoryError(f"the node was low on memory: {self.processes[len(self.asked) - 1]}")
        return super().result(timeout_s)


@pytest.mark.usefixtures("no_pause")
def test_actors_that_rays_memory_monitor_ends_are_counted_and_the_node_is_named():
    ask_for_four(KilledService("pid 1", "pid 2", "pid 3", "pid 4"))
    with pytest.raises(GenerationFailedError, match=r"ended 5 of them, as the memory of their node ran out"):
        ask_for_four(KilledService("pid 1", "pid 2", "pid 3", "pid 4", "pid 5"))


@pytest.mark.usefixtures("no_pause")
def test_an_actor_that_was_asked_again_after_its_death_counts_once():
    assert ask_for_four(KilledService(*["pid 1"] * 9)) == [[8, 9, 10, 11]]


class FailingService(LosingService):
    """Loses its answers to actors that fail, one after another."""

    def __init__(self, *failures: tuple[str, str]) -> None:
        super().__init__(len(failures))
        self.failures = failures

    def result(self, timeout_s: float) -> dict:
        if len(self.asked) <= self.num_losses:
            self.error = ActorFailedError(*self.failures[len(self.asked) - 1])
        return super().result(timeout_s)


@pytest.mark.usefixtures("no_pause")
def test_a_batch_at_which_one_actor_fails_is_made_by_another():
    service = FailingService(("a:1", "CUDA error"), ("a:1", "CUDA error"), ("b:2", "another error"))
    assert ask_for_four(service) == [[8, 9, 10, 11]]
    assert len(service.asked) == 4


@pytest.mark.usefixtures("no_pause")
@pytest.mark.parametrize(
    ("failures", "message"),
    [
        ([("a:1", "CUDA error"), ("b:2", "CUDA error")], r"CUDA error \(in b:2\)"),
        ([("a:1", "one"), ("b:2", "two"), ("c:3", "three")], "three"),
    ],
)
def test_a_batch_at_which_actors_fail_alike_or_three_times_ends_the_stream(
    failures: list[tuple[str, str]], message: str
):
    with pytest.raises(ActorFailedError, match=message):
        ask_for_four(FailingService(*failures, ("d:4", "four")))


def test_an_actors_failure_is_pickled_whole():
    error = pickle.loads(pickle.dumps(ActorFailedError("a:1", "CUDA error")))
    assert (error.process, error.description, str(error)) == ("a:1", "CUDA error", "CUDA error (in a:1)")


@pytest.mark.usefixtures("no_pause")
def test_an_actor_that_cannot_be_reached_is_no_sign_that_a_batch_kills_actors():
    service = LosingService(20, ActorUnavailableError("its node is lost, which nobody has noticed yet", b"x" * 16))
    assert ask_for_four(service) == [[8, 9, 10, 11]]
    assert len(service.asked) == 21
