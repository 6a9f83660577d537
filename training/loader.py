"""From a Ray dataset shard to Lightning: one iterator for the whole run, and the time spent waiting for it.

Every new iteration of a Ray dataset is a new execution that generates all again: an epoch's end must not close it. A
thread puts what comes into the reservoir, from which steps draw.
"""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import cast

import numpy as np
import ray.train
import torch
from ray.data import DataIterator

from training.reservoir import Drawn, Reservoir

Batch = dict[str, torch.Tensor]

LOOK_SECONDS = 0.01
"""How often a step that may still wait for new images looks whether it still may."""


def shard(name: str) -> DataIterator:
    """Return this worker's share of a dataset that `fit` was handed."""
    return cast(DataIterator, ray.train.get_dataset_shard(name))


class StreamLoader:
    """Draws batches from a reservoir that a thread fills from the stream; epochs take up where the last one stopped."""

    def __init__(
        self, shard: DataIterator, batch_size: int, reservoir: Reservoir, max_waiting_fraction: float = 0.0
    ) -> None:
        """Take this worker's shard; nothing is generated until the first batch is asked for.

        Where the reservoir leaves room, a step waits for new images up to that share of the time since the first batch,
        rather than use one beyond its least number of uses.
        """
        self.shard = shard
        self.batch_size = batch_size
        self.reservoir = reservoir
        self.max_waiting_fraction = max_waiting_fraction
        self.asked_at = 0.0
        """When the first batch was asked for, in seconds of `time.time()`."""

        self.first_batch_at: float | None = None
        """When it came."""

        self.waiting_seconds = 0.0
        """Time spent waiting for batches after the first."""

        self.num_taken = 0
        """Images that have come."""

        self.num_drawn = 0
        """Batches that were drawn."""

        self._filler: threading.Thread | None = None
        self._changed = threading.Condition()
        self._ended = self._closing = False
        self._error: BaseException | None = None

    @property
    def reuse(self) -> float:
        """How often an image that has come was used, in the mean."""
        return self.num_drawn * self.batch_size / max(1, self.num_taken)

    def __iter__(self) -> "StreamLoader":
        """Go on where the last epoch stopped."""
        return self

    def __next__(self) -> Batch:
        """Return the next batch, in memory that a GPU copies from while it works."""
        if self._filler is None:
            self.asked_at = time.time()
            self._filler = threading.Thread(target=self._fill, daemon=True)
            self._filler.start()
        asked_at = time.monotonic()
        with self._changed:
            while not self._may_draw(asked_at):
                self._changed.wait(LOOK_SECONDS)
            drawn = self.reservoir.draw(self.num_drawn, self.batch_size, self._ended)
            self.num_drawn += 1
            self._changed.notify_all()
        if self.first_batch_at is None:
            self.first_batch_at = time.time()
        else:
            self.waiting_seconds += time.monotonic() - asked_at
        return as_batch(drawn)

    def close(self) -> None:
        """End the stream's execution."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def _may_draw(self, asked_at: float) -> bool:
        """Return whether a step may take its batch now; StopIteration if none will come, or what the stream raised."""
        if self._error is not None:
            raise self._error
        if not self.reservoir.can_draw(self.batch_size, self._ended):
            if self._ended:
                raise StopIteration
            return False
        if self._ended or self.reservoir.uses.is_exact or self.first_batch_at is None:
            return True
        if self.reservoir.num_uses_owed >= self.batch_size:
            return True
        waiting_seconds = self.waiting_seconds + time.monotonic() - asked_at
        return waiting_seconds >= self.max_waiting_fraction * (time.time() - self.first_batch_at)

    def _fill(self) -> None:
        """Put all that comes into the reservoir, as it has room."""
        try:
            batches = self.shard.iter_batches(batch_size=self.batch_size, batch_format="numpy", prefetch_batches=1)
            for batch in batches:
                self._put(cast(dict[str, np.ndarray], batch))
                if self._closing:
                    return
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _put(self, batch: dict[str, np.ndarray]) -> None:
        start, num_images = 0, len(batch["index"])
        while start < num_images and not self._closing:
            with self._changed:
                while not (room := self.reservoir.make_room(num_images - start)[0]) and not self._closing:
                    self._changed.wait()
                part = slice(start, start + room)
                uses_left = np.full(room, self.reservoir.uses.most, np.int32)
                self.reservoir.add(batch["index"][part], batch["label"][part], batch["image"][part], uses_left)
                self.num_taken += room
                self._changed.notify_all()
            start += room


def as_batch(drawn: Drawn) -> Batch:
    """Return what a step is given."""
    images = drawn.images.pin_memory() if torch.cuda.is_available() else drawn.images
    columns = {"index": drawn.serials, "label": drawn.labels, "use": drawn.uses}
    return {"image": images, **{name: torch.from_numpy(column) for name, column in columns.items()}}


class HeldOutLoader:
    """Reads a small shard once and keeps it: every logical epoch is judged on the same samples."""

    def __init__(self, shard: DataIterator, batch_size: int) -> None:
        """Take this worker's shard; nothing is generated before `start`, or before its first batch is asked for."""
        self.shard = shard
        self.batch_size = batch_size
        self.reader = ThreadPoolExecutor(max_workers=1)
        self.kept: Future[list[Batch]] | None = None
        self.waiting_seconds = 0.0
        """Time spent waiting for these samples to be generated."""

    def start(self) -> Future[list[Batch]]:
        """Begin to read in the background, once: training need not wait at its first epoch's end."""
        if self.kept is None:
            self.kept = self.reader.submit(self._read)
        return self.kept

    def __iter__(self) -> Iterator[Batch]:
        """Yield all batches, the last perhaps smaller; only the first `next` waits for them, not opening it."""
        asked_at = time.monotonic()
        batches = self.start().result()
        self.waiting_seconds += time.monotonic() - asked_at
        yield from batches

    def _read(self) -> list[Batch]:
        return list(self.shard.iter_torch_batches(batch_size=self.batch_size, prefetch_batches=1, device="cpu"))
