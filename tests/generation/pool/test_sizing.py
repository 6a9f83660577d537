import math
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from generation.pool.policy import KeeperPolicy
from generation.pool.sizing import BATCHES_BEFORE_TRAINING, PoolSizer, PoolSnapshot, TrainerTimes, actors_needed
from ray_jobs.train import NUM_SAMPLES_ON_SHEET
from tests.support.waits import wait_until


@pytest.mark.parametrize(
    ("working", "waiting", "needed"),
    [
        (2.0, 0.875, 16.0),  # two actors let it work an eighth of its time
        (16.0, 0.0, 16.0),
        (4.0, 0.0, 4.0),  # of sixteen: the others have nothing to do
        (3.0, 0.25, 4.0),
        (1.0, 1.0, math.inf),
    ],
)
def test_a_trainer_needs_its_work_over_the_share_of_time_it_did_not_wait(working: float, waiting: float, needed: float):
    assert actors_needed(working, waiting) == needed


@dataclass
class Simulation:
    """A trainer that takes as much as so many actors make, and a pool whose actors take a while to start.

    A look a second; an actor's work of a second is a unit of images, and a few seconds' work may lie ready.
    """

    sizer: PoolSizer
    start_seconds: float
    running: int
    appetite: float = 0.0
    ready_at_most: float = 4.0
    is_heard: bool = True
    at: float = 0.0
    ready: float = 0.0
    waiting_seconds: float = 0.0
    working_seconds: float = 0.0
    sizes: list[int] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    """When actors that are on their way will be up."""

    def run(self, seconds: int, appetite: float) -> list[int]:
        """Return the sizes that were decided in this time."""
        for _ in range(seconds):
            self._second(appetite)
        return self.sizes[-seconds:]

    def _second(self, appetite: float) -> None:
        self.at += 1.0
        self.running += sum(start <= self.at for start in self.starts)
        self.starts = [start for start in self.starts if start > self.at]
        made = min(float(self.running), appetite + self.ready_at_most - self.ready)
        taken = min(appetite, self.ready + made)
        self.ready += made - taken
        self.working_seconds += made
        self.waiting_seconds += 1 - taken / appetite if appetite else 0.0
        has_room = self.ready < self.ready_at_most
        trainer = TrainerTimes(self.at, self.waiting_seconds) if self.is_heard else None
        num_requests = 4.0 * self.sizer.max_actors if has_room else appetite
        look = PoolSnapshot(
            self.at, self.running, num_requests, round(self.working_seconds), self.working_seconds, trainer
        )
        size = self.sizer.size(look)
        self.sizes.append(size)
        self.starts = self.starts[: max(0, size - self.running)]
        self.starts += [self.at + self.start_seconds] * (size - self.running - len(self.starts))
        self.running = min(self.running, size)


def pool(initial: int, lowest: int = 0, highest: int = 32, idle_seconds: float = 20.0) -> Simulation:
    """Return a simulated pool whose actors start within 15 s."""
    return Simulation(PoolSizer(lowest, initial, highest, idle_seconds), 15.0, initial)


def test_a_pool_grows_in_one_step_to_what_its_trainer_lacks():
    two = pool(initial=2)
    assert set(two.run(40, appetite=1.9)) == {2}
    sizes = two.run(60, appetite=15.0)
    assert sorted(set(sizes)) == [2, 16]
    assert sizes.index(16) < 10  # a window to see that it waits, and one to see how much
    assert two.running == 16
    before = two.waiting_seconds
    two.run(20, appetite=15.0)
    assert two.waiting_seconds == before


def test_a_pool_grows_to_its_bound_and_no_further():
    assert max(pool(initial=1, highest=8).run(60, appetite=100.0)) == 8


def test_a_full_queue_does_not_grow_the_pool_of_a_trainer_that_is_the_bottleneck():
    assert max(pool(initial=4).run(200, appetite=3.9)) == 4


def test_a_pool_gives_back_idle_actors_and_its_slow_trainer_never_waits():
    sixteen = pool(initial=16)
    assert set(sixteen.run(20, appetite=4.5)) == {16}
    assert sixteen.run(20, appetite=4.5)[-1] == 5
    waited = sixteen.waiting_seconds
    assert set(sixteen.run(100, appetite=4.5)) == {5}
    assert sixteen.waiting_seconds == waited


