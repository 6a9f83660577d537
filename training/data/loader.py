"""Data loaders from Ray dataset shards to Lightning. Each uses one iterator for the whole run, and counts waiting time.

A new iteration over a Ray dataset would generate all samples again, so the iterator stays open when an epoch ends. One
thread adds arriving images to the reservoir; another thread draws batches from the reservoir.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import ray.train
import torch
from ray.data import DataIterator
from torch.nn import functional

from generation.sample import PassBatch
from generation.work_clock import WorkClock
from training.data.consumption import Consumption, Ledger, Share
from training.data.reservoir import Batch, Reservoir
from training.data.variety import Variety

POLL_SECONDS = 0.01
"""Interval of checks whether training may wait longer for new images."""

IMAGES_AT_ONCE = 32
"""Images that are added to the reservoir, and encoded if configured, under one lock; it blocks draws meanwhile."""

OPTIONAL_COLUMNS = {"extent", "score", "soft_label"}
"""Columns that some sources have, which the reservoir keeps."""


def shard(name: str) -> DataIterator:
    """Return this worker's shard of a dataset that was passed to `fit`."""
    return cast(DataIterator, ray.train.get_dataset_shard(name))


@dataclass(frozen=True)
class Pace:
    """Settings that decide when images are added to a reservoir and when batches are drawn."""

    batch_size: int
    max_waiting_fraction: float = 0.0
    """Limit on waiting for new images, as a fraction of the time since the first batch. At the limit, images are used
    more often than the minimum instead. Only for inexact reuse.
    """

    in_order: bool = False
    """Add only the images that the next batch needs, which makes batches independent of timing."""

    num_drawn_before: int = 0
    """Number of batches drawn before the run was resumed."""


class EndedTooSoonError(RuntimeError):
    """The samples or the training steps ended before the run was complete."""


