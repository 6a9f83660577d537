"""Observers of a run that fail, or take long."""

import threading

import pytest

from ray_jobs.monitor.observers import MAX_QUEUED, Observer, close_all
from ray_jobs.monitor.progress import RunProgress
from tests.support.looks import looked
from tests.support.waits import wait_until

LOOKS = [looked(100.0 + i) for i in range(5)]


def test_an_observer_gets_each_look_and_ends_after_the_last():
    seen: list[RunProgress | str] = []
    observer = Observer(seen.append, end=lambda: seen.append("end"))
    for snapshot in LOOKS:
        observer.show(snapshot)
    observer.close()
    observer.join()
    observer.show(LOOKS[0])
    assert seen == [*LOOKS, "end"]


def test_after_an_error_looks_that_wait_are_dropped():
    seen: list[RunProgress | str] = []
    is_free = threading.Event()

    def look_long(snapshot: RunProgress) -> None:
        seen.append(snapshot)
        is_free.wait()

    observer = Observer(look_long, end=lambda: seen.append("end"))
    observer.show(LOOKS[0])
    wait_until(lambda: seen)
    observer.show(LOOKS[1])
    observer.close(drops=True)
    is_free.set()
    observer.join()
    assert seen == [LOOKS[0], "end"]


def test_a_slow_observer_misses_looks_and_sees_the_newest():
    seen: list[RunProgress] = []
    is_free = threading.Event()

    def look_long(snapshot: RunProgress) -> None:
        seen.append(snapshot)
        is_free.wait()

    observer = Observer(look_long)
    observer.show(LOOKS[0])
    wait_until(lambda: seen)
    later = [looked(200.0 + i) for i in range(MAX_QUEUED + 3)]
    for snapshot in later:
        observer.show(snapshot)
    is_free.set()
    observer.close()
    observer.join()
    assert seen == [LOOKS[0], *later[3:]]


def test_an_observer_that_blocks_holds_up_nobody_at_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("ray_jobs.monitor.observers.LAST_SNAPSHOT_SECONDS", 0.1)
    is_free, seen = threading.Event(), list[RunProgress]()

    def block(_: RunProgress) -> None:
        is_free.wait()

    observers = [Observer(block), Observer(seen.append)]
    for observer in observers:
        observer.show(LOOKS[0])
    close_all(observers, drops=False)
    assert seen == [LOOKS[0]]
    assert "block did not stop in time; the run continues without it." in caplog.text
    is_free.set()


@pytest.mark.parametrize("error", [SystemExit(1), ValueError("no"), UnicodeEncodeError("ascii", "\u2588", 0, 1, "no")])
def test_an_observer_that_fails_is_left_out(error: BaseException, caplog: pytest.LogCaptureFixture):
    num_looks, ends = 0, list[str]()

    def fail(_: RunProgress) -> None:
        nonlocal num_looks
        num_looks += 1
        raise error

    observer = Observer(fail, end=lambda: ends.append("end"))
    observer.show(LOOKS[0])
    wait_until(lambda: "fail failed and was disabled; the run continues. The whole trace is in" in caplog.text)
    observer.show(LOOKS[1])
    observer.close()
    observer.join()
    assert (num_looks, ends) == (1, ["end"])
