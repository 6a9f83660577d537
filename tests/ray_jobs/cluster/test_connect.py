import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import pytest
import ray
import ray.data
import ray.data.exceptions
import ray.train
from ray._private import worker
from ray._private.state import actors
from ray.data._internal.execution import streaming_executor_state
from ray.data._internal.logging import HiddenRecordFilter
from ray.train.torch import TorchTrainer

from evaluation.config import EvaluationConfig
from evaluation.inference.network import Network, infer
from evaluation.inference.outputs import network_input
from evaluation.inference.reading import Crop
from generation.config import GenerationConfig
from generation.indices import Wanted
from generation.recipes.recipe import Recipe
from generation.stream.stream import stream_samples
from ray_jobs.cli.termination import TERMINATION
from ray_jobs.cluster import room
from ray_jobs.cluster.connect import TELL_TRACES, connect, drop_messages_of_the_end, hide_error
from ray_jobs.cluster.placement import Demand
from ray_jobs.cluster.room import check_placement, generation_demand, room_kept, training_demand
from ray_jobs.job.source import start_pool
from tests.support.nodes import joined_node
from tests.support.processes import command_of
from training.config import TrainingConfig
from training.fit import worker_group


@pytest.mark.parametrize(("has_begun", "shown"), [(False, ["The autoscaler failed"]), (True, [])])
def test_what_ray_says_once_a_jobs_end_has_begun_is_not_shown(
    has_begun: bool, shown: list[str], monkeypatch: pytest.MonkeyPatch
):
    told = []
    monkeypatch.setattr(worker, "print_to_stdstream", lambda data, ignore_prefix: told.extend(data["lines"]))
    monkeypatch.setattr(TERMINATION, "has_begun", has_begun)
    drop_messages_of_the_end()
    worker.print_to_stdstream({"lines": ["The autoscaler failed"]}, ignore_prefix=False)
    assert told == shown


def test_ray_data_prints_warnings_and_no_errors():
    names = [streaming_executor_state.logger.name, ray.data.exceptions.logger.name]
    records = [
        logging.makeLogRecord({"name": name, "levelno": level})
        for name in names
        for level in (logging.WARNING, logging.ERROR)
    ]
    assert tuple(names) == TELL_TRACES
    assert all(hide_error(record) for record in records)
    assert [HiddenRecordFilter().filter(record) for record in records] == [True, False, True, False]


def connections_of(process: psutil.Process) -> list[Any]:
    """Return them; of a process that has ended meanwhile, none."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.net_connections(kind="tcp")
    return []


@pytest.mark.ray
@pytest.mark.usefixtures("painted_pool")
def test_a_local_ray_and_its_generators_listen_on_loopback_alone():
    assert ray.nodes()[0]["NodeManagerAddress"] == "127.0.0.1"
    listening = {
        process: addresses
        for process in psutil.Process().children(recursive=True)
        if (addresses := [each.laddr for each in connections_of(process) if each.status == psutil.CONN_LISTEN])
    }
    assert sum("ServeReplica" in command_of(process) for process in listening) >= 2
    assert len(listening) >= 5  # besides, its head, its node and its workers
    ips = {address.ip.removeprefix("::ffff:") for addresses in listening.values() for address in addresses}
    assert ips == {"127.0.0.1"}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_room_that_another_job_holds_ends_the_wait_and_is_free_again_after_it(monkeypatch):
    monkeypatch.setattr(room, "ROOM_GRACE_SECONDS", 2.0)
    free = ray.cluster_resources()["CPU"] - 0.1  # the session's pools have less than the rest
    everything = Demand("training workers", 1, {"CPU": free}, "Lower training.num_workers")
    with room_kept(everything) as wait:
        wait()
        with room_kept(everything) as wait_for_more:
            message = r"1 training workers of [\d.]+ CPU each found no room within 2 s.*Lower training"
            with pytest.raises(ValueError, match=message):
                wait_for_more()
    with room_kept(dataclasses.replace(everything, wait_seconds=8)) as wait:
        wait()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", r"RAY_ADDRESS is '127\.0\.0\.1:1', where no Ray cluster answers"),
        ("http://127.0.0.1:8265", r"a job connects to HOST:PORT .* submit the job: ray job submit --address"),
        ("nowhere", r"RAY_ADDRESS is 'nowhere'; a job connects to HOST:PORT"),
    ],
)
def test_an_address_where_no_cluster_answers_is_said_and_no_other_ray_is_started(
    address: str, message: str, monkeypatch
):
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ValueError, match=message):
        connect()


GROUP = "ray.io/node-group"
GENERATION = GenerationConfig(
    min_actors=3,
    max_actors=3,
    gpus_per_actor=0.5,
    cpus_per_actor=0.1,
    batch_size=4,
    painted_batch_seconds=0.2,
    label_selector={GROUP: "generator"},
    start_timeout_seconds=120,
)
TRAINING = TrainingConfig(
    num_workers=2, gpus_per_worker=0, cpus_per_worker=0.5, global_batch_size=8, label_selector={GROUP: "trainer"}
)


@pytest.fixture(scope="session")
def own_recipe(painted: Recipe) -> Recipe:
    """A recipe of these tests' own: the session's pool keeps that of seed 0."""
    return dataclasses.replace(painted, seed=2)


@pytest.fixture(scope="module")
def two_groups(ray_cluster) -> Iterator[None]:
    """Two nodes beside that of the session, which has no group: two GPUs to generate, and one that must stay free."""
    with joined_node(2, 2, {GROUP: "generator"}), joined_node(2, 1, {GROUP: "trainer"}):
        yield


def this_group() -> str | None:
    """Return the group of the node that this process is on."""
    return cast(dict[str, str], ray.get_runtime_context().get_node_labels()).get(GROUP)


def groups_of(kind: str) -> dict[str, str | None]:
    """Return the groups of the nodes where actors of a kind are alive, by the actors' ids."""
    group_of = {node["NodeID"]: node["Labels"].get(GROUP) for node in ray.nodes()}
    alive = [actor for actor in actors().values() if kind in actor["ActorClassName"] and actor["State"] == "ALIVE"]
    return {actor["ActorID"]: group_of[actor["Address"]["NodeID"]] for actor in alive}


