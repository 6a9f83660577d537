"""The monitor of a run with an unresponsive pool, a failing observer and a blocked terminal."""

import errno
import io
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, cast

import pytest
import ray.exceptions
from ray.serve.exceptions import RayServeException
from rich.console import Console

from generation.pool.keeper import GenerationCounts
from generation.pool.service import GenerationService
from generation.pool.sizing import TrainerTimes
from generation.recipes.recipe import Recipe
from ray_jobs.job.listeners import listeners_of
from ray_jobs.monitor.display import ProgressLine, progress_line
from ray_jobs.monitor.inbox import Sender, open_inbox
from ray_jobs.monitor.monitor import POLL_SECONDS, RunMonitor
from ray_jobs.monitor.observers import Observer
from ray_jobs.monitor.progress import RunProgress
from tests.support.fits import FORTY_STEPS, train_here
from tests.support.progress import progress_at
from tests.support.waits import wait_until
from training.config import TrainingConfig
from training.progress import TrainingProgress


class FlakyPool:
    """A pool that is unresponsive at times and records its trainer's reports."""

    def __init__(self) -> None:
        self.is_hidden = False
        self.num_hidden_looks = 0
        self.times: list[TrainerTimes] = []

    def counts(self) -> GenerationCounts:
        self.num_hidden_looks += self.is_hidden
        if self.is_hidden:
            raise RayServeException("the controller is restarting")
        return GenerationCounts()

    def num_actors(self) -> int:
        return 2

    def num_pending(self) -> int:
        return 0

    def report_trainer(self, trainer: TrainerTimes) -> None:
        self.times.append(trainer)


class HungUp(io.StringIO):
    """A terminal that was closed."""

    def write(self, _: str) -> NoReturn:
        raise OSError(errno.EIO, "Input/output error")


class Blocked(io.StringIO):
    """A terminal that blocks until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.is_asked, self.is_free = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        self.is_asked.set()
        self.is_free.wait()
        return len(text)


def reported(**training: Any) -> Any:
    """A report of training."""
    return progress_at(130.0, **training).training


def test_progress_line_shows_the_reservoir_when_images_are_reused():
    run = progress_at(130.0, num_trained=64, num_in_reservoir=4096, batch_overlap=0.0625)
    assert "drawn from 4,096  overlap 6%  " in progress_line(run, TrainingConfig(reuse=8))
    assert "drawn from" not in progress_line(run, TrainingConfig())


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_unresponsive_pool_ends_neither_monitor_nor_run():
    pool, seen = FlakyPool(), list[RunProgress]()
    observe: Callable[[RunProgress], None] = seen.append
    with RunMonitor(cast(GenerationService, pool), Observer(observe)) as monitor:
        monitor.report(reported(num_trained=64))
        wait_until(lambda: any(snapshot.training for snapshot in seen))
        pool.is_hidden = True
        monitor.report(reported(num_trained=128, epoch=1))
        monitor.report(reported(num_trained=256, epoch=2))
        wait_until(lambda: pool.num_hidden_looks >= 3)
        assert monitor.epochs == []
        pool.is_hidden = False
        wait_until(lambda: len(monitor.epochs) == 2)
        pool.is_hidden = True
        monitor.report(reported(num_trained=384, epoch=2))
    ends = [snapshot.training.num_trained for snapshot in monitor.epochs if snapshot.training]
    assert ends == [128, 256]
    last = monitor.last().training
    assert last is not None
    assert last.num_trained == 384  # although the pool was unresponsive at the end


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_broken_terminal_does_not_end_the_run(caplog: pytest.LogCaptureFixture):
    line = ProgressLine(TrainingConfig())
    line.console.file = HungUp()
    with RunMonitor(None, Observer(line.observe, line.close)) as monitor:
        monitor.report(reported(num_trained=64))
        wait_until(lambda: "ProgressLine failed and was disabled; the run continues." in caplog.text)
        monitor.report(reported(num_trained=128))
    assert cast(TrainingProgress, monitor.last().training).num_trained == 128


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_progress_line_is_removed_after_an_error():
    line = ProgressLine(TrainingConfig())
    line.console = line.live.console = Console(file=io.StringIO(), force_terminal=True)

    def fail_while_the_line_is_shown() -> NoReturn:
        with RunMonitor(None, Observer(line.observe, line.close)) as monitor:
            monitor.report(reported(num_trained=64))
            wait_until(lambda: line.live.is_started)
            raise ValueError("training failed")

    with pytest.raises(ValueError, match="training failed"):
        fail_while_the_line_is_shown()
    assert not line.live.is_started
    time.sleep(3 * POLL_SECONDS)  # another snapshot would restart it
    assert not line.live.is_started


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_report_stays_in_the_inbox_until_it_is_read():
    inbox = open_inbox()
    send = Sender(inbox)
    assert ray.get(inbox.read.remote(0, 0.0)) == []
    late = inbox.read.remote(0, 60.0)
    send(reported(num_trained=64))
    assert [report.num_trained for report in ray.get(late)] == [64]  # as if it had arrived too late
    send(reported(num_trained=128))
    assert [report.num_trained for report in ray.get(inbox.read.remote(0, 0.0))] == [64, 128]
    assert [report.num_trained for report in ray.get(inbox.read.remote(1, 0.0))] == [128]
    assert ray.get(inbox.read.remote(2, 0.0)) == []
    ray.kill(inbox)


@pytest.mark.ray
def test_training_continues_while_the_terminal_blocks_and_an_observer_fails(
    painted_pool: GenerationService, painted: Recipe, tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("ray_jobs.monitor.observers.LAST_SNAPSHOT_SECONDS", 0.1)
    pool, seen, line, terminal = FlakyPool(), list[RunProgress](), ProgressLine(FORTY_STEPS), Blocked()
    line.console.file = terminal

    def fail(_: RunProgress) -> None:
        raise ValueError("no such metric")

    observe: Callable[[RunProgress], None] = seen.append
    observers = Observer(line.observe, line.close), Observer(fail), Observer(observe)
    with RunMonitor(cast(GenerationService, pool), *observers) as monitor:
        listeners = (*listeners_of(cast(GenerationService, pool)), monitor.report)
        train_here(painted_pool, painted, FORTY_STEPS, tmp_path, listeners=listeners)
    assert terminal.is_asked.is_set()
    assert not terminal.is_free.is_set()
    assert cast(TrainingProgress, monitor.last().training).num_trained == FORTY_STEPS.num_trained
    assert cast(TrainingProgress, seen[-1].training).num_trained == FORTY_STEPS.num_trained
    assert pool.times[0] == TrainerTimes(0.0, 0.0)
    assert pool.times[-1].seconds > 0
    assert len(pool.times) >= 3  # at least at each epoch's end
    assert caplog.text.count("fail failed and was disabled") == 1
    assert "ProgressLine did not stop in time; the run continues without it." in caplog.text
    terminal.is_free.set()
