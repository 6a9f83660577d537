import math
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from generation.pool.policy import KeeperPolicy
from generation.pool.sizing import (
    BATCHES_BEFORE_TRAINING,
    PoolSizer,
    PoolSnapshot,
    TrainerTimes,
    actors_needed,
    total_times,
)
from ray_jobs.experiments.run import NUM_SAMPLES_ON_SHEET
from tests.support.waits import wait_until


@pytest.mark.parametrize(
    ("working", "waiting", "needed"),
    [
        (2.0, 0.875, 16.0),  # two actors keep it busy for an eighth of its time
        (16.0, 0.0, 16.0),
        (4.0, 0.0, 4.0),  # of sixteen; the others idle
        (3.0, 0.25, 4.0),
        (1.0, 1.0, math.inf),
    ],
)
def test_actors_needed_by_waiting_time(working: float, waiting: float, needed: float):
    assert actors_needed(working, waiting) == needed


def test_times_of_learners_that_share_a_pool_add_up():
    assert total_times([]) is None
    assert total_times([TrainerTimes(10.0, 1.0), TrainerTimes(30.0, 9.0)]) == TrainerTimes(40.0, 10.0)


@dataclass
class Simulation:
    """A trainer that consumes the output of a given number of actors, and a pool whose actors take time to start.

    Takes a snapshot each second. An actor makes one unit of images per second; up to `max_ready` units are buffered.
    """

    sizer: PoolSizer
    start_seconds: float
    running: int
    demand: float = 0.0
    max_ready: float = 4.0
    reports: bool = True
    at: float = 0.0
    ready: float = 0.0
    waiting_seconds: float = 0.0
    working_seconds: float = 0.0
    sizes: list[int] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    """When each starting actor will be running."""

    def run(self, seconds: int, demand: float) -> list[int]:
        """Return the sizes decided in this time."""
        for _ in range(seconds):
            self._second(demand)
        return self.sizes[-seconds:]

    def _second(self, demand: float) -> None:
        self.at += 1.0
        self.running += sum(start <= self.at for start in self.starts)
        self.starts = [start for start in self.starts if start > self.at]
        made = min(float(self.running), demand + self.max_ready - self.ready)
        taken = min(demand, self.ready + made)
        self.ready += made - taken
        self.working_seconds += made
        self.waiting_seconds += 1 - taken / demand if demand else 0.0
        has_room = self.ready < self.max_ready
        trainer = TrainerTimes(self.at, self.waiting_seconds) if self.reports else None
        num_requests = 4.0 * self.sizer.max_actors if has_room else demand
        snapshot = PoolSnapshot(
            self.at, self.running, num_requests, round(self.working_seconds), self.working_seconds, trainer
        )
        size = self.sizer.size(snapshot)
        self.sizes.append(size)
        self.starts = self.starts[: max(0, size - self.running)]
        self.starts += [self.at + self.start_seconds] * (size - self.running - len(self.starts))
        self.running = min(self.running, size)


def pool(initial: int, lowest: int = 0, highest: int = 32, idle_seconds: float = 20.0) -> Simulation:
    """Return a simulated pool whose actors start within 15 s."""
    return Simulation(PoolSizer(lowest, initial, highest, idle_seconds), 15.0, initial)


def test_pool_grows_in_one_step_to_the_trainers_need():
    two = pool(initial=2)
    assert set(two.run(40, demand=1.9)) == {2}
    sizes = two.run(60, demand=15.0)
    assert sorted(set(sizes)) == [2, 16]
    assert sizes.index(16) < 10  # one window to notice that it waits, and one to measure
    assert two.running == 16
    before = two.waiting_seconds
    two.run(20, demand=15.0)
    assert two.waiting_seconds == before


def test_pool_does_not_exceed_its_maximum():
    assert max(pool(initial=1, highest=8).run(60, demand=100.0)) == 8


def test_full_queue_does_not_grow_the_pool():
    assert max(pool(initial=4).run(200, demand=3.9)) == 4


def test_idle_actors_are_removed_without_making_the_trainer_wait():
    sixteen = pool(initial=16)
    assert set(sixteen.run(20, demand=4.5)) == {16}
    assert sixteen.run(20, demand=4.5)[-1] == 5
    waited = sixteen.waiting_seconds
    assert set(sixteen.run(100, demand=4.5)) == {5}
    assert sixteen.waiting_seconds == waited


