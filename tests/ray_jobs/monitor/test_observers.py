"""Observers of a run that fail or are slow."""

import threading

import pytest

from ray_jobs.monitor.observers import MAX_QUEUED, Observer, close_all
from ray_jobs.monitor.progress import RunProgress
from tests.support.progress import progress_at
from tests.support.waits import wait_until

SNAPSHOTS = [progress_at(100.0 + i) for i in range(5)]


def test_observer_gets_each_snapshot_and_ends_after_the_last():
    seen: list[RunProgress | str] = []
    observer = Observer(seen.append, end=lambda: seen.append("end"))
    for snapshot in SNAPSHOTS:
        observer.show(snapshot)
    observer.close()
    observer.join()
    observer.show(SNAPSHOTS[0])
    assert seen == [*SNAPSHOTS, "end"]


def test_queued_snapshots_are_dropped_after_an_error():
    seen: list[RunProgress | str] = []
    is_free = threading.Event()

    def observe_slowly(snapshot: RunProgress) -> None:
        seen.append(snapshot)
        is_free.wait()

    observer = Observer(observe_slowly, end=lambda: seen.append("end"))
    observer.show(SNAPSHOTS[0])
    wait_until(lambda: seen)
    observer.show(SNAPSHOTS[1])
    observer.close(drops=True)
    is_free.set()
    observer.join()
    assert seen == [SNAPSHOTS[0], "end"]


def test_slow_observer_misses_snapshots_and_gets_the_newest():
    seen: list[RunProgress] = []
    is_free = threading.Event()

    def observe_slowly(snapshot: RunProgress) -> None:
        seen.append(snapshot)
        is_free.wait()

    observer = Observer(observe_slowly)
    observer.show(SNAPSHOTS[0])
    wait_until(lambda: seen)
    later = [progress_at(200.0 + i) for i in range(MAX_QUEUED + 3)]
    for snapshot in later:
        observer.show(snapshot)
    is_free.set()
    observer.close()
    observer.join()
    assert seen == [SNAPSHOTS[0], *later[3:]]


def test_blocked_observer_does_not_delay_shutdown(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr("ray_jobs.monitor.observers.LAST_SNAPSHOT_SECONDS", 0.1)
    is_free, seen = threading.Event(), list[RunProgress]()

    def block(_: RunProgress) -> None:
        is_free.wait()

    observers = [Observer(block), Observer(seen.append)]
    for observer in observers:
        observer.show(SNAPSHOTS[0])
    close_all(observers, drops=False)
    assert seen == [SNAPSHOTS[0]]
    assert "block did not stop in time; the run continues without it." in caplog.text
    is_free.set()


@pytest.mark.parametrize("error", [SystemExit(1), ValueError("no"), UnicodeEncodeError("ascii", "\u2588", 0, 1, "no")])
def test_failed_observer_is_disabled(error: BaseException, caplog: pytest.LogCaptureFixture):
    num_looks, ends = 0, list[str]()

    def fail(_: RunProgress) -> None:
        nonlocal num_looks
        num_looks += 1
        raise error

    observer = Observer(fail, end=lambda: ends.append("end"))
    observer.show(SNAPSHOTS[0])
    wait_until(lambda: "fail failed and was disabled; the run continues. The full traceback is in" in caplog.text)
    observer.show(SNAPSHOTS[1])
    observer.close()
    observer.join()
    assert (num_looks, ends) == (1, ["end"])
