"""Connect a job to the running Ray cluster, or start a local one."""

import logging
import os
import secrets
import signal
from pathlib import Path
from typing import Any

import ray
from ray._private import auto_init_hook, ray_constants, worker
from ray._raylet import AuthenticationTokenLoader, Config  # pyright: ignore[reportAttributeAccessIssue]

from ray_jobs.cli.console import CONSOLE
from ray_jobs.cli.errors import first_line, keep_trace
from ray_jobs.cli.termination import TERMINATION
from ray_jobs.cluster.joining import bind_to_loopback, head_address, is_reachable, running_address
from ray_jobs.cluster.session_folder import check_session_folder, session_folder

LOCAL_STARTUP_CONCURRENCY = "8"
"""Worker processes a local Ray may start at once; with the default on two cores, Ray warns of too many actors."""


TRACE_LOGGERS = ("ray.data._internal.execution.streaming_executor_state", "ray.data.exceptions")
"""Ray Data's loggers that print a task's error with its traceback."""


def connect() -> None:
    """Connect this process to the running Ray cluster, or start a local one.

    From now on SIGTERM and Ctrl-C shut the process down in order, as `ray_jobs.cli.termination` describes: its actors
    must not outlive it.
    """
    if ray.is_initialized():
        return
    if not CONSOLE.shows_libraries:
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        for name in TRACE_LOGGERS:
            logging.getLogger(name).addFilter(hide_error)
    address = running_address()
    if address and is_reachable(address):
        join(head_address(address))
    else:
        start_local()
    CONSOLE.send_native_messages_to(Path(session_logs(), f"figment-driver-{os.getpid()}.err"))


def hide_error(record: logging.LogRecord) -> bool:
    """Hide an error of Ray Data from the console, since the job reports it. Ray Data's log file keeps it."""
    if record.levelno >= logging.ERROR:
        record.hide = True  # read by Ray Data's console handler
    return True


def join(address: str) -> None:
    """Connect this process to a reachable cluster; ValueError if the cluster does not accept it."""
    try:
        _init(address)
    except ConnectionError as error:
        raise ValueError(
            f"The Ray cluster at {address} is running, but this process cannot join it ({error.__cause__ or error}). "
            "A driver must run on a node of the cluster: use ray job submit."
        ) from error


def start_local() -> None:
    """Start a Ray of this process's own, reachable from this machine only, which ends with the process.

    Signals are handled as in `connect`. ValueError if Ray has no usable session folder or does not start.
    """
    check_session_folder()
    bind_to_loopback()
    _use_own_token()
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", LOCAL_STARTUP_CONCURRENCY)
    try:
        _init("local", include_dashboard=False)
    except Exception as error:  # Ray raises plain exceptions if its processes start too late
        raise ValueError(
            f"Ray did not start on this machine ({first_line(error)}). Try again when CPU and memory are free. "
            f"{keep_trace(error)} Ray's logs are in {session_folder()}/session_latest/logs."
        ) from error


def _init(address: str, include_dashboard: bool | None = None) -> None:
    ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = False  # else `uv run` starts each worker through uv and hangs
    auto_init_hook.enable_auto_connect = False  # a call after shutdown would start another Ray on the same GPUs
    silence_ray_at_shutdown()
    shows_all = CONSOLE.shows_libraries
    level = logging.DEBUG if shows_all else logging.WARNING
    try:
        ray.init(address, include_dashboard=include_dashboard, log_to_driver=shows_all, logging_level=level)
    except SystemExit as ended:
        if ended.code == signal.SIGTERM:  # from the handler with which Ray replaced ours
            TERMINATION.begin(signal.SIGTERM)
        raise
    TERMINATION.handle(head=ray.get_runtime_context().gcs_address)


def silence_ray_at_shutdown() -> None:
    """Stop Ray's messages once this job's shutdown has begun.

    A signal to the process group also ends Ray's autoscaler, which sends its traceback to every driver.
    """
    show = worker.print_to_stdstream

    def show_before_the_end(data: dict[str, Any], ignore_prefix: bool) -> None:
        if not TERMINATION.has_begun:
            show(data, ignore_prefix)

    worker.print_to_stdstream = show_before_the_end


def _use_own_token() -> None:
    """Protect a local Ray from other accounts on this machine with a token only its own processes have.

    Ray itself would write a token to the home folder, which may be read-only, and leave it there.
    """
    if os.environ.setdefault("RAY_AUTH_MODE", "token") == "token" and "RAY_AUTH_TOKEN" not in os.environ:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        AuthenticationTokenLoader.instance().reset_cache()
        Config.initialize("")  # reread the mode


def session_logs() -> str:
    """Return the folder with the output of this node's actors and workers."""
    context = ray.get_runtime_context()
    return f"{context.get_temp_dir()}/{context.get_session_name()}/logs"
