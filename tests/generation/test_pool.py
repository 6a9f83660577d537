"""The pool's size on a real cluster, by what a trainer says."""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import ray
from ray._private.state import actors

from generation.autoscaling import TrainerClock
from generation.config import GenerationConfig
from generation.indices import Wanted
from generation.recipe import Recipe
from generation.service import GenerationService, start_generation
from generation.stream import stream_samples

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

UP_TO_SIX = GenerationConfig(
    min_actors=0,
    max_actors=6,
    initial_actors=1,
    gpus_per_actor=0,
    cpus_per_actor=0.01,
    batch_size=4,
    painted_batch_seconds=0.4,
    max_buffered_bytes=1,  # no more than MIN_BUFFERED_BATCHES
    idle_seconds=6,
)
"""Each actor makes ten images a second."""


class Trainer:
    """Takes images at a rate that may change, and says how long it waits, from a thread of its own."""

    def __init__(self, service: GenerationService, recipe: Recipe, config: GenerationConfig) -> None:
        self.service = service
        self.images = stream_samples(service, recipe, config, Wanted.all_of(range(1_000_000)))
        self.images_per_second = 0.0
        self.is_over = False
        self.num_taken = 0
        self.waiting_seconds = 0.0
        self.waiting_since: float | None = None
        self.started_at = 0.0

    @contextmanager
    def at_work(self, images_per_second: float) -> Iterator[None]:
        """Take images meanwhile."""
        self.images_per_second = images_per_second
        threads = [threading.Thread(target=work) for work in (self._take, self._tell)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.is_over = True
            for thread in threads:
                thread.join()

    def _take(self) -> None:
        batches = iter(self.images.iter_batches(batch_size=4, prefetch_batches=0))
        next(batches)
        self.started_at = time.monotonic()
        while not self.is_over:
            time.sleep(4 / self.images_per_second if self.images_per_second else 0.1)
            if self.images_per_second:
                self.waiting_since = asked_at = time.monotonic()
                next(batches)
                self.waiting_since = None
                self.waiting_seconds += time.monotonic() - asked_at
                self.num_taken += 4

    def _tell(self) -> None:
        while not self.is_over:
            now = time.monotonic()
            under_way = now - (self.waiting_since or now)
            if self.started_at:
                self.service.hear(TrainerClock(now - self.started_at, self.waiting_seconds + under_way))
            time.sleep(0.5)


def wait_until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    give_up_at = time.monotonic() + seconds
    while not holds() and time.monotonic() < give_up_at:
        time.sleep(0.2)


def test_a_pool_grows_in_one_step_for_a_trainer_that_waits_and_is_given_back_when_it_does_not(painted: Recipe):
    with start_generation(painted, UP_TO_SIX) as service:
        service.hear(TrainerClock(0.0, 0.0))
        trainer = Trainer(service, painted, UP_TO_SIX)
        with trainer.at_work(images_per_second=8):
            time.sleep(12)
            assert service.num_actors() + service.num_awaited() == 1  # it is the trainer that binds
            trainer.images_per_second = 37
            wait_until(lambda: service.num_awaited() > 0)
            assert service.num_actors() + service.num_awaited() in (4, 5)  # in one step
            wait_until(lambda: service.num_awaited() == 0)
            trainer.images_per_second = 0
            wait_until(lambda: service.num_actors() == 0)
            assert service.num_actors() == 0
            trainer.images_per_second = 8
            num_before = trainer.num_taken
            wait_until(lambda: trainer.num_taken >= num_before + 40)
            assert trainer.num_taken >= num_before + 40
        num_loads = service.counts().num_loads.total()
    assert num_loads <= 11


def test_a_pool_of_which_some_nodes_never_come_goes_on_with_the_actors_that_did(painted: Recipe):
    num_cpus = int(ray.cluster_resources()["CPU"])
    too_many = dataclasses.replace(
        UP_TO_SIX,
        min_actors=3,
        max_actors=3,
        initial_actors=0,
        cpus_per_actor=num_cpus / 2 - 0.2,
        start_timeout_seconds=15,
    )
    with start_generation(painted, too_many) as service:
        assert (service.num_actors(), service.num_awaited()) == (2, 1)
        images = stream_samples(service, painted, too_many, Wanted.all_of(range(40)))
        assert sum(len(batch["index"]) for batch in images.iter_batches(batch_size=4)) == 40


def test_nothing_of_a_pool_is_left_once_it_is_stopped(painted: Recipe):
    def left() -> list[str]:
        kinds = ("PoolKeeper", "ServeReplica")
        alive = [actor["ActorClassName"] for actor in actors().values() if actor["State"] == "ALIVE"]
        return [name for name in alive if any(kind in name for kind in kinds)]

    with start_generation(painted, UP_TO_SIX):
        assert len(left()) == 2
    wait_until(lambda: not left())
    assert left() == []
