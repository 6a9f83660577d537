"""A run's display, while the pool cannot be seen and while a watcher fails."""

import errno
import io
from collections import Counter
from collections.abc import Callable
from typing import Any, NoReturn, cast

import pytest
from ray.serve.exceptions import RayServeException

from generation.pool.keeper import GenerationCounts
from ray_jobs.config import JobConfig
from ray_jobs.job.source import NoPool
from ray_jobs.monitor.display import progress_line
from ray_jobs.monitor.monitor import ProgressDisplay
from ray_jobs.monitor.progress import RunProgress
from tests.support.looks import looked
from tests.support.waits import wait_until
from training.config import TrainingConfig
from training.progress import TrainingProgress


class FlakyPool(NoPool):
    """Cannot be seen now and then."""

    is_hidden = False
    num_hidden_looks = 0

    def counts(self) -> GenerationCounts:
        self.num_hidden_looks += self.is_hidden
        if self.is_hidden:
            raise RayServeException("the controller is starting anew")
        return super().counts()


class HungUp(io.StringIO):
    """A terminal whose other end is gone."""

    def write(self, _: str) -> NoReturn:
        raise OSError(errno.EIO, "Input/output error")


def said(**training: Any) -> Any:
    """What training says."""
    return looked(130.0, **training).training


def test_the_line_shows_of_how_many_images_batches_are_drawn_where_images_are_used_again():
    run = looked(130.0, num_trained=64, num_in_reservoir=4096, batch_overlap=0.0625)
    assert "drawn from 4,096  overlap 6%  " in progress_line(run, TrainingConfig(reuse=8))
    assert "drawn from" not in progress_line(run, TrainingConfig())


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_pool_that_cannot_be_seen_for_a_while_ends_neither_the_display_nor_the_run():
    pool, seen = FlakyPool(JobConfig()), list[RunProgress]()
    watch: Callable[[RunProgress], None] = seen.append
    with ProgressDisplay(pool, TrainingConfig(), watch) as display:
        display.queue.put(said(num_trained=64))
        wait_until(lambda: any(look.training for look in seen))
        pool.is_hidden = True
        display.queue.put(said(num_trained=128, epoch=1))
        display.queue.put(said(num_trained=256, epoch=2))
        wait_until(lambda: pool.num_hidden_looks >= 3)
        assert display.epochs == []
        pool.is_hidden = False
        wait_until(lambda: len(display.epochs) == 2)
        pool.is_hidden = True
        display.queue.put(said(num_trained=384, epoch=2))
    ends = [look.training.num_trained for look in display.epochs if look.training]
    assert ends == [128, 256]
    last = display.last().training
    assert last is not None
    assert last.num_trained == 384  # though the pool was hidden to the end


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("error", [UnicodeEncodeError("ascii", "größe", 2, 4, "ordinal not in range"), SystemExit(1)])
def test_a_watcher_that_fails_is_left_out_and_ends_nothing(error: BaseException, caplog: pytest.LogCaptureFixture):
    num_looks, seen = Counter[str](), list[RunProgress]()

    def fail(_: RunProgress) -> None:
        num_looks["fail"] += 1
        raise error

    watch: Callable[[RunProgress], None] = seen.append
    with ProgressDisplay(NoPool(JobConfig()), TrainingConfig(), fail, watch) as display:
        display.queue.put(said(num_trained=64))
        wait_until(lambda: any(look.training for look in seen))
        display.queue.put(said(num_trained=128))
    assert cast(TrainingProgress, display.last().training).num_trained == 128
    assert num_looks["fail"] == 1
    assert "fail failed and is switched off; the run goes on. The whole trace is in" in caplog.text


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_screen_that_cannot_be_written_to_ends_no_run(caplog: pytest.LogCaptureFixture):
    with ProgressDisplay(NoPool(JobConfig()), TrainingConfig()) as display:
        display.line.console.file = HungUp()
        display.queue.put(said(num_trained=64))
        wait_until(lambda: "ProgressLine failed and is switched off; the run goes on." in caplog.text)
        display.queue.put(said(num_trained=128))
    assert cast(TrainingProgress, display.last().training).num_trained == 128
