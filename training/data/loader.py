"""From a Ray dataset shard to Lightning: one iterator for the whole run, and the time spent waiting for it.

Every new iteration of a Ray dataset is a new execution that generates all again: an epoch's end must not close it. A
thread puts what comes into the reservoir, from which steps draw.
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
"""How often a thread that may still wait for new images looks whether it still may."""

IMAGES_AT_ONCE = 32
"""Images that are put into the reservoir, perhaps encoded, while nothing is drawn from it."""


def shard(name: str) -> DataIterator:
    """Return this worker's share of a dataset that `fit` was handed."""
    return cast(DataIterator, ray.train.get_dataset_shard(name))


@dataclass(frozen=True)
class Pace:
    """When images are put into a reservoir, and drawn."""

    batch_size: int
    max_waiting_fraction: float = 0.0
    """Where a reservoir leaves room, training waits for new images up to this share of the time since the first batch,
    rather than use one beyond its least number of uses.
    """

    in_order: bool = False
    """Whether no more images are put than the next batch needs: which one it has then depends on no clock."""

    num_drawn_before: int = 0
    """Batches that were drawn before the run was taken up again."""


class EndedTooSoonError(RuntimeError):
    """Samples or steps came to their end before the run did."""


class StreamLoader:
    """Batches from a reservoir, which one thread fills from the stream and another draws from, a batch ahead.

    Epochs take up where the last one stopped.
    """

    def __init__(
        self, shard: DataIterator | None, share: Share, reservoir: Reservoir, pace: Pace, num_images: int | None = None
    ) -> None:
        """Take this worker's share and what yields it, None for an empty one.

        Nothing is generated until the first batch is asked for. `num_images` are in a pass, if the set comes again.
        """
        self.shard = shard
        self.reservoir = reservoir
        self.pace = pace
        self.ledger = Ledger(share, reservoir.uses.least, reservoir.uses.most)
        self.num_expected = len(share.serials)
        self.requested_at = 0.0
        """When the first batch was asked for, in seconds of `time.time()`."""

        self.first_batch_at: float | None = None
        """When it came."""

        self.num_taken = 0
        """Images that have come."""

        self.variety = Variety(num_images)
        """Of the batches that were drawn."""

        self.num_given = 0
        """Batches that training has got."""

        self.threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._ready: deque[Batch | BaseException] = deque()
        """The next batch, or what all batches end with."""

        self._waiting = WorkClock()
        self._ended = self.num_expected == 0
        self._closing = False

    @property
    def reuse(self) -> float:
        """How often an image that has come was used, in the mean."""
        return self.num_given * self.pace.batch_size / max(1, self.num_taken)

    @property
    def waiting_seconds(self) -> float:
        """Time spent waiting for batches after the first, a wait that is not over included."""
        return self._waiting.seconds if self.first_batch_at else 0.0

    def __iter__(self) -> "StreamLoader":
        return self

    def __next__(self) -> Batch:
        """Return the next batch, in memory that a GPU copies from while it works."""
        if not self.threads:
            self.requested_at = time.time()
            works = (self._fill, self._draw_ahead)
            self.threads = [threading.Thread(target=self._run_thread, args=(work,), daemon=True) for work in works]
            for thread in self.threads:
                thread.start()
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

    def commit(self, serials: np.ndarray) -> None:
        """Note that an optimisation step has used each of these once."""
        with self._changed:
            self.ledger.use(serials)

    def state(self) -> Consumption:
        """Return what this worker has used of its share, as far as that is committed."""
        with self._changed:
            return self.ledger.state()

    def close(self) -> None:
        """End both threads, and with them the stream's execution."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def _run_thread(self, work: Callable[[], None]) -> None:
        """Do a thread's work; whatever it ends with comes where batches are asked for."""
        try:
            work()
        except BaseException as error:
            with self._changed:
                self._ready.appendleft(error)
                self._changed.notify_all()

    def _draw_ahead(self) -> None:
        """Have a batch ready before it is asked for."""
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
        """Return whether a batch may be drawn now, or new images should be waited for."""
        if not self.reservoir.can_draw(self.pace.batch_size, self._ended):
            return False
        if self._ended or self.reservoir.uses.is_exact or self.first_batch_at is None:
            return True
        if self.reservoir.num_uses_owed >= self.pace.batch_size:
            return True
        return self.waiting_seconds >= self.pace.max_waiting_fraction * (time.time() - self.first_batch_at)

    def _fill(self) -> None:
        """Put all that comes into the reservoir, as it has room."""
        if self.shard is None:
            return
        for rows in self.shard.iter_batches(batch_size=IMAGES_AT_ONCE, batch_format="numpy", prefetch_batches=1):
            self._put(cast(PassBatch, rows))
            if self._closing:
                return
        if not self._ended:
            raise EndedTooSoonError(f"The stream ended after {self.num_taken} of {self.num_expected} samples.")

    def _put(self, rows: PassBatch) -> None:
        start, num_images = 0, len(rows["serial"])
        while start < num_images and not self._closing:
            with self._changed:
                while not (room := self._make_room(rows["serial"][start:])) and not self._closing:
                    self._changed.wait()
                part = slice(start, start + room)
                serials = rows["serial"][part]
                self.ledger.take(serials)
                uses_left = self.ledger.uses_left(serials)
                extents = rows["extent"][part] if "extent" in rows else None
                self.reservoir.add(serials, rows["label"][part], rows["image"][part], uses_left, extents)
                self.num_taken += room
                self._ended = self.num_taken >= self.num_expected
                self._changed.notify_all()
            start += room

    def _make_room(self, serials: np.ndarray) -> int:
        """Return how many of these may be put now."""
        wanted = len(serials)
        if self.pace.in_order:
            wanted = min(wanted, self._num_lacking(serials))
        room, evicted = self.reservoir.make_room(wanted)
        self.ledger.drop(evicted)
        return room

    def _num_lacking(self, serials: np.ndarray) -> int:
        """Return how many of these the next batch needs."""
        lacking = self.reservoir.uses.needed(self.pace.batch_size) - self.reservoir.num_uses_left
        num_uses = np.cumsum(self.ledger.uses_left(serials))
        num_for_uses = int(np.searchsorted(num_uses, lacking)) + 1 if lacking > 0 else 0
        return max(num_for_uses, self.reservoir.num_missing)


