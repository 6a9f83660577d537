"""The cluster a job runs on: the running one if there is one, else a local one; and whether the job fits on it."""

import logging
import math
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import ray
from ray._private import auto_init_hook, ray_constants, services
from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
from ray._private.label_utils import validate_label_selector
from ray._raylet import AuthenticationTokenLoader, GcsClient  # pyright: ignore[reportAttributeAccessIssue]
from ray.exceptions import AuthenticationError, RpcError
from ray.util import placement_group, remove_placement_group

from evaluation.config import EvaluationConfig
from generation.config import GenerationConfig
from generation.service import SAY_AFTER_SECONDS
from ray_jobs.placement import Demand, Node, asked, check_awaited, no_room_yet, place
from training.config import TrainingConfig
from training.fit import worker_resources

logger = logging.getLogger(__name__)

ROOM_GRACE_SECONDS = 10.0
"""How long a running cluster may take to find room, or to take back what a job that has just ended held."""

ANSWER_SECONDS = 5.0
"""How long a cluster's head may take to take a connection."""

LOCAL_STARTUP_CONCURRENCY = "8"
"""Processes that a local Ray may start at once; on two cores it would warn that a job has more actors than it likes."""


def connect() -> None:
    """Connect this process to the running Ray cluster, or start a local one.

    From here on SIGTERM, which `ray job stop` sends, ends the process in order: its actors must not outlive it.
    """
    if ray.is_initialized():
        return
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # Not `auto`, which also finds the private Ray of another job, and waits for it at an address it does not listen on.
    if os.environ.get("RAY_ADDRESS") == "auto":
        del os.environ["RAY_ADDRESS"]
    address = services.get_ray_address_from_environment(None, None)  # pyright: ignore[reportArgumentType]
    if address not in (None, "local") and answers(address):
        _init(address)
    else:
        start_local()


def _init(address: str, include_dashboard: bool | None = None) -> None:
    _end_in_order_at_sigterm()
    ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = False  # else `uv run` starts each worker by uv again, and hangs
    auto_init_hook.enable_auto_connect = False  # a call after the end would start another Ray, on the same GPUs
    ray.init(address, include_dashboard=include_dashboard, log_to_driver=False, logging_level=logging.WARNING)
    _end_in_order_at_sigterm()  # in place of Ray's own handler


def _end_in_order_at_sigterm() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def answers(address: str) -> bool:
    """Return whether a cluster answers; ValueError if not, and RAY_ADDRESS names it, or if it asks for another token.

    `ray.init` alone tries for a quarter of an hour where nothing answers, and for 20 seconds with a wrong token.
    """
    named = os.environ.get("RAY_ADDRESS")
    address = _of_head(address)
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
        ensure_token_if_auth_enabled(create_token_if_missing=False)
        GcsClient(address=address)
    except AuthenticationError as error:
        raise ValueError(
            f"The Ray cluster at {address} asks for a token, and this process has none or another. Set "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to what `ray get-auth-token` says on the head."
        ) from error
    except (OSError, RpcError) as error:
        if named:
            raise ValueError(
                f"RAY_ADDRESS is '{named}', where no Ray cluster answers. Start it, or unset it."
            ) from error
        return False
    return True


def _of_head(address: str) -> str:
    """Return a head's HOST:PORT as Ray itself takes it; ValueError if it is no such address."""
    try:
        host, _, port = str(services.canonicalize_bootstrap_address(address)).rpartition(":")
        if "//" in host:
            raise ValueError(f"{address} is a URL")
        return f"{host}:{int(port)}"
    except ValueError as error:
        raise ValueError(
            f"RAY_ADDRESS is '{address}'; a job connects to HOST:PORT of a cluster's head. Give that, or leave it out "
            "and submit the job: ray job submit --address http://HOST:8265 --working-dir . -- python -m ray_jobs...."
        ) from error


def start_local() -> None:
    """Start a Ray of this process's own, which only this machine can reach and which ends with the process.

    SIGTERM is handled as `connect` says.
    """
    _bind_to_loopback()
    _use_own_token()
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", LOCAL_STARTUP_CONCURRENCY)
    _init("local", include_dashboard=False)


def _bind_to_loopback() -> None:
    """Make a local Ray listen on 127.0.0.1 alone.

    Whoever reaches Ray's ports can run code. `_node_ip_address="127.0.0.1"` does not help: Ray turns it into the
    machine's outer address and listens on all interfaces. The switch named after Windows and macOS works on Linux.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False


def _use_own_token() -> None:
    """Keep other accounts of this machine out of a local Ray, by a token that its processes alone have.

    Ray itself would write one to the home folder, which may be read-only, and keep it there.
    """
    if os.environ.setdefault("RAY_AUTH_MODE", "token") == "token" and "RAY_AUTH_TOKEN" not in os.environ:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        AuthenticationTokenLoader.instance().reset_cache()


def session_logs() -> str:
    """Return the folder where this node's actors and workers write what they print."""
    context = ray.get_runtime_context()
    return f"{context.get_temp_dir()}/{context.get_session_name()}/logs"


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
            logger.warning("Waiting up to %g s for nodes for %s.", wait_seconds, asked(demand))
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
