"""Calls to Ray Serve's controller, each with a timeout, so that a hung controller blocks neither stream nor job."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from ray import serve
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatusOverview

CALL_TIMEOUT_SECONDS = 10.0


class ControllerSilentError(RayServeException):
    """Ray Serve's controller did not respond in time."""


_lock = threading.Lock()
_calls: dict[str, Future] = {}
"""The latest call of each kind; a pending call is shared and not repeated."""


def applications() -> dict[str, ApplicationStatusOverview]:
    """Return the state of all Serve applications by name; ControllerSilentError after a timeout."""
    return _call("status", serve.status).applications


def delete(app_name: str) -> None:
    """Start deleting an application, without waiting for its end; ControllerSilentError after a timeout."""
    _call(f"delete {app_name}", partial(serve.delete, app_name, _blocking=False))


def _call(name: str, function: Callable[[], Any]) -> Any:
    with _lock:
        if (future := _calls.get(name)) is None or future.done():
            future = _calls[name] = Future()
            threading.Thread(target=_run, args=(function, future), daemon=True).start()
    try:
        return future.result(CALL_TIMEOUT_SECONDS)
    except TimeoutError as error:
        if future.done():
            raise
        raise ControllerSilentError(
            f"Ray Serve's controller has not responded for {CALL_TIMEOUT_SECONDS:g} s."
        ) from error


def _run(function: Callable[[], Any], future: Future) -> None:
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)