def pinned(images: torch.Tensor) -> torch.Tensor:
    """Return images in memory that a GPU copies from while it works, where there is a GPU."""
    return images.pin_memory() if torch.cuda.is_available() else images


def padded(images: torch.Tensor, size: int) -> torch.Tensor:
    """Return square images uint8 [N, H, H, 3] in the corners of black ones, [N, size, size, 3]."""
    lacking = size - images.shape[1]
    return functional.pad(images, (0, 0, 0, lacking, 0, lacking)) if lacking else images


class MixedLoader:
    """Batches of generated images, and with them real ones where there are: a part of each from a loader of its own."""

    def __init__(self, loaders: Mapping[str, StreamLoader]) -> None:
        self.loaders = loaders
        """Of each domain; rows of a batch come in their order."""

        self.main = loaders["synthetic"]
        """That of generated images, which tells how reuse goes, and when the first batch came."""

    @property
    def waiting_seconds(self) -> float:
        """Time spent waiting for batches after the first, a wait that is not over included."""
        return sum(loader.waiting_seconds for loader in self.loaders.values())

    def __iter__(self) -> "MixedLoader":
        return self

    def __next__(self) -> Batch:
        """Return the next batch, with the domain of each row: bool `is_real` [B]."""
        parts = [
            {**part, "is_real": torch.full((len(part["label"]),), domain == "real")}
            for domain, part in [(domain, next(loader)) for domain, loader in self.loaders.items()]
        ]
        if len(parts) == 1:
            return parts[0]
        size = max(part["image"].shape[1] for part in parts)
        parts = [part | {"image": padded(part["image"], size)} for part in parts]
        batch = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return batch | {"image": pinned(batch["image"])}

    def close(self) -> None:
        """End all threads, and the streams' executions."""
        for loader in self.loaders.values():
            loader.close()

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: `training.run_state` keeps what was used. Tells Lightning that epochs may be taken up."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing."""


class HeldOutLoader:
    """Reads a small shard once and keeps it: every logical epoch is judged on the same samples."""

    def __init__(self, shard: DataIterator, batch_size: int) -> None:
        """Take this worker's shard; nothing is generated before `start`, or before its first batch is asked for."""
        self.shard = shard
        self.batch_size = batch_size
        self.reader = ThreadPoolExecutor(max_workers=1)
        self.kept: Future[list[Batch]] | None = None
        self._waiting = WorkClock()

    @property
    def waiting_seconds(self) -> float:
        """Time spent waiting for these samples to be generated, a wait that is not over included."""
        return self._waiting.seconds

    def start(self) -> Future[list[Batch]]:
        """Begin to read in the background, once: training need not wait at its first epoch's end."""
        if self.kept is None:
            self.kept = self.reader.submit(self._read)
        return self.kept

    def __iter__(self) -> Iterator[Batch]:
        """Yield all batches, the last perhaps smaller; only the first `next` waits for them, not opening it."""
        with self._waiting:
            batches = self.start().result()
        yield from batches

    def _read(self) -> list[Batch]:
        return list(self.shard.iter_torch_batches(batch_size=self.batch_size, prefetch_batches=1, device="cpu"))
