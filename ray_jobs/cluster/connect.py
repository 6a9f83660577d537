"""The cluster a job runs on: the running one if there is one, else a local one."""

import logging
import os
import secrets
import signal
from typing import Any

import ray
from ray._private import auto_init_hook, ray_constants, worker
from ray._raylet import AuthenticationTokenLoader, Config  # pyright: ignore[reportAttributeAccessIssue]

from ray_jobs.cli.errors import first_line, keep_trace
from ray_jobs.cli.termination import TERMINATION
from ray_jobs.cluster.joining import answers, bind_to_loopback, head_address, running_address
from ray_jobs.cluster.session_folder import check_session_folder, session_folder

LOCAL_STARTUP_CONCURRENCY = "8"
"""Processes that a local Ray may start at once; on two cores it would warn that a job has more actors than it likes."""


TELL_TRACES = ("ray.data._internal.execution.streaming_executor_state", "ray.data.exceptions")
"""Ray Data's loggers that print the error of a task with its trace."""


def connect() -> None:
    """Connect this process to the running Ray cluster, or start a local one.

    From here on the process ends in order at SIGTERM or Ctrl-C, as `ray_jobs.cli.termination` says: its actors must
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
            f"The Ray cluster at {address} is running, but this process cannot join it ({error.__cause__ or error}). "
            "A driver must run on a node of the cluster: use ray job submit."
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
            f"Ray did not start on this machine ({first_line(error)}). Try again when CPU and memory are free. "
            f"{keep_trace(error)} Ray's logs are in {session_folder()}/session_latest/logs."
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