def test_a_pool_is_kept_through_a_short_lull_and_given_back_in_a_long_one():
    eight = pool(initial=8)
    assert set(eight.run(30, appetite=7.5)) == {8}
    assert set(eight.run(15, appetite=0.0)) == {8}
    assert set(eight.run(30, appetite=7.5)) == {8}
    assert eight.run(40, appetite=0.0)[-1] == 0


def test_an_empty_pool_grows_to_its_earlier_size_at_the_next_request():
    eight = pool(initial=8)
    eight.run(40, appetite=5.5)
    assert eight.run(60, appetite=0.0)[-1] == 0
    assert eight.run(1, appetite=5.5) == [6]


def test_a_pool_never_falls_below_its_least_size():
    assert pool(initial=8, lowest=3).run(100, appetite=0.0)[-1] == 3


BEFORE_FIRST_BATCH = TrainerTimes(0.0, 0.0)


def sizes_before_first_batch(sizer: PoolSizer, *looks: tuple[int, float, int, float]) -> list[int]:
    """Return what is decided at looks a second apart: actors up, batches asked for, batches made, seconds at work."""
    return [sizer.size(PoolSnapshot(float(at), *look, BEFORE_FIRST_BATCH)) for at, look in enumerate(looks)]


@pytest.mark.parametrize(
    ("num_running", "num_requests", "working"),
    [
        (2, 0.0, 0.0),  # workers and networks are loaded
        (2, 128.0, 1.7),  # its images are held up on their way
        (1, 128.0, 1.0),  # the second actor is not up yet
        (0, 128.0, 0.0),
    ],
)
def test_before_the_first_batch_a_pool_stays_as_it_is_unless_all_of_it_works(
    num_running: int, num_requests: float, working: float
):
    looks = [(num_running, num_requests, int(working * at), working * at) for at in range(60)]
    assert set(sizes_before_first_batch(PoolSizer(0, 2, 32, idle_seconds=20.0), *looks)) == {2}


def test_a_pool_that_training_has_asked_and_that_works_all_the_time_grows_before_the_first_batch():
    idle = [(2, 0.0, 0, 0.0)] * 10
    asked = [(2, 128.0, at, 2.0 * at) for at in range(20)]  # a batch takes 2 s: a window is 8 s
    sizes = sizes_before_first_batch(PoolSizer(0, 2, 32, idle_seconds=20.0), *idle, *asked)
    assert sizes == [2] * 18 + [32] * 12


def test_a_pool_does_not_grow_for_the_sheet_of_samples_before_training():
    sheet = [(1, 20.0 - at, at, float(at)) for at in range(20)]
    assert NUM_SAMPLES_ON_SHEET <= BATCHES_BEFORE_TRAINING
    assert set(sizes_before_first_batch(PoolSizer(1, 1, 8, idle_seconds=60.0), *sheet)) == {1}


