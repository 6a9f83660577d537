"""Questions to Ray Serve's controller, each with a time limit: a silent one holds up neither stream nor job."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from ray import serve
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatusOverview

LONGEST_ANSWER_SECONDS = 10.0


class ControllerSilentError(RayServeException):
    """Ray Serve's controller did not answer in time."""


_asking = threading.Lock()
_asked: dict[str, Future] = {}
"""The last answer to each question, or what will be: none is asked twice before it is answered."""


def applications() -> dict[str, ApplicationStatusOverview]:
    """Return the state of all Serve applications by name; ControllerSilentError if the controller stands still."""
    return _answer("status", serve.status).applications


def delete(app_name: str) -> None:
    """Have an application ended, without waiting for its end; ControllerSilentError if the controller stands still."""
    _answer(f"delete {app_name}", partial(serve.delete, app_name, _blocking=False))


def _answer(question: str, ask: Callable[[], Any]) -> Any:
    with _asking:
        if (future := _asked.get(question)) is None or future.done():
            future = _asked[question] = Future()
            threading.Thread(target=_ask, args=(ask, future), daemon=True).start()
    try:
        return future.result(LONGEST_ANSWER_SECONDS)
    except TimeoutError as error:
        if future.done():
            raise
        raise ControllerSilentError(
            f"Ray Serve's controller has not answered for {LONGEST_ANSWER_SECONDS:g} s."
        ) from error


def _ask(ask: Callable[[], Any], future: Future) -> None:
    try:
        future.set_result(ask())
    except BaseException as error:
        future.set_exception(error)
