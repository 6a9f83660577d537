import logging
import pickle
from functools import partial

import numpy as np
import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, OutOfMemoryError

from generation.config import GenerationConfig
from generation.engine.generator import ActorFailedError
from generation.indices import EMPTY_INDICES, IndexSet, SampleRequest
from generation.pool.service import GenerationFailedError
from generation.shards.datasets import encoding_stage
from generation.stream.stream import (
    MAX_DEATHS,
    BatchRequester,
    StageSpec,
    StreamStage,
    num_requesters_of,
    samples_of_unit,
)
from generation.stream.units import MAX_UNITS, in_blocks, unit_sizes, work_units


def set_of(*ranges: range) -> IndexSet:
    return IndexSet.of_ranges(ranges)


def ranges_of(units: list[dict[str, int]]) -> list[range]:
    return [range(unit["start"], unit["stop"]) for unit in units]


def test_units_are_whole_batches_and_skip_gaps():
    # Batches 0 to 37, 125 and 126: 32 in the first unit, which is 8 windows long.
    units = work_units(set_of(range(300), range(1000, 1010)), batch_size=8, num_requesters=1, window=4)
    assert ranges_of(units) == [range(256), range(256, 1016)]
    assert ranges_of(work_units(set_of(range(250, 257)), batch_size=8, num_requesters=1, window=4)) == [range(248, 264)]
    assert work_units(EMPTY_INDICES, batch_size=8, num_requesters=1, window=4) == []


def test_units_become_shorter_towards_the_end_of_a_stream():
    assert unit_sizes(100, num_requesters=4, window=4) == [25, 19, 14, 11, 8, 6, 5, 4, 4, 4]
    assert unit_sizes(300, num_requesters=2, window=8) == [64, 64, 64, 54, 27, 14, 8, 5]
    assert unit_sizes(100, num_requesters=1, window=8) == [64, 36]  # no other actor to share with
    assert unit_sizes(3, num_requesters=4, window=4) == [3]


def test_blocks_have_similar_sizes_and_preserve_order():
    units = [{"start": i, "stop": i + 1} for i in range(7)]
    assert [block["start"] for block in in_blocks(units, 3)] == [[0, 1], [2, 3, 4], [5, 6]]
    assert [block["stop"] for block in in_blocks(units, 100)] == [[i] for i in range(1, 8)]
    assert in_blocks([], 3) == []


@pytest.mark.parametrize("seed", range(5))
def test_units_cover_each_index_of_a_scattered_set_once(seed: int):
    random = np.random.default_rng(seed)
    wanted = IndexSet.of(random.integers(0, 20_000, size=60))
    held = [set_of(unit) for unit in ranges_of(work_units(wanted, batch_size=8, num_requesters=4, window=2))]
    assert len(held) > 4
    assert sum(len(wanted & unit) for unit in held) == len(wanted)
    assert all(len(wanted & unit) for unit in held)
    assert {int(bound) % 8 for unit in held for bound in (*unit.starts, *unit.stops)} == {0}


def test_scattered_set_of_billions_stays_within_max_units():
    every_other_run = set_of(range(64 * 10**7)).strided(32, 0, 64)
    units = work_units(every_other_run, batch_size=32, num_requesters=8, window=4)
    assert len(units) <= MAX_UNITS
    assert every_other_run - set_of(*ranges_of(units)) == EMPTY_INDICES


def test_billion_images_stay_within_max_units():
    units = ranges_of(work_units(set_of(range(10**9)), batch_size=32, num_requesters=8, window=4))
    assert len(units) <= MAX_UNITS
    assert set_of(range(10**9)) - set_of(*units) == EMPTY_INDICES


class LosingService:
    """A fake pool that loses its first results, then returns the indices."""

    def __init__(self, num_losses: int, error: Exception | None = None) -> None:
        self.num_losses = num_losses
        self.error = error or ActorDiedError()
        self.requests: list[range] = []

    def request(self, indices: range):
        self.requests.append(indices)
        return self

    def result(self, timeout_s: float) -> dict:
        if len(self.requests) <= self.num_losses:
            raise self.error
        index = np.array(self.requests[-1])
        return {"index": index, "label": index, "image": index, "attempt": index}

    def raise_if_failed(self) -> None:
        pass


def request_four(service: LosingService) -> list[list[int]]:
    requester = BatchRequester(service, GenerationConfig(), batch_size=4, window=1)  # pyright: ignore[reportArgumentType]
    return [batch["index"].tolist() for batch in requester.request_set(set_of(range(8, 12)))]


def test_batches_start_at_multiples_of_their_size():
    service = LosingService(0)
    requester = BatchRequester(service, GenerationConfig(), batch_size=4, window=1)  # pyright: ignore[reportArgumentType]
    assert [batch["index"].tolist() for batch in requester.request_set(set_of(range(6, 11)))] == [[6, 7], [8, 9, 10]]
    assert service.requests == [range(4, 8), range(8, 12)]


def test_batches_without_requested_samples_are_skipped():
    service = LosingService(0)
    requester = BatchRequester(service, GenerationConfig(), batch_size=4, window=1)  # pyright: ignore[reportArgumentType]
    batches = list(requester.request_set(set_of(range(6, 7), range(17, 19), range(30, 33))))
    assert [batch["index"].tolist() for batch in batches] == [[6], [17, 18], [30, 31], [32]]
    assert service.requests == [range(4, 8), range(16, 20), range(28, 32), range(32, 36)]
    assert list(requester.request_set(EMPTY_INDICES)) == []


