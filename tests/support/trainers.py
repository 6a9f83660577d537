"""A fake trainer: consumes images at a given rate and reports its waiting time."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from generation.config import GenerationConfig
from generation.indices import SampleRequest
from generation.pool.service import GenerationService
from generation.pool.sizing import TrainerTimes
from generation.recipes.recipe import Recipe
from generation.stream.stream import stream_samples
from generation.work_clock import WorkClock

UP_TO_SIX = GenerationConfig(
    min_actors=0,
    max_actors=6,
    initial_actors=1,
    gpus_per_actor=0,
    cpus_per_actor=0.01,
    batch_size=8,
    painted_batch_seconds=0.8,
    max_buffered_bytes=1,  # i.e. MIN_BUFFERED_BATCHES
    idle_seconds=4,
)
"""Settings of a pool for the fake trainer; each actor makes ten images per second."""


class Trainer:
    """Consumes batches of eight images at an adjustable rate and reports its times, in its own threads."""

    def __init__(self, service: GenerationService, recipe: Recipe, config: GenerationConfig) -> None:
        """Report to the pool that a trainer will start."""
        service.report_trainer(TrainerTimes(0.0, 0.0))
        self.service = service
        self.images = stream_samples(service, recipe, config, SampleRequest.all_of(range(1_000_000)))
        self.images_per_second = 0.0
        self.num_taken = 0
        self._stopped = False
        self._waiting = WorkClock()
        self._first_batch_at = 0.0

    @contextmanager
    def running(self, images_per_second: float) -> Iterator[None]:
        """Consume images while the body runs."""
        self.images_per_second = images_per_second
        threads = [threading.Thread(target=work) for work in (self._take, self._report_times)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stopped = True
            for thread in threads:
                thread.join()

    def _take(self) -> None:
        batches = iter(self.images.iter_batches(batch_size=8, prefetch_batches=0))
        next(batches)
        self._first_batch_at = time.monotonic()
        while not self._stopped:
            time.sleep(8 / self.images_per_second if self.images_per_second else 0.1)
            if self.images_per_second:
                with self._waiting:
                    next(batches)
                self.num_taken += 8

    def _report_times(self) -> None:
        while not self._stopped:
            if self._first_batch_at:
                seconds = time.monotonic() - self._first_batch_at
                self.service.report_trainer(TrainerTimes(seconds, self._waiting.seconds))
            time.sleep(0.5)