def test_pool_shrinks_only_in_a_long_pause():
    eight = pool(initial=8)
    assert set(eight.run(30, demand=7.5)) == {8}
    assert set(eight.run(15, demand=0.0)) == {8}
    assert set(eight.run(30, demand=7.5)) == {8}
    assert eight.run(40, demand=0.0)[-1] == 0


def test_empty_pool_returns_to_its_earlier_size_at_the_next_request():
    eight = pool(initial=8)
    eight.run(40, demand=5.5)
    assert eight.run(60, demand=0.0)[-1] == 0
    assert eight.run(1, demand=5.5) == [6]


def test_pool_does_not_fall_below_its_minimum():
    assert pool(initial=8, lowest=3).run(100, demand=0.0)[-1] == 3


BEFORE_FIRST_BATCH = TrainerTimes(0.0, 0.0)


def sizes_before_first_batch(sizer: PoolSizer, *snapshots: tuple[int, float, int, float]) -> list[int]:
    """Return the sizes for snapshots one second apart: running actors, pending requests, batches made, busy seconds."""
    return [sizer.size(PoolSnapshot(float(at), *snapshot, BEFORE_FIRST_BATCH)) for at, snapshot in enumerate(snapshots)]


@pytest.mark.parametrize(
    ("num_running", "num_requests", "working"),
    [
        (2, 0.0, 0.0),  # training is still starting
        (2, 128.0, 1.7),  # images are delayed on their way
        (1, 128.0, 1.0),  # the second actor is not running yet
        (0, 128.0, 0.0),
    ],
)
def test_pool_keeps_its_size_before_the_first_batch_unless_fully_busy(
    num_running: int, num_requests: float, working: float
):
    snapshots = [(num_running, num_requests, int(working * at), working * at) for at in range(60)]
    assert set(sizes_before_first_batch(PoolSizer(0, 2, 32, idle_seconds=20.0), *snapshots)) == {2}


def test_fully_busy_pool_grows_before_the_first_batch():
    idle = [(2, 0.0, 0, 0.0)] * 10
    requested = [(2, 128.0, at, 2.0 * at) for at in range(20)]  # a batch takes 2 s: a window is 8 s
    sizes = sizes_before_first_batch(PoolSizer(0, 2, 32, idle_seconds=20.0), *idle, *requested)
    assert sizes == [2] * 18 + [32] * 12


def test_pool_does_not_grow_for_the_sheet_of_samples():
    sheet = [(1, 20.0 - at, at, float(at)) for at in range(20)]
    assert NUM_SAMPLES_ON_SHEET <= BATCHES_BEFORE_TRAINING
    assert set(sizes_before_first_batch(PoolSizer(1, 1, 8, idle_seconds=60.0), *sheet)) == {1}