@pytest.mark.ray
@pytest.mark.nightly
@pytest.mark.usefixtures("two_groups")
def test_generators_run_only_on_their_group_and_the_request_stage_stays_off_it(own_recipe: Recipe):
    of_other_pools = groups_of("ServeReplica").keys()
    with start_pool(own_recipe, GENERATION, TRAINING) as service:
        samples = stream_samples(service, own_recipe, GENERATION, Wanted.all_of(range(400)))
        batches = iter(samples.iter_batches(batch_size=4))
        next(batches)
        generators = groups_of("ServeReplica")
        assert [generators[each] for each in generators.keys() - of_other_pools] == ["generator"] * 3
        assert set(groups_of("Requester").values()) == {None}  # those of the three that have started
        samples = stream_samples(service, own_recipe, GENERATION, Wanted.all_of(range(16)))
        shown = samples.map_batches(cast(Any, partial(network_input, Crop(8, 8, "bilinear"))), batch_size=4, num_cpus=0)
        assert groups_that_answer(shown, EvaluationConfig(label_selector={GROUP: "trainer"})) == ["trainer"] * 16


@pytest.mark.ray
@pytest.mark.nightly
@pytest.mark.usefixtures("two_groups")
def test_training_workers_land_on_their_group_alone(tmp_path: Path):
    def note_group(settings: dict[str, Path]) -> None:
        (settings["folder"] / str(ray.train.get_context().get_world_rank())).write_text(str(this_group()))

    TorchTrainer(
        note_group,
        train_loop_config={"folder": tmp_path},
        scaling_config=worker_group(TRAINING),
        run_config=ray.train.RunConfig(storage_path=str(tmp_path)),
    ).fit()
    assert [(tmp_path / rank).read_text() for rank in ("0", "1")] == ["trainer", "trainer"]


@dataclass(frozen=True)
class WhereNetwork:
    """Says where it was asked, in place of a `Network`."""

    config: EvaluationConfig

    def load(self) -> Callable[[int, np.ndarray], dict[str, np.ndarray]]:
        """Return what answers with the group of its node."""
        return lambda _, images: {"group": np.array([this_group()] * len(images))}


def groups_that_answer(images: ray.data.Dataset, config: EvaluationConfig) -> list[str]:
    """Return the group of who answers for each image."""
    said = infer(images, cast(Network, WhereNetwork(config)))
    return [group for columns in said for group in columns["group"].tolist()]


@pytest.mark.ray
@pytest.mark.nightly
@pytest.mark.usefixtures("two_groups")
def test_evaluation_lands_on_its_group_alone():
    config = EvaluationConfig(num_actors=2, label_selector={GROUP: "trainer"})
    units = ray.data.from_items([{"set": 0, "image": 0}] * 8, override_num_blocks=8)
    assert groups_that_answer(units, config) == ["trainer"] * 8


@pytest.mark.ray
@pytest.mark.nightly
@pytest.mark.usefixtures("two_groups")
def test_room_for_a_group_that_never_comes_is_not_found_elsewhere(monkeypatch, own_recipe: Recipe):
    monkeypatch.setattr(room, "ROOM_GRACE_SECONDS", 1.0)
    elsewhere = dataclasses.replace(TRAINING, label_selector={GROUP: "trainers"})
    message = r"2 training workers .* within 2 s: the cluster has no node with ray\.io/node-group=trainers \(of its 3"
    with pytest.raises(ValueError, match=message):
        start_pool(own_recipe, dataclasses.replace(GENERATION, wait_for_nodes_seconds=1), elsewhere)


@pytest.mark.ray
@pytest.mark.nightly
@pytest.mark.usefixtures("two_groups")
def test_a_pool_for_a_group_that_is_not_there_is_refused_before_it_starts():
    elsewhere = dataclasses.replace(GENERATION, label_selector={GROUP: "gpus"})
    stage = [generation_demand(elsewhere), training_demand(TRAINING, 0)]
    with pytest.raises(
        ValueError, match=r"no node with ray\.io/node-group=gpus \(of its 3, .* is generator, trainer\)"
    ):
        check_placement(stage)
    check_placement([generation_demand(dataclasses.replace(elsewhere, wait_for_nodes_seconds=1)), stage[1]])
    check_placement([generation_demand(GENERATION), stage[1]])