class StreamLoader:
    """Iterator over batches from a reservoir. One thread fills the reservoir from the stream; another draws batches.

    Each epoch continues where the previous epoch stopped.
    """

    def __init__(
        self, shard: DataIterator | None, share: Share, reservoir: Reservoir, pace: Pace, num_images: int | None = None
    ) -> None:
        """Prepare to load this worker's `share` from `shard`, which is None if the share is empty.

        Nothing is generated before `start` or the request for the first batch. `num_images` is the number of images in
        a set that is repeated, and None if no image is repeated.
        """
        self.shard = shard
        self.reservoir = reservoir
        self.pace = pace
        self.ledger = Ledger(share, reservoir.uses.least, reservoir.uses.most)
        self.num_expected = len(share.serials)
        self.requested_at = 0.0
        """Unix time of the request for the first batch, in seconds."""

        self.first_batch_at: float | None = None
        """Unix time when the first batch was ready, in seconds; None before."""

        self.num_taken = 0
        """Number of images received so far."""

        self.variety = Variety(num_images)
        """Overlap between drawn batches, and their number of classes."""

        self.num_given = 0
        """Number of batches returned to training."""

        self.threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._ready: deque[Batch | BaseException] = deque()
        """The next batch, or the exception that ends the iteration."""

        self._waiting = WorkClock()
        self._ended = self.num_expected == 0
        self._closing = False

    @property
    def reuse(self) -> float:
        """Mean number of uses per received image."""
        return self.num_given * self.pace.batch_size / max(1, self.num_taken)

    @property
    def waiting_seconds(self) -> float:
        """Time spent waiting for batches after the first, including a wait in progress."""
        return self._waiting.seconds if self.first_batch_at else 0.0

    def __iter__(self) -> "StreamLoader":
        return self

    def __next__(self) -> Batch:
        """Return the next batch, in pinned memory if there is a GPU."""
        self.requested_at = self.requested_at or time.time()
        self.start()
        with self._changed:
            with self._waiting:
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._ready)
            batch = self._ready[0]
            if isinstance(batch, BaseException):
                raise batch
            self._ready.popleft()
            self.num_given += 1
            if self.first_batch_at is None:
                self._waiting.take()
                self.first_batch_at = time.time()
            self._changed.notify_all()
        return batch

    def start(self) -> None:
        """Start the stream and both threads, once."""
        if self.threads:
            return
        loops = (self._fill, self._draw_ahead)
        self.threads = [threading.Thread(target=self._run_thread, args=(loop,), daemon=True) for loop in loops]
        for thread in self.threads:
            thread.start()

    def commit(self, serials: np.ndarray) -> None:
        """Record one use of each serial by a completed optimization step."""
        with self._changed:
            self.ledger.use(serials)

    def state(self) -> Consumption:
        """Return the committed uses of this worker's share."""
        with self._changed:
            return self.ledger.state()

    def close(self) -> None:
        """Stop both threads, which also ends the stream's execution."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def _run_thread(self, work: Callable[[], None]) -> None:
        """Run a thread's work. If the work raises an exception, `__next__` raises it again."""
        try:
            work()
        except BaseException as error:
            with self._changed:
                self._ready.appendleft(error)
                self._changed.notify_all()

    def _draw_ahead(self) -> None:
        """Keep the next batch ready, until the samples are used up or the loader is closed."""
        num_drawn, batch_size = self.pace.num_drawn_before, self.pace.batch_size
        while not self._closing:
            with self._changed:
                if self._ready:
                    self._changed.wait()
                    continue
                if self._ended and not self.reservoir.can_draw(batch_size, is_last=True):
                    raise StopIteration
                if not self._may_draw():
                    self._changed.wait(POLL_SECONDS if self._waiting.is_running else None)
                    continue
                batch = self.reservoir.draw(num_drawn, batch_size, self._ended)
                self.variety.add(batch["serial"].numpy(), batch["label"].numpy())
                self._ready.append(batch | {"image": pinned(batch["image"])})
                num_drawn += 1
                self._changed.notify_all()

    def _may_draw(self) -> bool:
        """Return whether to draw a batch now, or else to wait for new images."""
        if not self.reservoir.can_draw(self.pace.batch_size, self._ended):
            return False
        if self._ended or self.reservoir.uses.is_exact or self.first_batch_at is None:
            return True
        if self.reservoir.num_uses_owed >= self.pace.batch_size:
            return True
        return self.waiting_seconds >= self.pace.max_waiting_fraction * (time.time() - self.first_batch_at)

    def _fill(self) -> None:
        """Add arriving images to the reservoir, waiting for room, until the stream ends or the loader is closed."""
        if self.shard is None:
            return
        for rows in self.shard.iter_batches(batch_size=IMAGES_AT_ONCE, batch_format="numpy", prefetch_batches=1):
            self._add(cast(PassBatch, rows))
            if self._closing:
                return
        if not self._ended:
            raise EndedTooSoonError(f"The stream ended after {self.num_taken} of {self.num_expected} samples.")

    def _add(self, rows: PassBatch) -> None:
        start, num_images = 0, len(rows["serial"])
        while start < num_images and not self._closing:
            with self._changed:
                while not (room := self._make_room(rows["serial"][start:])) and not self._closing:
                    self._changed.wait()
                part = slice(start, start + room)
                serials = rows["serial"][part]
                self.ledger.take(serials)
                uses_left = self.ledger.uses_left(serials)
                columns = cast(dict[str, np.ndarray], rows)
                others = {name: columns[name][part] for name in OPTIONAL_COLUMNS & columns.keys()}
                self.reservoir.add(serials, rows["label"][part], rows["image"][part], uses_left, others)
                self.num_taken += room
                self._ended = self.num_taken >= self.num_expected
                self._changed.notify_all()
            start += room

    def _make_room(self, serials: np.ndarray) -> int:
        """Return how many of these images may be added now, after evicting others if needed."""
        wanted = len(serials)
        if self.pace.in_order:
            wanted = min(wanted, self._num_lacking(serials))
        room, evicted = self.reservoir.make_room(wanted)
        self.ledger.drop(evicted)
        return room

    def _num_lacking(self, serials: np.ndarray) -> int:
        """Return how many images the next batch still needs; `serials` are the images to come, in order."""
        missing = self.reservoir.uses.needed(self.pace.batch_size) - self.reservoir.num_uses_left
        num_uses = np.cumsum(self.ledger.uses_left(serials))
        num_for_uses = int(np.searchsorted(num_uses, missing)) + 1 if missing > 0 else 0
        return max(num_for_uses, self.reservoir.num_missing)


