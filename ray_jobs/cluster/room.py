"""Check whether a job fits on the cluster, and reserve resources until the job needs them."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import ray
from ray._private.label_utils import validate_label_selector
from ray.util import placement_group, remove_placement_group

from evaluation.config import EvaluationConfig
from generation.config import GenerationConfig
from generation.pool.service import WARN_AFTER_SECONDS
from ray_jobs.cluster.placement import Demand, Node, check_pending, in_words, place, timeout_message
from training.config import TrainingConfig
from training.fit import worker_resources

logger = logging.getLogger(__name__)

GRACE_SECONDS = 10.0
"""How long to wait for free resources, including those of a job that just ended."""


def check_placement(*stages: Sequence[Demand]) -> None:
    """Raise ValueError with the numbers if the cluster's nodes can never hold all processes of a stage.

    For a stage that may wait for nodes, check only that its parts cannot block each other.
    """
    for demands in stages:
        may_wait = any(demand.wait_seconds for demand in demands)
        (check_pending if may_wait else place)(demands, nodes_alive())


@contextmanager
def reserved_resources(demand: Demand) -> Iterator[Callable[[], None]]:
    """Reserve resources for a stage that starts later; yield a function that waits for them.

    The function raises ValueError if they do not become free: unlike a generation service, Ray Train would wait forever
    for resources that other jobs hold. The cluster's autoscaler adds nodes for the reservation.
    """
    count, wait_seconds = demand.count, GRACE_SECONDS + demand.wait_seconds
    warn_after = min(wait_seconds, WARN_AFTER_SECONDS)
    group = placement_group([dict(demand.resources)] * count, bundle_label_selector=[demand.label_selector] * count)

    def wait() -> None:
        if group.wait(math.ceil(warn_after)):
            return
        if warn_after < wait_seconds:
            logger.warning("Waiting up to %g s for nodes for %s.", wait_seconds, in_words(demand))
        if not group.wait(math.ceil(wait_seconds - warn_after)):
            raise ValueError(timeout_message(demand, wait_seconds, nodes_alive()))

    try:
        yield wait
    finally:
        remove_placement_group(group)


def wait_for_resources(demand: Demand) -> None:
    """Wait for the nodes of a stage, if it may wait, and for free resources on them; ValueError on timeout."""
    if demand.wait_seconds:
        with reserved_resources(demand) as wait:
            wait()


def generation_demand(config: GenerationConfig) -> Demand:
    """Return the resources of the pool at its maximum size."""
    return Demand(
        what="generator actors",
        count=config.max_actors,
        resources={"GPU": config.gpus_per_actor, "CPU": config.cpus_per_actor},
        remedy="Lower generation.max_actors, gpus_per_actor or cpus_per_actor",
        label_selector=_checked("generation.label_selector", config.label_selector),
        may_start_late=config.min_actors < config.max_actors,
        wait_seconds=config.wait_for_nodes_seconds,
    )


def training_demand(config: TrainingConfig, wait_seconds: float) -> Demand:
    """Return the resources of the training workers."""
    return Demand(
        what="training workers",
        count=config.num_workers,
        resources=worker_resources(config),
        remedy="Lower training.num_workers, gpus_per_worker or cpus_per_worker",
        label_selector=_checked("training.label_selector", config.label_selector),
        wait_seconds=wait_seconds,
    )


def evaluation_demand(config: EvaluationConfig, wait_seconds: float) -> Demand:
    """Return the resources of the evaluation actors."""
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
    """Return the cluster's live nodes, as if all their resources were free."""
    return [Node(dict(node["Resources"]), dict(node["Labels"])) for node in ray.nodes() if node["Alive"]]
