"""Observers of a run that fail, or take long."""

import threading

import pytest

from ray_jobs.monitor.observers import Observer
from ray_jobs.monitor.progress import RunProgress
from tests.support.looks import looked
from tests.support.waits import wait_until

LOOKS = [looked(100.0 + i) for i in range(5)]


def test_an_observer_gets_each_look_that_it_has_time_for_and_the_last_one():
    seen: list[RunProgress] = []
    observer = Observer(seen.append)
    for look in LOOKS:
        observer.show(look)
        wait_until(lambda: seen and seen[-1] is look)  # noqa: B023
    observer.close()
    assert seen == LOOKS


def test_a_slow_observer_misses_looks_and_sees_the_newest_next():
    seen: list[RunProgress] = []
    is_free = threading.Event()

    def look_long(look: RunProgress) -> None:
        seen.append(look)
        is_free.wait()

    observer = Observer(look_long)
    observer.show(LOOKS[0])
    wait_until(lambda: seen)
    for look in LOOKS[1:]:
        observer.show(look)
    is_free.set()
    observer.close()
    assert seen == [LOOKS[0], LOOKS[-1]]


def test_an_observer_that_blocks_holds_up_nobody_at_the_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ray_jobs.monitor.observers.LAST_LOOK_SECONDS", 0.1)
    is_free, seen = threading.Event(), list[RunProgress]()
    blocked, other = Observer(lambda _: is_free.wait()), Observer(seen.append)
    for observer in (blocked, other):
        observer.show(LOOKS[0])
        observer.close()
    assert seen == [LOOKS[0]]
    is_free.set()


def test_an_observer_that_fails_is_left_out(caplog: pytest.LogCaptureFixture):
    num_looks = 0

    def fail(_: RunProgress) -> None:
        nonlocal num_looks
        num_looks += 1
        raise SystemExit(1)

    observer = Observer(fail)
    observer.show(LOOKS[0])
    wait_until(lambda: "fail failed and is switched off; the run goes on. The whole trace is in" in caplog.text)
    observer.show(LOOKS[1])
    observer.close()
    assert num_looks == 1
