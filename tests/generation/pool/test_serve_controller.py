"""Questions to a controller of Ray Serve that stands still, and the end of a pool then."""

from threading import Event
from types import SimpleNamespace
from typing import Any, cast

import pytest

from generation.pool import serve_controller, service
from generation.pool.serve_controller import ControllerSilentError, applications
from generation.pool.service import stop_pool
from tests.support.waits import wait_until


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_controller, "CALL_TIMEOUT_SECONDS", 0.05)


@pytest.mark.usefixtures("impatient")
def test_a_question_without_an_answer_is_given_up_and_not_asked_again_meanwhile(monkeypatch: pytest.MonkeyPatch):
    goes_on, asked = Event(), []

    def status() -> SimpleNamespace:
        asked.append("status")
        goes_on.wait()
        return SimpleNamespace(applications={"pool": "running"})

    monkeypatch.setattr(serve_controller.serve, "status", status)
    for _ in range(2):
        with pytest.raises(ControllerSilentError, match=r"has not responded for 0\.05 s"):
            applications()
    assert asked == ["status"]
    goes_on.set()
    wait_until(lambda: all(future.done() for future in serve_controller._calls.values()))
    assert applications() == {"pool": "running"}
    assert asked == ["status", "status"]


@pytest.mark.parametrize("error", [RuntimeError("no Serve"), TimeoutError("of Ray's own")])
def test_an_error_is_an_answer_too(error: Exception, monkeypatch: pytest.MonkeyPatch):
    def status() -> None:
        raise error

    monkeypatch.setattr(serve_controller.serve, "status", status)
    with pytest.raises(type(error), match=str(error)):
        applications()


@pytest.mark.usefixtures("impatient")
def test_a_pool_ends_also_while_the_controller_stands_still(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    goes_on, ended = Event(), []
    monkeypatch.setattr(serve_controller.serve, "delete", lambda *_, **__: goes_on.wait())
    monkeypatch.setattr(service, "kill_actors", ended.append)
    monkeypatch.setattr(service.ray, "kill", ended.append)
    stop_pool("pool", cast(Any, "keeper"))
    assert ended == ["pool", "keeper"]
    assert "has not responded for 0.05 s. The pool's actors are killed without it." in caplog.text
    goes_on.set()
    wait_until(lambda: all(future.done() for future in serve_controller._calls.values()))
