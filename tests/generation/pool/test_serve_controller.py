"""Calls to a hung Ray Serve controller, and stopping a pool then."""

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
def test_call_times_out_and_is_not_repeated_while_pending(monkeypatch: pytest.MonkeyPatch):
    resumes, calls = Event(), []

    def status() -> SimpleNamespace:
        calls.append("status")
        resumes.wait()
        return SimpleNamespace(applications={"pool": "running"})

    monkeypatch.setattr(serve_controller.serve, "status", status)
    for _ in range(2):
        with pytest.raises(ControllerSilentError, match=r"has not responded for 0\.05 s"):
            applications()
    assert calls == ["status"]
    resumes.set()
    wait_until(lambda: all(future.done() for future in serve_controller._calls.values()))
    assert applications() == {"pool": "running"}
    assert calls == ["status", "status"]


@pytest.mark.parametrize("error", [RuntimeError("no Serve"), TimeoutError("of Ray's own")])
def test_error_of_a_call_is_raised(error: Exception, monkeypatch: pytest.MonkeyPatch):
    def status() -> None:
        raise error

    monkeypatch.setattr(serve_controller.serve, "status", status)
    with pytest.raises(type(error), match=str(error)):
        applications()


@pytest.mark.usefixtures("impatient")
def test_pool_stops_while_the_controller_hangs(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    resumes, ended = Event(), []
    monkeypatch.setattr(serve_controller.serve, "delete", lambda *_, **__: resumes.wait())
    monkeypatch.setattr(service, "kill_actors", ended.append)
    monkeypatch.setattr(service.ray, "kill", ended.append)
    stop_pool("pool", cast(Any, "keeper"))
    assert ended == ["pool", "keeper"]
    assert "has not responded for 0.05 s. The pool's actors are killed without it." in caplog.text
    resumes.set()
    wait_until(lambda: all(future.done() for future in serve_controller._calls.values()))
