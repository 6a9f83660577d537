"""The pool's size on a real cluster, by what a trainer says."""

import dataclasses
import os
import signal
import threading
import time

import numpy as np
import pytest
import ray
from ray._private.state import actors

from generation.indices import Wanted
from generation.pool.replica import ACCELERATOR_TYPE
from generation.pool.service import start_generation
from generation.recipes.recipe import Recipe
from generation.stream.stream import stream_samples
from ray_jobs.cluster.processes import pid_of
from tests.support.nodes import joined_node, leaving_node
from tests.support.trainers import UP_TO_SIX, Trainer
from tests.support.waits import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(scope="session")
def own_recipe(painted: Recipe) -> Recipe:
    """A recipe of these tests' own: the session's pool keeps that of seed 0."""
    return dataclasses.replace(painted, seed=1)


def test_a_pool_grows_for_a_trainer_that_waits_and_shrinks_for_one_that_does_not(own_recipe: Recipe):
    """Pools of Ray Data are known to grow by their backlog though it is the trainer that binds (ray#45331)."""
    with start_generation(own_recipe, UP_TO_SIX) as service:
        trainer = Trainer(service, own_recipe, UP_TO_SIX)
        with trainer.running(images_per_second=5):
            wait_until(lambda: trainer.num_taken >= 32)  # 6 s, two windows
            assert service.num_actors() + service.num_awaited() == 1  # it is the trainer that binds
            trainer.images_per_second = 37
            wait_until(lambda: service.num_actors() >= 3)
            trainer.images_per_second = 5
            wait_until(lambda: service.num_actors() == 1)


@pytest.mark.nightly
def test_a_pool_is_given_back_while_its_trainer_pauses_and_comes_again(own_recipe: Recipe):
    with start_generation(own_recipe, UP_TO_SIX) as service:
        trainer = Trainer(service, own_recipe, UP_TO_SIX)
        with trainer.running(images_per_second=37):
            wait_until(lambda: service.num_actors() >= 3)
            trainer.images_per_second = 0
            wait_until(lambda: service.num_actors() == 0)
            num_taken, num_loads = trainer.num_taken, service.counts().num_loads.total()
            trainer.images_per_second = 8
            wait_until(lambda: trainer.num_taken >= num_taken + 40)
            assert service.counts().num_loads.total() <= num_loads + 6


@pytest.mark.nightly
def test_a_pool_warns_of_nodes_that_never_come_and_works_with_those_that_did(
    own_recipe: Recipe, caplog: pytest.LogCaptureFixture
):
    num_cpus = int(ray.cluster_resources()["CPU"])
    too_many = dataclasses.replace(
        UP_TO_SIX,
        min_actors=3,
        max_actors=3,
        initial_actors=0,
        cpus_per_actor=num_cpus / 2 - 0.2,
        start_timeout_seconds=15,
    )
    with start_generation(own_recipe, too_many) as service:
        assert "2 of 3 generator actors are up after 15 s" in caplog.text
        assert (service.num_actors(), service.num_awaited()) == (2, 1)
        images = stream_samples(service, own_recipe, too_many, Wanted.all_of(range(400)))
        batches = iter(images.iter_batches(batch_size=8))
        came = []
        for num_loads in (2, 3):  # before all three were ever up: for Serve the deployment has failed by then
            came.append(next(batches)["index"])
            os.kill(pid_of(list(service.counts().num_loads)[-1]), signal.SIGKILL)
            wait_until(lambda num_loads=num_loads: service.counts().num_loads.total() > num_loads)
        came += [batch["index"] for batch in batches]
        assert service.num_actors() == 2
    assert sorted(np.concatenate(came).tolist()) == list(range(400))


@pytest.mark.nightly
def test_a_node_that_is_lost_while_its_actor_loads_its_model_does_not_end_the_start(own_recipe: Recipe):
    there = {"ray.io/node-group": "pool"}
    config = dataclasses.replace(
        UP_TO_SIX,
        min_actors=2,
        max_actors=2,
        initial_actors=0,
        gpus_per_actor=1,
        label_selector=there,
        painted_start_seconds=8,
    )
    with joined_node(1, 2, there), joined_node(1, 2, there) as kill:
        losing = threading.Timer(5, kill)  # Serve spreads the two over both nodes
        losing.start()
        with start_generation(own_recipe, config) as service:
            losing.join()
            assert service.num_actors() == 2


@pytest.mark.nightly
def test_a_pool_on_two_types_of_gpu_makes_batches_of_each_ones_own_size(own_recipe: Recipe):
    mixed = dataclasses.replace(
        UP_TO_SIX,
        min_actors=2,
        max_actors=2,
        initial_actors=2,
        gpus_per_actor=1,
        label_selector={ACCELERATOR_TYPE: "in(L4,A100)"},
        batch_sizes={"L4": 4, "A100": 16},
        painted_batch_seconds=0.2,
    )
    types = [joined_node(1, 1, {ACCELERATOR_TYPE: name}) for name in ("L4", "A100")]
    with types[0], types[1], start_generation(own_recipe, mixed) as service:
        images = stream_samples(service, own_recipe, mixed, Wanted.all_of(range(325)))
        batches = [batch["index"].tolist() for batch in images.iter_batches(batch_size=None)]
        assert sorted(service.counts().batch_sizes.values()) == [4, 16]
    assert sorted(batches, key=min) == [list(range(i, min(i + 16, 325))) for i in range(0, 325, 16)]


def test_nothing_of_a_pool_is_left_once_it_is_stopped(own_recipe: Recipe):
    def alive() -> set[str]:
        kinds = ("PoolKeeper", "ServeReplica")
        return {
            actor["ActorID"]
            for actor in actors().values()
            if actor["State"] == "ALIVE" and any(kind in actor["ActorClassName"] for kind in kinds)
        }

    before = alive()
    with start_generation(own_recipe, UP_TO_SIX):
        assert len(alive() - before) == 2
    wait_until(lambda: not alive() - before)


@pytest.mark.nightly
def test_an_actor_on_a_node_that_gets_a_sigterm_finishes_its_batch(own_recipe: Recipe):
    there = {"ray.io/node-group": "leaving"}
    config = dataclasses.replace(
        UP_TO_SIX, min_actors=1, max_actors=1, initial_actors=1, painted_batch_seconds=4, label_selector=there
    )
    with leaving_node(there) as node, start_generation(own_recipe, config) as service:
        answer = service.ask(range(4))
        time.sleep(1)
        node.send_signal(signal.SIGTERM)
        assert answer.result(timeout_s=30)["index"].tolist() == [0, 1, 2, 3]