def test_pool_measures_four_batches_before_it_grows():
    snapshots = [(1, 32.0, at // 90, float(at)) for at in range(400)]
    sizes = sizes_before_first_batch(PoolSizer(1, 1, 8, idle_seconds=60.0), *snapshots)
    assert sizes == [1] * 360 + [8] * 40


def test_pool_shrinks_after_growing_before_the_first_batch():
    sizer = PoolSizer(1, 1, 8, idle_seconds=20.0)
    assert sizes_before_first_batch(sizer, *[(1, 32.0, at, float(at)) for at in range(10)])[-1] == 8
    sizes = [  # two busy actors of eight are enough
        sizer.size(PoolSnapshot(float(at), 8, 32.0, 2 * at - 10, 2.0 * at - 10, TrainerTimes(at - 9.0, 0.0)))
        for at in range(10, 60)
    ]
    assert sizes[-1] == 3


def test_pool_without_a_trainer_has_its_maximum_while_requests_are_pending():
    sizer = PoolSizer(0, 2, 32, idle_seconds=20.0)
    assert sizer.size(PoolSnapshot(0.0, 2, 1.0, 0, 0.0, None)) == 32
    assert sizer.size(PoolSnapshot(19.0, 32, 0.0, 0, 0.0, None)) == 32
    assert sizer.size(PoolSnapshot(21.0, 32, 0.0, 0, 0.0, None)) == 0


def test_restarted_trainer_does_not_shrink_the_pool():
    sizer = PoolSizer(0, 8, 32, idle_seconds=5.0)
    for at in range(15):  # the trainer waits all the time, with eight busy actors
        sizer.size(PoolSnapshot(float(at), 8, 99.0, 8 * at, 8.0 * at, TrainerTimes(at + 1.0, float(at))))
    size = sizer.size(PoolSnapshot(15.0, 8, 99.0, 15, 120.0, TrainerTimes(0.0, 0.0)))
    assert size == 32
    for at in range(16, 40):
        size = sizer.size(PoolSnapshot(float(at), 8, 99.0, at, 120.0, TrainerTimes(0.0, 0.0)))
    assert size == 32


def test_actor_with_a_long_batch_is_not_removed():
    sizer = PoolSizer(0, 1, 4, idle_seconds=20.0)
    sizes = {  # a batch takes 90 s, reported while it is made
        sizer.size(PoolSnapshot(float(at), 1, 9.0, at // 90, float(at), TrainerTimes(float(at) + 1, 0.0)))
        for at in range(600)
    }
    assert sizes == {1}


def test_pool_does_not_grow_while_the_last_request_is_unmet():
    sizer = PoolSizer(0, 4, 32, idle_seconds=60.0)
    snapshots = [PoolSnapshot(float(at), 1, 99.0, at, float(at), TrainerTimes(at + 1.0, float(at))) for at in range(60)]
    assert {sizer.size(snapshot) for snapshot in snapshots} == {4}


def test_pool_does_not_grow_while_actors_idle():
    sizer = PoolSizer(0, 5, 16, idle_seconds=60.0)
    sizes = {  # 2 of 5 busy, and the trainer waits 5% of its time: images are delayed on their way
        sizer.size(PoolSnapshot(float(at), 5, 99.0, 2 * at, 2.0 * at, TrainerTimes(at + 1.0, 0.05 * at)))
        for at in range(300)
    }
    assert sizes == {5}


class Pool:
    """Serve's argument of a policy."""

    app_name = "pool"

    def __init__(self, num_running: int, target: int, num_requests: float = 9.0) -> None:
        self.current_num_replicas = num_running
        self.target_num_replicas = target
        self.total_num_requests = num_requests


def test_pool_without_its_keeper_is_ended_even_if_empty(monkeypatch):
    deleted: list[list[str]] = []
    killed: list[str] = []
    replaced = iter("aa")  # Serve starts c as a replacement, since it has not acted on the deletion yet

    def get_actor(name: str, namespace: str) -> SimpleNamespace:
        if name == "keeper":
            raise ValueError("Failed to look up actor")
        if name != "SERVE_CONTROLLER_ACTOR":
            return SimpleNamespace(name=name)
        return SimpleNamespace(delete_apps=SimpleNamespace(remote=deleted.append))

    def list_named_actors(all_namespaces: bool) -> list[dict[str, str]]:
        assert deleted, "Serve would start replacements"
        names = (f"SERVE_REPLICA::pool#{next(replaced, 'c')}", "SERVE_REPLICA::pool2#b", "keeper2")
        return [{"name": name, "namespace": "serve"} for name in names if all_namespaces]

    ray = "generation.pool.policy.ray."
    monkeypatch.setattr(ray + "get_actor", get_actor)
    monkeypatch.setattr(ray + "get", lambda answer: answer)
    monkeypatch.setattr(ray + "util.list_named_actors", list_named_actors)
    monkeypatch.setattr(ray + "kill", lambda actor: killed.append(actor.name))
    monkeypatch.setattr("generation.pool.policy.POLL_SECONDS", 0.0)
    policy = KeeperPolicy("keeper", "namespace")
    for _ in range(2):
        assert policy(cast(Any, Pool(num_running=0, target=4)))[0] == 4
    assert deleted == []  # Ray's head may be restarting
    policy(cast(Any, Pool(num_running=0, target=4)))
    wait_until(lambda: set(killed) == {"SERVE_REPLICA::pool#a", "SERVE_REPLICA::pool#c"})
    assert deleted == [["pool"]]


def test_decision_for_an_empty_pool_does_not_stop_its_first_actor(monkeypatch):
    polls: list[Future[int]] = []

    def poll(_: object, pool: Any) -> Future[int]:
        polls.append(Future())
        return polls[-1]

    monkeypatch.setattr(KeeperPolicy, "_poll", poll)
    policy = KeeperPolicy("keeper", "namespace")
    assert policy(cast(Any, Pool(num_running=0, target=0)))[0] == 0
    polls[0].set_result(0)
    assert policy(cast(Any, Pool(num_running=0, target=0)))[0] == 0
    assert policy(cast(Any, Pool(num_running=1, target=1)))[0] == 1
    assert len(polls) == 2
    polls[1].set_result(6)
    assert policy(cast(Any, Pool(num_running=1, target=1)))[0] == 6