def test_before_the_first_batch_a_pool_does_not_grow_until_four_of_its_own_have_been_made():
    looks = [(1, 32.0, at // 90, float(at)) for at in range(400)]
    sizes = sizes_before_first_batch(PoolSizer(1, 1, 8, idle_seconds=60.0), *looks)
    assert sizes == [1] * 360 + [8] * 40


def test_a_pool_that_grew_before_the_first_batch_gives_back_what_training_does_not_need():
    sizer = PoolSizer(1, 1, 8, idle_seconds=20.0)
    assert sizes_before_first_batch(sizer, *[(1, 32.0, at, float(at)) for at in range(10)])[-1] == 8
    sizes = [  # two of eight at work are enough
        sizer.size(PoolSnapshot(float(at), 8, 32.0, 2 * at - 10, 2.0 * at - 10, TrainerTimes(at - 9.0, 0.0)))
        for at in range(10, 60)
    ]
    assert sizes[-1] == 3


def test_without_a_trainer_a_pool_has_its_maximum_while_there_are_requests():
    sizer = PoolSizer(0, 2, 32, idle_seconds=20.0)
    assert sizer.size(PoolSnapshot(0.0, 2, 1.0, 0, 0.0, None)) == 32
    assert sizer.size(PoolSnapshot(19.0, 32, 0.0, 0, 0.0, None)) == 32
    assert sizer.size(PoolSnapshot(21.0, 32, 0.0, 0, 0.0, None)) == 0


def test_a_trainer_that_is_started_again_is_not_taken_for_one_that_does_not_wait():
    sizer = PoolSizer(0, 8, 32, idle_seconds=5.0)
    for at in range(15):  # waits all the time, and its eight actors work
        sizer.size(PoolSnapshot(float(at), 8, 99.0, 8 * at, 8.0 * at, TrainerTimes(at + 1.0, float(at))))
    size = sizer.size(PoolSnapshot(15.0, 8, 99.0, 15, 120.0, TrainerTimes(0.0, 0.0)))
    assert size == 32
    for at in range(16, 40):
        size = sizer.size(PoolSnapshot(float(at), 8, 99.0, at, 120.0, TrainerTimes(0.0, 0.0)))
    assert size == 32


def test_an_actor_at_a_long_batch_is_kept_though_the_trainer_never_waits():
    sizer = PoolSizer(0, 1, 4, idle_seconds=20.0)
    sizes = {  # a batch is 90 s of work, told while it lasts
        sizer.size(PoolSnapshot(float(at), 1, 9.0, at // 90, float(at), TrainerTimes(float(at) + 1, 0.0)))
        for at in range(600)
    }
    assert sizes == {1}


def test_while_what_was_asked_for_first_is_not_up_no_more_is_asked_for():
    sizer = PoolSizer(0, 4, 32, idle_seconds=60.0)
    looks = [PoolSnapshot(float(at), 1, 99.0, at, float(at), TrainerTimes(at + 1.0, float(at))) for at in range(60)]
    assert {sizer.size(look) for look in looks} == {4}


def test_actors_that_idle_though_the_trainer_waits_become_no_more():
    sizer = PoolSizer(0, 5, 16, idle_seconds=60.0)
    sizes = {  # 2 of 5 at work, and it waits 5% of its time: images are held up on their way
        sizer.size(PoolSnapshot(float(at), 5, 99.0, 2 * at, 2.0 * at, TrainerTimes(at + 1.0, 0.05 * at)))
        for at in range(300)
    }
    assert sizes == {5}


class Pool:
    """What Serve tells its policy."""

    app_name = "pool"

    def __init__(self, num_running: int, target: int, num_requests: float = 9.0) -> None:
        self.current_num_replicas = num_running
        self.target_num_replicas = target
        self.total_num_requests = num_requests


def test_a_pool_whose_keeper_is_gone_is_ended_though_no_actor_is_up(monkeypatch):
    deleted: list[list[str]] = []
    killed: list[str] = []
    replaced = iter("aa")  # Serve starts c in its place, as it has not acted on the deletion yet

    def get_actor(name: str, namespace: str) -> SimpleNamespace:
        if name == "keeper":
            raise ValueError("Failed to look up actor")
        if name != "SERVE_CONTROLLER_ACTOR":
            return SimpleNamespace(name=name)
        return SimpleNamespace(delete_apps=SimpleNamespace(remote=deleted.append))

    def list_named_actors(all_namespaces: bool) -> list[dict[str, str]]:
        assert deleted, "Serve would start others in their place"
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
    assert deleted == []  # Ray's head may be starting anew
    policy(cast(Any, Pool(num_running=0, target=4)))
    wait_until(lambda: set(killed) == {"SERVE_REPLICA::pool#a", "SERVE_REPLICA::pool#c"})
    assert deleted == [["pool"]]


def test_an_answer_about_an_empty_pool_does_not_stop_the_actor_that_serve_starts(monkeypatch):
    asked: list[Future[int]] = []

    def ask(_: object, pool: Any) -> Future[int]:
        asked.append(Future())
        return asked[-1]

    monkeypatch.setattr(KeeperPolicy, "_poll", ask)
    policy = KeeperPolicy("keeper", "namespace")
    assert policy(cast(Any, Pool(num_running=0, target=0)))[0] == 0
    asked[0].set_result(0)
    assert policy(cast(Any, Pool(num_running=0, target=0)))[0] == 0
    assert policy(cast(Any, Pool(num_running=1, target=1)))[0] == 1
    assert len(asked) == 2
    asked[1].set_result(6)
    assert policy(cast(Any, Pool(num_running=1, target=1)))[0] == 6