def test_unit_requests_its_indices_and_their_serials_are_equal():
    service = LosingService(0)
    wanted = set_of(range(3), range(30, 40), range(64, 70))
    requester = StreamStage(partial(samples_of_unit, wanted), service, GenerationConfig(), 4, 1)
    batches = list(requester({"start": np.array([[32]]), "stop": np.array([[64]])}))
    assert [batch["serial"].tolist() for batch in batches] == [[32, 33, 34, 35], [36, 37, 38, 39]]
    assert all(np.array_equal(batch["serial"], batch["index"]) for batch in batches)
    assert service.requests == [range(32, 36), range(36, 40)]


@pytest.mark.parametrize(("num_actors", "in_a_stream", "in_a_tee"), [(1, 2, 2), (8, 2, 8), (32, 8, 16)])
def test_encoding_stage_has_more_actors_than_a_stream(num_actors: int, in_a_stream: int, in_a_tee: int):
    config = GenerationConfig(max_actors=num_actors)
    everything = SampleRequest.all_of(range(8))
    stages = StageSpec(lambda _, unit: iter([unit])), encoding_stage(lambda _, unit: iter([unit]))
    assert [num_requesters_of(config, everything, stage) for stage in stages] == [in_a_stream, in_a_tee]


@pytest.mark.parametrize(("before", "after"), [("ERROR", "ERROR"), ("INFO", "WARNING")])
def test_stream_limits_serves_log_level(before: str, after: str):
    serve_log = logging.getLogger("ray.serve")
    level = serve_log.level
    try:
        serve_log.setLevel(before)
        request_four(LosingService(0))
        assert logging.getLevelName(serve_log.level) == after
    finally:
        serve_log.setLevel(level)


@pytest.mark.parametrize(("path", "is_logged"), [("/lib/ray/serve/_private/a.py", False), ("/home/me/a.py", True)])
def test_serves_unawaited_calls_to_a_lost_actor_are_not_logged(path: str, is_logged: bool):
    request_four(LosingService(0))
    record = logging.LogRecord("asyncio", logging.ERROR, path, 1, "never retrieved: defined at %s", (path,), None)
    assert bool(logging.getLogger("asyncio").filter(record)) == is_logged


@pytest.fixture
def no_pause(monkeypatch):
    monkeypatch.setattr("generation.stream.stream.RETRY_SECONDS", 0.0)


@pytest.mark.usefixtures("no_pause")
def test_lost_batch_is_retried():
    service = LosingService(MAX_DEATHS - 1)
    assert request_four(service) == [[8, 9, 10, 11]]
    assert service.requests == [range(8, 12)] * MAX_DEATHS


@pytest.mark.usefixtures("no_pause")
def test_batch_that_kills_its_actors_ends_the_stream():
    with pytest.raises(
        GenerationFailedError, match=r"^5 actors died while making .* 8 to 11\. .*generation\.batch_size"
    ):
        request_four(LosingService(1000))


class KilledService(LosingService):
    """Loses its results because the memory monitor kills its actors."""

    def __init__(self, *processes: str) -> None:
        super().__init__(len(processes))
        self.processes = processes

    def result(self, timeout_s: float) -> dict:
        if len(self.requests) <= self.num_losses:
            self.error = OutOfMemoryError(f"the node was low on memory: {self.processes[len(self.requests) - 1]}")
        return super().result(timeout_s)


@pytest.mark.usefixtures("no_pause")
def test_actors_killed_by_the_memory_monitor_are_counted():
    request_four(KilledService("pid 1", "pid 2", "pid 3", "pid 4"))
    with pytest.raises(GenerationFailedError, match=r"killed 5 of them because their node ran out of memory"):
        request_four(KilledService("pid 1", "pid 2", "pid 3", "pid 4", "pid 5"))


@pytest.mark.usefixtures("no_pause")
def test_actor_retried_after_its_death_counts_once():
    assert request_four(KilledService(*["pid 1"] * 9)) == [[8, 9, 10, 11]]


class FailingService(LosingService):
    """Loses its results because its actors fail one after another."""

    def __init__(self, *failures: tuple[str, str]) -> None:
        super().__init__(len(failures))
        self.failures = failures

    def result(self, timeout_s: float) -> dict:
        if len(self.requests) <= self.num_losses:
            self.error = ActorFailedError(*self.failures[len(self.requests) - 1])
        return super().result(timeout_s)


@pytest.mark.usefixtures("no_pause")
def test_batch_that_fails_on_one_actor_is_made_by_another():
    service = FailingService(("a:1", "CUDA error"), ("a:1", "CUDA error"), ("b:2", "another error"))
    assert request_four(service) == [[8, 9, 10, 11]]
    assert len(service.requests) == 4


@pytest.mark.usefixtures("no_pause")
@pytest.mark.parametrize(
    ("failures", "message"),
    [
        ([("a:1", "CUDA error"), ("b:2", "CUDA error")], r"CUDA error \(in b:2\)"),
        ([("a:1", "one"), ("b:2", "two"), ("c:3", "three")], "three"),
    ],
)
def test_repeated_failures_of_a_batch_end_the_stream(failures: list[tuple[str, str]], message: str):
    with pytest.raises(ActorFailedError, match=message):
        request_four(FailingService(*failures, ("d:4", "four")))


def test_actor_failure_survives_pickling():
    error = pickle.loads(pickle.dumps(ActorFailedError("a:1", "CUDA error")))
    assert (error.process, error.description, str(error)) == ("a:1", "CUDA error", "CUDA error (in a:1)")


@pytest.mark.usefixtures("no_pause")
def test_unreachable_actors_do_not_count_as_deaths():
    service = LosingService(20, ActorUnavailableError("its node is lost, which nobody has noticed yet", b"x" * 16))
    assert request_four(service) == [[8, 9, 10, 11]]
    assert len(service.requests) == 21
