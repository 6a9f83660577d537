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
from tests.ray_jobs.looks import looked
from tests.waits import wait_until
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
        display.queue.put(said(num_trained=128))
        wait_until(lambda: pool.num_hidden_looks >= 2)
        num_seen = len(seen)
        pool.is_hidden = False
        wait_until(lambda: len(seen) > num_seen)
        display.queue.put(said(num_trained=192))
    last = display.last().training
    assert last is not None
    assert last.num_trained == 192
