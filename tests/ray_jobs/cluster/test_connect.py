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
from generation.indices import SampleRequest
from generation.recipes.recipe import Recipe
from generation.stream.stream import stream_samples
from ray_jobs.cli.termination import TERMINATION
from ray_jobs.cluster import room
from ray_jobs.cluster.connect import TRACE_LOGGERS, connect, hide_error, silence_ray_at_shutdown
from ray_jobs.cluster.placement import Demand
from ray_jobs.cluster.room import check_placement, generation_demand, reserved_resources, training_demand
from ray_jobs.job.source import start_pool
from tests.support.nodes import joined_node
from tests.support.processes import command_of
from training.config import TrainingConfig
from training.fit import worker_group


@pytest.mark.parametrize(("has_begun", "shown"), [(False, ["The autoscaler failed"]), (True, [])])
def test_ray_output_is_hidden_once_shutdown_has_begun(
    has_begun: bool, shown: list[str], monkeypatch: pytest.MonkeyPatch
):
    printed = []
    monkeypatch.setattr(worker, "print_to_stdstream", lambda data, ignore_prefix: printed.extend(data["lines"]))
    monkeypatch.setattr(TERMINATION, "has_begun", has_begun)
    silence_ray_at_shutdown()
    worker.print_to_stdstream({"lines": ["The autoscaler failed"]}, ignore_prefix=False)
    assert printed == shown


def test_ray_data_prints_warnings_but_no_errors():
    names = [streaming_executor_state.logger.name, ray.data.exceptions.logger.name]
    records = [
        logging.makeLogRecord({"name": name, "levelno": level})
        for name in names
        for level in (logging.WARNING, logging.ERROR)
    ]
    assert tuple(names) == TRACE_LOGGERS
    assert all(hide_error(record) for record in records)
    assert [HiddenRecordFilter().filter(record) for record in records] == [True, False, True, False]


def connections_of(process: psutil.Process) -> list[Any]:
    """Return a process's TCP connections; none if it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.net_connections(kind="tcp")
    return []


@pytest.mark.ray
@pytest.mark.usefixtures("painted_pool")
def test_local_ray_and_generators_listen_on_loopback_only():
    assert ray.nodes()[0]["NodeManagerAddress"] == "127.0.0.1"
    listening = {
        process: addresses
        for process in psutil.Process().children(recursive=True)
        if (addresses := [each.laddr for each in connections_of(process) if each.status == psutil.CONN_LISTEN])
    }
    assert sum("ServeReplica" in command_of(process) for process in listening) >= 2
    assert len(listening) >= 5  # also head, node and workers
    ips = {address.ip.removeprefix("::ffff:") for addresses in listening.values() for address in addresses}
    assert ips == {"127.0.0.1"}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_waiting_for_reserved_resources_times_out_until_they_are_released(monkeypatch):
    monkeypatch.setattr(room, "GRACE_SECONDS", 2.0)
    free = ray.cluster_resources()["CPU"] - 0.1  # the session's pools use less
    everything = Demand("training workers", 1, {"CPU": free}, "Lower training.num_workers")
    with reserved_resources(everything) as wait:
        wait()
        with reserved_resources(everything) as wait_for_more:
            message = r"1 training workers of [\d.]+ CPU each could not be placed within 2 s.*Lower training"
            with pytest.raises(ValueError, match=message):
                wait_for_more()
    with reserved_resources(dataclasses.replace(everything, wait_seconds=8)) as wait:
        wait()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", r"RAY_ADDRESS is '127\.0\.0\.1:1', but no Ray cluster responds there"),
        ("http://127.0.0.1:8265", r"use HOST:PORT .* submit the job: ray job submit --address"),
        ("nowhere", r"RAY_ADDRESS is 'nowhere'; use HOST:PORT"),
    ],
)
def test_unreachable_ray_address_is_an_error_and_no_local_ray_starts(address: str, message: str, monkeypatch):
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
    """A recipe for these tests only: the session's pool uses seed 0."""
    return dataclasses.replace(painted, seed=2)


@pytest.fixture(scope="module")
def two_groups(ray_cluster) -> Iterator[None]:
    """Two nodes besides the session's, which has no group: two GPUs for generation, and one that must stay free."""
    with joined_node(2, 2, {GROUP: "generator"}), joined_node(2, 1, {GROUP: "trainer"}):
        yield


