"""From a Ray dataset shard to Lightning: one iterator for the whole run, and the time spent waiting for it.

Every new iteration of a Ray dataset is a new execution that generates all again: an epoch's end must not close it.
"""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import cast

import ray.train
import torch
from ray.data import DataIterator

Batch = dict[str, torch.Tensor]


def shard(name: str) -> DataIterator:
    """Return this worker's share of a dataset that `fit` was handed."""
    return cast(DataIterator, ray.train.get_dataset_shard(name))


class StreamLoader:
    """Yields each batch of the stream once; epochs take up where the last one stopped."""

    def __init__(self, shard: DataIterator, batch_size: int) -> None:
        """Take this worker's shard; nothing is generated until the first batch is asked for."""
        self.shard = shard
        self.batch_size = batch_size
        self.batches: Iterator[Batch] | None = None
        self.asked_at = 0.0
        """When the first batch was asked for, in seconds of `time.time()`."""

        self.first_batch_at: float | None = None
        """When it came."""

        self.waiting_seconds = 0.0
        """Time spent waiting for batches after the first."""

    def __iter__(self) -> "StreamLoader":
        """Go on where the last epoch stopped."""
        return self

    def __next__(self) -> Batch:
        """Return the next batch, whose tensors are on the training device."""
        if self.batches is None:
            self.asked_at = time.time()
            batches = self.shard.iter_torch_batches(batch_size=self.batch_size, prefetch_batches=1, drop_last=True)
            self.batches = iter(batches)
        asked_at = time.monotonic()
        batch = next(self.batches)
        if self.first_batch_at is None:
            self.first_batch_at = time.time()
        else:
            self.waiting_seconds += time.monotonic() - asked_at
        return batch

    def close(self) -> None:
        """End the stream's execution."""
        self.batches = None


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
        return list(self.shard.iter_torch_batches(batch_size=self.batch_size, prefetch_batches=1))
