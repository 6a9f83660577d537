"""The cluster a job runs on: the running one if there is one, else a local one; and whether the job fits on it."""

import logging
import math
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray._private import ray_constants, services
from ray.util import placement_group, remove_placement_group

from evaluation.config import EvaluationConfig
from generation.config import GenerationConfig
from training.config import TrainingConfig
from training.fit import worker_resources

ROOM_GRACE_SECONDS = 10.0
"""How long a running cluster may take to find room, or to take back what a job that has just ended held."""

LOCAL_STARTUP_CONCURRENCY = "8"
"""Processes that a local Ray may start at once; on two cores it would warn that a job has more actors than it likes."""


def connect() -> None:
    """Connect this process to the running Ray cluster, or start a local one.

    From here on SIGTERM, which `ray job stop` sends, ends the process in order: its actors must not outlive it.
    """
    if ray.is_initialized():
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # Not `auto`, which also finds the private Ray of another job, and waits for it at an address it does not listen on.
    if os.environ.get("RAY_ADDRESS") == "auto":
        del os.environ["RAY_ADDRESS"]
    address = services.get_ray_address_from_environment(None, None)  # pyright: ignore[reportArgumentType]
    if address is None:
        start_local()
        return
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except ConnectionError as error:
        if address := os.environ.get("RAY_ADDRESS"):
            raise ValueError(
                f"RAY_ADDRESS is '{address}', where no Ray cluster answers. Start it, or unset it."
            ) from error
        start_local()


def start_local() -> None:
    """Start a Ray of this process's own, which only this machine can reach and which ends with the process."""
    _bind_to_loopback()
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", LOCAL_STARTUP_CONCURRENCY)
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)


def _bind_to_loopback() -> None:
    """Make a local Ray listen on 127.0.0.1 alone.

    Whoever reaches Ray's ports can run code. `_node_ip_address="127.0.0.1"` does not help: Ray turns it into the
    machine's outer address and listens on all interfaces. The switch named after Windows and macOS works on Linux.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    ray_constants.ENABLE_RAY_CLUSTER = False


def session_logs() -> str:
    """Return the folder where this node's actors and workers write what they print."""
    context = ray.get_runtime_context()
    return f"{context.get_temp_dir()}/{context.get_session_name()}/logs"


@dataclass(frozen=True)
class Demand:
    """So many processes, each with these resources."""

    what: str
    count: int
    resources: dict[str, float]
    remedy: str


def check_placement(*stages: Sequence[Demand]) -> None:
    """Raise ValueError with the numbers if the cluster's nodes can never hold all that a stage of the job asks for."""
    nodes = [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    for demands in stages:
        place(demands, nodes)


@contextmanager
def room_kept(demand: Demand, wait_seconds: float) -> Iterator[None]:
    """Keep room for a stage that starts later, before an earlier one takes its share; ValueError if none comes free.

    Ray Train, unlike a generation service, would wait without end for room that other jobs hold.
    """
    room = placement_group([dict(demand.resources)] * demand.count)
    try:
        if not room.wait(math.ceil(ROOM_GRACE_SECONDS + wait_seconds)):
            raise ValueError(_taken(demand, ROOM_GRACE_SECONDS + wait_seconds))
        yield
    finally:
        remove_placement_group(room)


def generation_demand(config: GenerationConfig) -> Demand:
    """Return what the pool takes when it is largest."""
    return Demand(
        what="generator actors",
        count=config.max_actors,
        resources={"GPU": config.gpus_per_actor, "CPU": config.cpus_per_actor},
        remedy="Lower generation.max_actors, gpus_per_actor or cpus_per_actor, or add nodes; where the cluster adds "
        "them itself, set generation.wait_for_nodes_seconds",
    )


def training_demand(config: TrainingConfig) -> Demand:
    """Return what the training workers take."""
    return Demand(
        what="training workers",
        count=config.num_workers,
        resources=worker_resources(config),
        remedy="Lower training.num_workers, gpus_per_worker or cpus_per_worker, or add nodes",
    )


def evaluation_demand(config: EvaluationConfig) -> Demand:
    """Return what evaluation takes."""
    return Demand(
        what="evaluation actors",
        count=config.num_actors,
        resources={"GPU": config.gpus_per_actor, "CPU": 1.0},
        remedy="Lower evaluation.num_actors or gpus_per_actor, or add nodes",
    )


def place(demands: Sequence[Demand], nodes: Sequence[dict[str, float]]) -> None:
    """Put all demands on nodes, the largest first, each where the fewest GPUs are free; ValueError for no room."""
    free = [dict(node) for node in nodes]
    for demand in sorted(demands, key=_size, reverse=True):
        for placed in range(demand.count):
            node = min((node for node in free if _fits(demand, node)), key=_free_gpus, default=None)
            if node is None:
                raise ValueError(_no_room(demand, placed, nodes))
            for name, amount in demand.resources.items():
                node[name] = node.get(name, 0.0) - amount


def _size(demand: Demand) -> tuple[float, float]:
    return demand.resources.get("GPU", 0.0), demand.resources.get("CPU", 0.0)


def _free_gpus(node: dict[str, float]) -> float:
    return node.get("GPU", 0.0)


def _fits(demand: Demand, node: dict[str, float]) -> bool:
    return all(node.get(name, 0.0) >= amount - 1e-9 for name, amount in demand.resources.items())


def _no_room(demand: Demand, placed: int, nodes: Sequence[dict[str, float]]) -> str:
    totals = {name: math.fsum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
    return (
        f"The job asks for {demand.count} {demand.what} of {_each(demand)} each, and only {placed} can ever be placed "
        f"beside the rest: the cluster has {totals['CPU']:g} CPU and {totals['GPU']:g} GPU on {len(nodes)} nodes. "
        f"{demand.remedy}."
    )


def _taken(demand: Demand, waited_seconds: float) -> str:
    return (
        f"{demand.count} {demand.what} of {_each(demand)} each found no room within {waited_seconds:g} s: other jobs "
        f"hold the cluster's resources. {demand.remedy}, or wait for the other jobs."
    )


def _each(demand: Demand) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in demand.resources.items() if amount)
