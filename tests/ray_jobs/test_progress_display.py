"""What a run's display makes of a pool that is not to be seen for a while."""

from collections.abc import Callable
from typing import Any

import pytest
from ray.serve.exceptions import RayServeException

from generation.service import GenerationCounts
from ray_jobs.config import JobConfig
from ray_jobs.progress_display import ProgressDisplay
from ray_jobs.run_progress import RunProgress
from ray_jobs.source import NoPool
from tests.support.looks import looked
from tests.support.waits import wait_until
from training.config import TrainingConfig


class FlakyPool(NoPool):
    """Cannot be seen now and then."""

    is_hidden = False
    num_hidden_looks = 0

    def counts(self) -> GenerationCounts:
        self.num_hidden_looks += self.is_hidden
        if self.is_hidden:
            raise RayServeException("the controller is starting anew")
        return super().counts()


def said(**training: Any) -> Any:
    """What training says."""
    return looked(130.0, **training).training


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
def test_what_goes_wrong_in_the_display_itself_is_not_hidden():
    def fail(_: RunProgress) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), ProgressDisplay(NoPool(JobConfig()), TrainingConfig(), fail) as display:
        display.queue.put(said(num_trained=64))
