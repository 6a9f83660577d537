"""Whether a job fits on the cluster, and room on it that is kept until the job takes it."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import ray
from ray._private.label_utils import validate_label_selector
from ray.util import placement_group, remove_placement_group

from evaluation.config import EvaluationConfig
from generation.config import GenerationConfig
from generation.pool.service import SAY_AFTER_SECONDS
from ray_jobs.cluster.placement import Demand, Node, check_awaited, in_words, no_room_yet, place
from training.config import TrainingConfig
from training.fit import worker_resources

logger = logging.getLogger(__name__)

ROOM_GRACE_SECONDS = 10.0
"""How long a running cluster may take to find room, or to take back what a job that has just ended held."""


def check_placement(*stages: Sequence[Demand]) -> None:
    """Raise ValueError with the numbers if the cluster's nodes can never hold all that a stage of the job asks for.

    Of a stage that may wait for nodes it is only known whether its parts can be in each other's way.
    """
    for demands in stages:
        awaits = any(demand.wait_seconds for demand in demands)
        (check_awaited if awaits else place)(demands, nodes_alive())


@contextmanager
def room_kept(demand: Demand) -> Iterator[Callable[[], None]]:
    """Keep room for a stage that starts later, before an earlier one takes its share; yield what waits for it.

    That raises ValueError if none comes free: Ray Train, unlike a generation service, would wait without end for room
    that other jobs hold. The cluster's autoscaler brings nodes for it.
    """
    count, wait_seconds = demand.count, ROOM_GRACE_SECONDS + demand.wait_seconds
    said_after = min(wait_seconds, SAY_AFTER_SECONDS)
    room = placement_group([dict(demand.resources)] * count, bundle_label_selector=[demand.label_selector] * count)

    def wait() -> None:
        if room.wait(math.ceil(said_after)):
            return
        if said_after < wait_seconds:
            logger.warning("Waiting up to %g s for nodes for %s.", wait_seconds, in_words(demand))
        if not room.wait(math.ceil(wait_seconds - said_after)):
            raise ValueError(no_room_yet(demand, wait_seconds, nodes_alive()))

    try:
        yield wait
    finally:
        remove_placement_group(room)


def wait_for_room(demand: Demand) -> None:
    """Return when the cluster has the nodes that a stage may wait for, and room on them; ValueError if it never has."""
    if demand.wait_seconds:
        with room_kept(demand) as wait:
            wait()


def generation_demand(config: GenerationConfig) -> Demand:
    """Return what the pool takes when it is largest."""
    return Demand(
        what="generator actors",
        count=config.max_actors,
        resources={"GPU": config.gpus_per_actor, "CPU": config.cpus_per_actor},
        remedy="Lower generation.max_actors, gpus_per_actor or cpus_per_actor",
        label_selector=_checked("generation.label_selector", config.label_selector),
        is_late=config.min_actors < config.max_actors,
        wait_seconds=config.wait_for_nodes_seconds,
    )


def training_demand(config: TrainingConfig, wait_seconds: float) -> Demand:
    """Return what the training workers take."""
    return Demand(
        what="training workers",
        count=config.num_workers,
        resources=worker_resources(config),
        remedy="Lower training.num_workers, gpus_per_worker or cpus_per_worker",
        label_selector=_checked("training.label_selector", config.label_selector),
        wait_seconds=wait_seconds,
    )


def evaluation_demand(config: EvaluationConfig, wait_seconds: float) -> Demand:
    """Return what evaluation takes."""
    return Demand(
        what="evaluation actors",
        count=config.num_actors,
        resources={"GPU": config.gpus_per_actor, "CPU": 1.0},
        remedy="Lower evaluation.num_actors or gpus_per_actor",
        label_selector=_checked("evaluation.label_selector", config.label_selector),
        wait_seconds=wait_seconds,
    )


def _checked(setting: str, selector: dict[str, str]) -> dict[str, str]:
    if error := validate_label_selector(selector):
        raise ValueError(f"{setting} is {selector}: {error}")
    return selector


def nodes_alive() -> list[Node]:
    """Return the cluster's nodes, all of each free."""
    return [Node(dict(node["Resources"]), dict(node["Labels"])) for node in ray.nodes() if node["Alive"]]
