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
_unanswered: dict[str, Future] = {}
"""Questions that the controller has not answered; none is asked twice meanwhile."""


def applications() -> dict[str, ApplicationStatusOverview]:
    """Return the state of all Serve applications by name; ControllerSilentError if the controller stands still."""
    return _answer("status", serve.status).applications


def delete(app_name: str) -> None:
    """Have an application ended, without waiting for its end; ControllerSilentError if the controller stands still."""
    _answer(f"delete {app_name}", partial(serve.delete, app_name, _blocking=False))


def _answer(question: str, ask: Callable[[], Any]) -> Any:
    with _asking:
        if question not in _unanswered:
            _unanswered[question] = Future()
            threading.Thread(target=_ask, args=(question, ask), daemon=True).start()
        future = _unanswered[question]
    try:
        return future.result(LONGEST_ANSWER_SECONDS)
    except TimeoutError as error:
        if future.done():
            raise
        raise ControllerSilentError(
            f"Ray Serve's controller has not answered for {LONGEST_ANSWER_SECONDS:g} s."
        ) from error


def _ask(question: str, ask: Callable[[], Any]) -> None:
    future = _unanswered[question]
    try:
        answer, error = ask(), None
    except BaseException as raised:
        answer, error = None, raised
    with _asking:
        del _unanswered[question]
    if error is None:
        future.set_result(answer)
    else:
        future.set_exception(error)
