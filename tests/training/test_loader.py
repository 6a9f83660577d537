import time
from collections.abc import Iterator

import pytest
import torch

from training.loader import HeldOutLoader, StreamLoader


class CountingShard:
    """Stands for Ray's iterator: hands out numbered batches and counts how often it was opened."""

    def __init__(self, num_batches: int) -> None:
        self.num_batches = num_batches
        self.num_opened = 0
        self.num_handed_out = 0

    def iter_torch_batches(self, **_: object) -> Iterator[dict[str, torch.Tensor]]:
        self.num_opened += 1
        return (self.batch(i) for i in range(self.num_batches))

    def batch(self, i: int) -> dict[str, torch.Tensor]:
        self.num_handed_out += 1
        return {"index": torch.tensor([i])}


def test_epochs_take_up_where_the_last_one_stopped_in_one_execution():
    shard = CountingShard(6)
    loader = StreamLoader(shard, 1)  # pyright: ignore[reportArgumentType]
    epochs = []
    for _ in range(3):
        batches = iter(loader)
        epochs.append([next(batches)["index"].item() for _ in range(2)])
    assert epochs == [[0, 1], [2, 3], [4, 5]]
    assert shard.num_opened == 1
    with pytest.raises(StopIteration):
        next(iter(loader))


class SleepingShard(CountingShard):
    """Takes 50 ms for each batch."""

    def iter_torch_batches(self, **settings: object) -> Iterator[dict[str, torch.Tensor]]:
        for batch in super().iter_torch_batches(**settings):
            time.sleep(0.05)
            yield batch


def test_waiting_is_counted_from_the_second_batch_on_and_work_is_not():
    loader = StreamLoader(SleepingShard(4), 1)  # pyright: ignore[reportArgumentType]
    next(loader)
    assert loader.waiting_seconds == 0.0
    started_at = time.monotonic()
    next(loader)
    next(loader)
    waited = time.monotonic() - started_at
    time.sleep(0.1)  # a training step
    assert 0.1 <= loader.waiting_seconds <= waited


def test_held_out_samples_are_generated_once_and_seen_in_every_epoch():
    shard = CountingShard(3)
    loader = HeldOutLoader(shard, 1)  # pyright: ignore[reportArgumentType]
    iter(loader)  # as Lightning does at set-up
    assert shard.num_opened == 0
    epochs = [[batch["index"].item() for batch in loader] for _ in range(3)]
    assert epochs == [[0, 1, 2]] * 3
    assert shard.num_opened == 1


def test_held_out_samples_are_read_in_the_background_once_started():
    shard = CountingShard(4)
    loader = HeldOutLoader(shard, 1)  # pyright: ignore[reportArgumentType]
    loader.start()
    give_up_at = time.monotonic() + 60
    while shard.num_handed_out < 4 and time.monotonic() < give_up_at:
        time.sleep(0.01)
    assert shard.num_handed_out == 4  # and no one has asked for them yet
    loader.start()
    assert [batch["index"].item() for batch in loader] == [0, 1, 2, 3]
    assert shard.num_opened == 1


def test_an_error_while_reading_ahead_comes_where_the_samples_are_wanted():
    class BrokenShard:
        def iter_torch_batches(self, **_: object) -> Iterator[dict[str, torch.Tensor]]:
            raise RuntimeError("no actor was up")

    loader = HeldOutLoader(BrokenShard(), 1)  # pyright: ignore[reportArgumentType]
    loader.start()
    with pytest.raises(RuntimeError, match="no actor was up"):
        list(loader)
