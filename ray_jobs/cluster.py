"""The cluster a job runs on: the running one if there is one, else a local one; and whether the job fits on it."""

import logging
import math
import os
import secrets
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import auto_init_hook, ray_constants, worker
from ray._private.label_utils import validate_label_selector
from ray._raylet import AuthenticationTokenLoader, Config  # pyright: ignore[reportAttributeAccessIssue]
from ray.util import placement_group, remove_placement_group

from evaluation.config import EvaluationConfig
from generation.config import GenerationConfig
from generation.service import SAY_AFTER_SECONDS
from ray_jobs.joining import answers, bind_to_loopback, head_address, running_address
from ray_jobs.placement import Demand, Node, asked, check_awaited, no_room_yet, place
from ray_jobs.session_folder import check_session_folder, session_folder
from ray_jobs.termination import TERMINATION
from ray_jobs.user_errors import first_line, keep_trace
from training.config import TrainingConfig
from training.fit import worker_resources

logger = logging.getLogger(__name__)

ROOM_GRACE_SECONDS = 10.0
"""How long a running cluster may take to find room, or to take back what a job that has just ended held."""

LOCAL_STARTUP_CONCURRENCY = "8"
"""Processes that a local Ray may start at once; on two cores it would warn that a job has more actors than it likes."""


TELL_TRACES = ("ray.data._internal.execution.streaming_executor_state", "ray.data.exceptions")
"""Ray Data's loggers that print the error of a task with its trace."""


def connect() -> None:
    """Connect this process to the running Ray cluster, or start a local one.

    From here on the process ends in order at SIGTERM or Ctrl-C, as `ray_jobs.termination` says: its actors must
    not outlive it.
    """
    if ray.is_initialized():
        return
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    for name in TELL_TRACES:
        logging.getLogger(name).addFilter(hide_error)
    address = running_address()
    if address and answers(address):
        join(head_address(address))
    else:
        start_local()


def hide_error(record: logging.LogRecord) -> bool:
    """Keep an error of Ray Data's off the console: the job tells it itself. Ray Data's log file has it."""
    if record.levelno >= logging.ERROR:
        record.hide = True  # Ray Data's console handler goes by it
    return True


def join(address: str) -> None:
    """Connect this process to a cluster that answers; ValueError if it does not take it."""
    try:
        _init(address)
    except ConnectionError as error:
        raise ValueError(
            f"The Ray cluster at {address} answers, and this process cannot join it ({error.__cause__ or error}). A "
            "job runs on a machine that is a node of the cluster: submit it there by ray job submit."
        ) from error


def start_local() -> None:
    """Start a Ray of this process's own, which only this machine can reach and which ends with the process.

    Signals are handled as `connect` says. ValueError if there is no room for it, or it does not come up.
    """
    check_session_folder()
    bind_to_loopback()
    _use_own_token()
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", LOCAL_STARTUP_CONCURRENCY)
    try:
        _init("local", include_dashboard=False)
    except Exception as error:  # Ray raises bare ones when its processes are late
        raise ValueError(
            f"Ray did not start on this machine ({first_line(error)}). Try again when it is less busy and has memory "
            f"left. {keep_trace(error)} Ray's logs are in {session_folder()}/session_latest/logs."
        ) from error


def _init(address: str, include_dashboard: bool | None = None) -> None:
    ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = False  # else `uv run` starts each worker by uv again, and hangs
    auto_init_hook.enable_auto_connect = False  # a call after the end would start another Ray, on the same GPUs
    drop_messages_of_the_end()
    try:
        ray.init(address, include_dashboard=include_dashboard, log_to_driver=False, logging_level=logging.WARNING)
    except SystemExit as ended:
        if ended.code == signal.SIGTERM:  # by the handler that Ray sets in place of ours
            TERMINATION.begin(signal.SIGTERM)
        raise
    TERMINATION.handle(head=ray.get_runtime_context().gcs_address)


def drop_messages_of_the_end() -> None:
    """Let Ray show nothing once this job's end has begun.

    A signal to the process group ends Ray's autoscaler too, which sends each driver the trace of its end.
    """
    show = worker.print_to_stdstream

    def show_before_the_end(data: dict[str, Any], ignore_prefix: bool) -> None:
        if not TERMINATION.has_begun:
            show(data, ignore_prefix)

    worker.print_to_stdstream = show_before_the_end


def _use_own_token() -> None:
    """Keep other accounts of this machine out of a local Ray, by a token that its processes alone have.

    Ray itself would write one to the home folder, which may be read-only, and keep it there.
    """
    if os.environ.setdefault("RAY_AUTH_MODE", "token") == "token" and "RAY_AUTH_TOKEN" not in os.environ:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        AuthenticationTokenLoader.instance().reset_cache()
        Config.initialize("")  # it has read the mode before


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
