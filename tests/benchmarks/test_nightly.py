import os
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial

import pytest

from benchmarks import nightly
from benchmarks.nightly import BenchmarkResult, CrashError, Line, Ratios, in_own_process, lines_of

FLOORS = {"brush": 0.5, "roller": 2.0}


def lines(*tries: Ratios, crash: str = "") -> list[Line]:
    return list(lines_of("painting", BenchmarkResult(tries, crash), FLOORS))


def test_ratios_at_their_floors_are_met_in_one_try():
    assert lines({"brush": 0.5, "roller": 2.1}) == [
        Line("painting: brush", 0.5, (0.5,), "met", is_failure=False),
        Line("painting: roller", 2.0, (2.1,), "met", is_failure=False),
    ]


def test_ratio_fails_if_both_tries_are_below_its_floor():
    assert lines({"brush": 0.4, "roller": 2.0}, {"brush": 0.49, "roller": 2.0}) == [
        Line("painting: brush", 0.5, (0.4, 0.49), "missed twice", is_failure=True),
        Line("painting: roller", 2.0, (2.0, 2.0), "met", is_failure=False),
    ]


def test_two_ratios_that_miss_once_do_not_fail():
    both = lines({"brush": 0.4, "roller": 2.0}, {"brush": 0.5, "roller": 1.9})
    assert [line.verdict for line in both] == ["missed once", "missed once"]
    assert not any(line.is_failure for line in both)


def test_crash_in_the_first_try_fails_without_ratios():
    assert lines(crash="exit status 1") == [
        Line("painting", None, (), "crashed at try 1, exit status 1", is_failure=True)
    ]


def test_crash_in_the_second_try_fails_and_keeps_the_first_ratios():
    assert lines({"brush": 0.4, "roller": 2.0}, crash="exit status 1") == [
        Line("painting: brush", 0.5, (0.4,), "missed once", is_failure=False),
        Line("painting: roller", 2.0, (2.0,), "met", is_failure=False),
        Line("painting", None, (), "crashed at try 2, exit status 1", is_failure=True),
    ]


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run benchmarks in this process."""
    monkeypatch.setattr(nightly, "in_own_process", lambda benchmark: benchmark())


def one_by_one(*tries: Ratios | CrashError) -> partial[Ratios]:
    """Return a benchmark whose runs return or raise the given values in order."""

    def run(ends: Iterator[Ratios | CrashError]) -> Ratios:
        end = next(ends)
        if isinstance(end, CrashError):
            raise end
        return end

    return partial(run, iter(tries))


MET, MISSED, CRASH = {"brush": 0.5, "roller": 2.0}, {"brush": 0.4, "roller": 2.0}, CrashError("exit status 1")


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("ends", "outcome"),
    [
        ([MET], BenchmarkResult((MET,))),
        ([MISSED, MET], BenchmarkResult((MISSED, MET))),
        ([MISSED, MISSED], BenchmarkResult((MISSED, MISSED))),
        ([CRASH], BenchmarkResult((), "exit status 1")),
        ([MISSED, CRASH], BenchmarkResult((MISSED,), "exit status 1")),
    ],
)
def test_second_try_follows_a_miss_and_never_a_crash(ends, outcome: BenchmarkResult):
    assert nightly.try_twice("painting", one_by_one(*ends), FLOORS) == outcome


@pytest.mark.usefixtures("in_this_process")
def test_exit_message_names_ratios_missed_twice_and_crashes(monkeypatch, capsys):
    monkeypatch.setattr(nightly, "read_floors", lambda: {"painting": FLOORS, "sanding": {"belt": 1.0}})
    benchmarks = {"painting": one_by_one(MISSED, MISSED), "sanding": one_by_one(CRASH)}
    monkeypatch.setattr(nightly, "BENCHMARKS", benchmarks)
    with pytest.raises(SystemExit) as ended:
        nightly.main()
    assert ended.value.code == "painting: brush: missed twice\nsanding: crashed at try 1, exit status 1"
    row = next(line for line in capsys.readouterr().out.splitlines() if "painting: brush" in line)
    cells = [cell.strip() for cell in row.split("│")[1:-1]]
    assert cells == ["painting: brush", "0.50", "0.400", "0.400", "missed twice"]


@pytest.mark.usefixtures("in_this_process")
def test_miss_then_pass_exits_with_status_0(monkeypatch):
    monkeypatch.setattr(nightly, "read_floors", lambda: {"painting": FLOORS})
    monkeypatch.setattr(nightly, "BENCHMARKS", {"painting": one_by_one(MISSED, MET)})
    nightly.main()


def test_floors_of_an_unknown_benchmark_are_refused_at_start(monkeypatch, capsys):
    monkeypatch.setattr(nightly, "read_floors", lambda: {"paintng": FLOORS})
    monkeypatch.setattr(nightly, "BENCHMARKS", {"painting": one_by_one()})
    with pytest.raises(SystemExit) as ended:
        nightly.main()
    assert ended.value.code == 2
    assert "the benchmark 'painting' has no floor; there is no benchmark 'paintng'" in capsys.readouterr().err


def pid() -> Ratios:
    return {"pid": os.getpid()}


def lose_a_sample() -> Ratios:
    sys.exit("The stream delivered 639 of 640 samples.")


def end_by_signal() -> Ratios:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def hang() -> Ratios:
    time.sleep(60)
    return {}


@pytest.mark.nightly
def test_benchmark_process_that_ends_without_ratios_is_a_crash():
    assert in_own_process(pid)["pid"] != os.getpid()
    with pytest.raises(CrashError, match="exit status 1"):
        in_own_process(lose_a_sample)
    with pytest.raises(CrashError, match="exit status -9"):
        in_own_process(end_by_signal)
    with pytest.raises(CrashError, match=r"not finished after 0\.5 s"):
        in_own_process(hang, timeout_seconds=0.5)