def pinned(images: torch.Tensor) -> torch.Tensor:
    """Return the images; if there is a GPU, in pinned memory, which allows asynchronous copies."""
    return images.pin_memory() if torch.cuda.is_available() else images


def padded(images: torch.Tensor, size: int) -> torch.Tensor:
    """Return square images uint8 [N, H, H, 3] padded with black at the bottom and right to [N, size, size, 3]."""
    missing = size - images.shape[1]
    return functional.pad(images, (0, 0, 0, missing, 0, missing)) if missing else images


class MixedLoader:
    """Iterator over batches of generated images and, if configured, real images; each domain has its own loader."""

    def __init__(self, loaders: Mapping[str, StreamLoader]) -> None:
        self.loaders = loaders
        """Loaders by domain. The rows of a batch follow the order of the domains."""

        self.main = loaders["synthetic"]
        """Loader of the generated images. Reuse and the time of the first batch are read from this loader."""

    @property
    def waiting_seconds(self) -> float:
        """Time spent waiting for batches after the first, including a wait in progress."""
        return sum(loader.waiting_seconds for loader in self.loaders.values())

    def __iter__(self) -> "MixedLoader":
        return self

    def __next__(self) -> Batch:
        """Return the next batch, with the domain of each row in `is_real`, bool [B]."""
        parts = [
            {**part, "is_real": torch.full((len(part["label"]),), domain == "real")}
            for domain, part in [(domain, next(loader)) for domain, loader in self.loaders.items()]
        ]
        if len(parts) == 1:
            return parts[0]
        size = max(part["image"].shape[1] for part in parts)
        parts = [part | {"image": padded(part["image"], size)} for part in parts]
        soft_label = next((part["soft_label"] for part in parts if "soft_label" in part), None)
        if soft_label is not None:  # real images have none, and add nothing to that loss
            zeros = torch.zeros_like(soft_label[:1])
            parts = [{"soft_label": zeros.expand(len(part["label"]), -1)} | part for part in parts]
        batch = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return batch | {"image": pinned(batch["image"])}

    def start(self) -> None:
        """Start all streams."""
        for loader in self.loaders.values():
            loader.start()

    def close(self) -> None:
        """Stop all threads, which also ends the streams' executions."""
        for loader in self.loaders.values():
            loader.close()

    def state_dict(self) -> dict[str, Any]:
        """Return an empty dict. The method makes Lightning resume within epochs; `training.run_state` has the state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Ignore the empty state."""


class HeldOutLoader:
    """Loader of held-out samples. It reads them once and keeps them in memory, so each epoch uses the same samples."""

    def __init__(self, shard: DataIterator, batch_size: int) -> None:
        """Prepare to load this worker's shard. Nothing is generated before `start` or the first request for a batch."""
        self.shard = shard
        self.batch_size = batch_size
        self.reader = ThreadPoolExecutor(max_workers=1)
        self.batches: Future[list[Batch]] | None = None
        self._waiting = WorkClock()

    @property
    def waiting_seconds(self) -> float:
        """Time spent waiting for these samples, including a wait in progress."""
        return self._waiting.seconds

    def start(self) -> Future[list[Batch]]:
        """Start reading in the background unless it has started; this avoids a wait at the end of the first epoch."""
        if self.batches is None:
            self.batches = self.reader.submit(self._read)
        return self.batches

    def __iter__(self) -> Iterator[Batch]:
        """Yield all batches; the last batch may be smaller. The first `next` waits for the samples; `iter` does not."""
        with self._waiting:
            batches = self.start().result()
        yield from batches

    def _read(self) -> list[Batch]:
        return list(self.shard.iter_torch_batches(batch_size=self.batch_size, prefetch_batches=1, device="cpu"))