def this_group() -> str | None:
    """Return the group of this process's node."""
    return cast(dict[str, str], ray.get_runtime_context().get_node_labels()).get(GROUP)


def groups_of(kind: str) -> dict[str, str | None]:
    """Return the node groups of live actors of a kind, by actor id."""
    group_of = {node["NodeID"]: node["Labels"].get(GROUP) for node in ray.nodes()}
    alive = [actor for actor in actors().values() if kind in actor["ActorClassName"] and actor["State"] == "ALIVE"]
    return {actor["ActorID"]: group_of[actor["Address"]["NodeID"]] for actor in alive}


@pytest.mark.ray
@pytest.mark.nightly
@pytest.mark.usefixtures("two_groups")
def test_generators_run_on_their_group_and_the_request_stage_does_not(own_recipe: Recipe):
    of_other_pools = groups_of("ServeReplica").keys()
    with start_pool(own_recipe, GENERATION, TRAINING) as service:
        samples = stream_samples(service, own_recipe, GENERATION, SampleRequest.all_of(range(400)))
        batches = iter(samples.iter_batches(batch_size=4))
        next(batches)
        generators = groups_of("ServeReplica")
        assert [generators[each] for each in generators.keys() - of_other_pools] == ["generator"] * 3
        assert set(groups_of("StreamStage").values()) == {None}  # those of the three that have started
        samples = stream_samples(service, own_recipe, GENERATION, SampleRequest.all_of(range(16)))
        shown = samples.map_batches(cast(Any, partial(network_input, Crop(8, 8, "bilinear"))), batch_size=4, num_cpus=0)
        assert groups_of_inference(shown, EvaluationConfig(label_selector={GROUP: "trainer"})) == ["trainer"] * 16


@pytest.mark.ray
@pytest.mark.nightly
@pytest.mark.usefixtures("two_groups")
def test_training_workers_run_on_their_group_only(tmp_path: Path):
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
class LocatingNetwork:
    """A fake `Network` that returns its node's group."""

    config: EvaluationConfig

    def load(self) -> Callable[[int, np.ndarray], dict[str, np.ndarray]]:
        """Return a function that returns the group of its node."""
        return lambda _, images: {"group": np.array([this_group()] * len(images))}


def groups_of_inference(images: ray.data.Dataset, config: EvaluationConfig) -> list[str]:
    """Return the node group of each image's inference."""
    results = infer(images, cast(Network, LocatingNetwork(config)))
    return [group for columns in results for group in columns["group"].tolist()]


@pytest.mark.ray
@pytest.mark.nightly
@pytest.mark.usefixtures("two_groups")
def test_evaluation_runs_on_its_group_only():
    config = EvaluationConfig(num_actors=2, label_selector={GROUP: "trainer"})
    units = ray.data.from_items([{"set": 0, "image": 0}] * 8, override_num_blocks=8)
    assert groups_of_inference(units, config) == ["trainer"] * 8


@pytest.mark.ray
@pytest.mark.nightly
@pytest.mark.usefixtures("two_groups")
def test_missing_group_times_out_instead_of_using_other_nodes(monkeypatch, own_recipe: Recipe):
    monkeypatch.setattr(room, "GRACE_SECONDS", 1.0)
    elsewhere = dataclasses.replace(TRAINING, label_selector={GROUP: "trainers"})
    message = (
        r"2 training workers .* within 2 s: the cluster has no node with ray\.io/node-group=trainers \(its 3 nodes"
    )
    with pytest.raises(ValueError, match=message):
        start_pool(own_recipe, dataclasses.replace(GENERATION, wait_for_nodes_seconds=1), elsewhere)


@pytest.mark.ray
@pytest.mark.nightly
@pytest.mark.usefixtures("two_groups")
def test_pool_for_a_missing_group_is_refused_at_startup():
    elsewhere = dataclasses.replace(GENERATION, label_selector={GROUP: "gpus"})
    stage = [generation_demand(elsewhere), training_demand(TRAINING, 0)]
    with pytest.raises(
        ValueError, match=r"no node with ray\.io/node-group=gpus \(its 3 nodes have .*: generator, trainer\)"
    ):
        check_placement(stage)
    check_placement([generation_demand(dataclasses.replace(elsewhere, wait_for_nodes_seconds=1)), stage[1]])
    check_placement([generation_demand(GENERATION), stage[1]])
