"""The pool's size on a real cluster, by its trainer's reports."""

import dataclasses
import os
import signal
import threading
import time

import numpy as np
import pytest
import ray
from ray._private.state import actors

from generation.indices import SampleRequest
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
    """A recipe only for these tests; the session's pool uses seed 0."""
    return dataclasses.replace(painted, seed=1)


def test_pool_grows_for_a_waiting_trainer_and_shrinks_for_a_slow_one(own_recipe: Recipe):
    """Ray Data's actor pools grow with their backlog even if the trainer is the bottleneck (ray#45331)."""
    with start_generation(own_recipe, UP_TO_SIX) as service:
        trainer = Trainer(service, own_recipe, UP_TO_SIX)
        with trainer.running(images_per_second=5):
            wait_until(lambda: trainer.num_taken >= 32)  # 6 s, two windows
            assert service.num_actors() + service.num_pending() == 1  # the trainer is the bottleneck
            trainer.images_per_second = 37
            wait_until(lambda: service.num_actors() >= 3)
            trainer.images_per_second = 5
            wait_until(lambda: service.num_actors() == 1)


@pytest.mark.nightly
def test_pool_is_released_while_its_trainer_pauses(own_recipe: Recipe):
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
def test_pool_warns_of_missing_nodes_and_works_with_the_others(own_recipe: Recipe, caplog: pytest.LogCaptureFixture):
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
        assert "2 of 3 generator actors are running after 15 s" in caplog.text
        assert (service.num_actors(), service.num_pending()) == (2, 1)
        images = stream_samples(service, own_recipe, too_many, SampleRequest.all_of(range(400)))
        batches = iter(images.iter_batches(batch_size=8))
        delivered = []
        for num_loads in (2, 3):  # all three were never running, so Serve considers the deployment failed
            delivered.append(next(batches)["index"])
            os.kill(pid_of(list(service.counts().num_loads)[-1]), signal.SIGKILL)
            wait_until(lambda num_loads=num_loads: service.counts().num_loads.total() > num_loads)
        delivered += [batch["index"] for batch in batches]
        assert service.num_actors() == 2
    assert sorted(np.concatenate(delivered).tolist()) == list(range(400))


@pytest.mark.nightly
def test_node_lost_during_loading_does_not_fail_the_start(own_recipe: Recipe):
    node_group = {"ray.io/node-group": "pool"}
    config = dataclasses.replace(
        UP_TO_SIX,
        min_actors=2,
        max_actors=2,
        initial_actors=0,
        gpus_per_actor=1,
        label_selector=node_group,
        painted_start_seconds=8,
    )
    with joined_node(1, 2, node_group), joined_node(1, 2, node_group) as kill:
        losing = threading.Timer(5, kill)  # Serve spreads the two over both nodes
        losing.start()
        with start_generation(own_recipe, config) as service:
            losing.join()
            assert service.num_actors() == 2


@pytest.mark.nightly
def test_each_gpu_type_has_its_own_batch_size(own_recipe: Recipe):
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
        images = stream_samples(service, own_recipe, mixed, SampleRequest.all_of(range(325)))
        batches = [batch["index"].tolist() for batch in images.iter_batches(batch_size=None)]
        assert sorted(service.counts().batch_sizes.values()) == [4, 16]
    assert sorted(batches, key=min) == [list(range(i, min(i + 16, 325))) for i in range(0, 325, 16)]


def test_stopped_pool_leaves_no_actors(own_recipe: Recipe):
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
def test_actor_finishes_its_batch_after_a_sigterm_of_its_node(own_recipe: Recipe):
    node_group = {"ray.io/node-group": "leaving"}
    config = dataclasses.replace(
        UP_TO_SIX, min_actors=1, max_actors=1, initial_actors=1, painted_batch_seconds=4, label_selector=node_group
    )
    with leaving_node(node_group) as node, start_generation(own_recipe, config) as service:
        response = service.request(range(4))
        time.sleep(1)
        node.send_signal(signal.SIGTERM)
        assert response.result(timeout_s=30)["index"].tolist() == [0, 1, 2, 3]
