import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from generation.indices import IndexSet
from tests.support.waits import wait_until
from training.data.consumption import Share
from training.data.loader import HeldOutLoader, MixedLoader, Pace, StreamLoader
from training.data.reservoir import PixelStore, Reservoir, Uses


class CountingShard:
    """Fake of Ray's iterator: yields numbered batches and counts how often it is opened."""

    def __init__(self, num_batches: int, batch_size: int = 1) -> None:
        self.num_batches = num_batches
        self.batch_size = batch_size
        self.num_opened = 0
        self.num_handed_out = 0
        self.skipped = np.zeros(num_batches * batch_size, bool)

    def iter_torch_batches(self, **_: object) -> Iterator[dict[str, torch.Tensor]]:
        self.num_opened += 1
        return ({"serial": torch.from_numpy(self.batch(i)["serial"])} for i in range(self.num_batches))

    def iter_batches(self, **_: object) -> Iterator[dict[str, np.ndarray]]:
        self.num_opened += 1
        return (self.batch(i) for i in range(self.num_batches))

    def batch(self, i: int) -> dict[str, np.ndarray]:
        self.num_handed_out += 1
        serial = np.arange(i * self.batch_size, (i + 1) * self.batch_size)
        serial = serial[~self.skipped[serial]]
        images = np.zeros((len(serial), 2, 2, 3), np.uint8) + serial.astype(np.uint8)[:, None, None, None]
        return {"serial": serial, "label": serial % 7, "image": images}

    @property
    def share(self) -> Share:
        """All serials, none begun."""
        all_of_it = IndexSet.of_ranges([range(self.num_batches * self.batch_size)])
        return Share(all_of_it, np.zeros(0, np.int64), np.zeros(0, np.int32))


def loader_of(
    shard: CountingShard, batch_size: int, uses: Uses, num_slots: int = 100, min_images: int = 0, **pace: Any
) -> StreamLoader:
    reservoir = Reservoir(PixelStore(num_slots * 12, 2), uses, (0, 0, 0), min_images)
    return StreamLoader(shard, shard.share, reservoir, Pace(batch_size, **pace))  # pyright: ignore[reportArgumentType]


def test_epochs_continue_in_one_execution():
    shard = CountingShard(6)
    loader = loader_of(shard, 1, Uses(1, 1), num_slots=1)
    epochs = []
    for _ in range(3):
        batches = iter(loader)
        epochs.append([next(batches)["serial"].item() for _ in range(2)])
    assert epochs == [[0, 1], [2, 3], [4, 5]]
    assert shard.num_opened == 1
    with pytest.raises(StopIteration):
        next(iter(loader))


def test_started_stream_is_read_before_the_first_batch_is_requested():
    shard = CountingShard(6)
    loader = loader_of(shard, 1, Uses(1, 1), num_slots=1)
    loader.start()
    wait_until(lambda: shard.num_handed_out)
    assert loader.requested_at == 0
    assert [batch["serial"].item() for batch in loader] == [0, 1, 2, 3, 4, 5]
    assert shard.num_opened == 1


@pytest.mark.parametrize("reuse", [1, 3])
def test_every_image_has_exact_uses_label_and_use_number(reuse: int):
    loader = loader_of(CountingShard(20, batch_size=3), 5, Uses(reuse, reuse), num_slots=24)
    seen: Counter[int] = Counter()
    for batch in loader:
        indices = batch["serial"].tolist()
        assert len(set(indices)) == 5
        assert batch["label"].tolist() == [index % 7 for index in indices]
        assert batch["image"][:, 1, 1, 2].tolist() == indices
        assert batch["use"].tolist() == [seen[index] for index in indices]
        seen.update(indices)
    assert seen == dict.fromkeys(range(60), reuse)
    assert loader.reuse == reuse


def test_stream_is_read_only_while_reservoir_has_room():
    shard = CountingShard(1000)
    loader = loader_of(shard, 2, Uses(2, 2), num_slots=10)
    next(loader)
    time.sleep(0.2)
    assert shard.num_handed_out <= 10 + 4 + 1  # two batches may have used up 4; the filling thread holds 1
    loader.close()


def test_closed_loader_leaves_no_threads():
    loader = loader_of(CountingShard(1000), 2, Uses(2, 2), num_slots=10)
    next(loader)
    assert [thread.is_alive() for thread in loader.threads] == [True, True]
    loader.close()
    for thread in loader.threads:
        thread.join(timeout=60)
    assert [thread.is_alive() for thread in loader.threads] == [False, False]


class SleepingShard(CountingShard):
    """Takes 50 ms per batch."""

    def iter_batches(self, **settings: object) -> Iterator[dict[str, np.ndarray]]:
        for batch in super().iter_batches(**settings):
            time.sleep(0.05)
            yield batch


def test_waiting_time_starts_at_second_batch():
    loader = loader_of(SleepingShard(4), 1, Uses(1, 1), num_slots=1)
    next(loader)
    assert loader.waiting_seconds == 0.0
    started_at = time.monotonic()
    next(loader)
    next(loader)
    waited = time.monotonic() - started_at
    time.sleep(0.1)  # a training step
    assert 0 < loader.waiting_seconds <= waited


def test_waiting_time_includes_current_wait():
    class WaitsOnce(CountingShard):
        def iter_batches(self, **settings: object) -> Iterator[dict[str, np.ndarray]]:
            batches = super().iter_batches(**settings)
            yield next(batches)
            is_over.wait(30)
            yield from batches

    is_over = threading.Event()
    loader = loader_of(WaitsOnce(4), 1, Uses(1, 1), num_slots=1)
    next(loader)
    waiting = threading.Thread(target=lambda: next(loader))
    waiting.start()
    time.sleep(0.2)
    while_it_lasts = loader.waiting_seconds
    is_over.set()
    waiting.join()
    assert 0.1 < while_it_lasts < loader.waiting_seconds


def test_auto_reuses_images_up_to_maximum():
    loader = loader_of(SleepingShard(20, batch_size=4), 4, Uses(least=1, most=6), num_slots=16)
    seen = Counter(index for batch in loader for index in batch["serial"].tolist())
    assert set(seen) == set(range(80))
    assert max(seen.values()) <= 6
    assert loader.reuse > 3  # steps take no time here, so only the maximum ends an image's use


@pytest.mark.parametrize("uses", [Uses(4, 4), Uses(1, 8)])
def test_batches_are_drawn_from_min_images_until_stream_ends(uses: Uses):
    loader = loader_of(SleepingShard(20, batch_size=4), 4, uses, num_slots=60, min_images=40)
    seen: list[list[int]] = []
    for batch in loader:
        if not seen:
            assert loader.num_taken >= 40
        seen.append(batch["serial"].tolist())
    assert set().union(*seen) == set(range(80))
    late = max(max(serials) for serials in seen[: len(seen) // 4])
    assert late >= 30  # not only the first images


class StoppingShard(CountingShard):
    """Yields one batch, then nothing until `go_on` is set."""

    def __init__(self, num_batches: int, batch_size: int) -> None:
        super().__init__(num_batches, batch_size)
        self.go_on = threading.Event()

    def iter_batches(self, **settings: object) -> Iterator[dict[str, np.ndarray]]:
        for batch in super().iter_batches(**settings):
            yield batch
            self.go_on.wait()


def test_auto_waits_for_new_images_up_to_its_limit():
    shard = StoppingShard(2, batch_size=4)
    loader = loader_of(shard, 4, Uses(least=1, most=100), max_waiting_fraction=0.5)
    next(loader)
    assert loader.first_batch_at is not None
    time.sleep(0.1)  # a step
    assert next(loader)["use"].tolist() == [1, 1, 1, 1]
    assert loader.waiting_seconds >= 0.099  # as long as the step took, half of the time
    shard.go_on.set()
    loader.close()


def serials_of(batches: Iterable[dict[str, torch.Tensor]]) -> list[list[int]]:
    return [batch["serial"].tolist() for batch in batches]


def test_in_order_batches_follow_serials():
    assert serials_of(loader_of(CountingShard(6, batch_size=5), 10, Uses(1, 1), in_order=True)) == [
        [*range(10)],
        [*range(10, 20)],
        [*range(20, 30)],
    ]


@pytest.mark.parametrize("min_images", [0, 24])
def test_in_order_reuse_is_independent_of_timing(min_images: int):
    quick, slow = CountingShard(10, batch_size=4), SleepingShard(20, batch_size=2)
    first = serials_of(loader_of(quick, 4, Uses(3, 3), min_images=min_images, in_order=True))
    assert serials_of(loader_of(slow, 4, Uses(3, 3), min_images=min_images, in_order=True)) == first
    assert Counter(serial for batch in first for serial in batch) == dict.fromkeys(range(40), 3)


@pytest.mark.parametrize("min_images", [0, 16])
def test_resumed_loader_draws_the_same_batches(min_images: int):
    uses, whole = Uses(3, 3), CountingShard(10, batch_size=4)
    undisturbed = serials_of(loader_of(whole, 4, uses, min_images=min_images, in_order=True))
    loader = loader_of(CountingShard(10, batch_size=4), 4, uses, min_images=min_images, in_order=True)
    for _ in range(11):
        loader.commit(next(loader)["serial"].numpy())
    next(loader)  # a step that was not committed
    state = loader.state()
    loader.close()
    rest = Share(whole.share.fresh - state.taken, state.begun, state.uses_left)
    goes_on = Reservoir(PixelStore(1200, 2), uses, (0, 0, 0), min_images)
    source = CountingShard(10, batch_size=4)
    source.skipped = ~rest.serials.contains(np.arange(40))
    loader = StreamLoader(source, rest, goes_on, Pace(4, 0.0, in_order=True, num_drawn_before=11))  # pyright: ignore
    assert serials_of(loader) == undisturbed[11:]


def test_stream_that_ends_early_is_an_error():
    shard = CountingShard(3, batch_size=4)
    reservoir = Reservoir(PixelStore(1200, 2), Uses(1, 1), key=(0, 0, 0))
    loader = StreamLoader(shard, CountingShard(4, batch_size=4).share, reservoir, Pace(4))  # pyright: ignore
    with pytest.raises(RuntimeError, match="ended after 12 of 16 samples"):
        list(loader)


def test_mixed_batch_has_domain_of_each_row():
    real, synthetic = CountingShard(4, batch_size=1), CountingShard(4, batch_size=3)
    mixed = MixedLoader(
        {"real": loader_of(real, 1, Uses(1, 1), num_slots=2), "synthetic": loader_of(synthetic, 3, Uses(1, 1))}
    )
    batches = list(mixed)
    assert [batch["is_real"].tolist() for batch in batches] == [[True, False, False, False]] * 4
    assert sorted(batch["serial"][0].item() for batch in batches) == [0, 1, 2, 3]
    assert sorted(serial for batch in batches for serial in batch["serial"][1:].tolist()) == list(range(12))
    assert all(batch["image"].shape == (4, 2, 2, 3) for batch in batches)


def test_smaller_images_are_padded_and_keep_their_extent():
    class Photographs(CountingShard):
        def batch(self, i: int) -> dict[str, np.ndarray]:
            rows = super().batch(i)
            images = np.full((len(rows["serial"]), 3, 3, 3), 9, np.uint8)
            return rows | {"image": images, "extent": np.array([[1, 3]] * len(images))}

    photographs = Photographs(4, batch_size=1)
    reservoir = Reservoir(PixelStore(2 * 27, 3), Uses(1, 1), (0, 0, 0))
    real = StreamLoader(photographs, photographs.share, reservoir, Pace(1))  # pyright: ignore[reportArgumentType]
    synthetic = loader_of(CountingShard(4, batch_size=2), 2, Uses(1, 1))
    batch = next(iter(MixedLoader({"real": real, "synthetic": synthetic})))
    assert batch["image"].shape == (3, 3, 3, 3)
    assert batch["extent"].tolist() == [[1, 3], [2, 2], [2, 2]]
    assert (batch["image"][1:, :2, :2] == batch["serial"][1:, None, None, None]).all()
    assert not batch["image"][1:, 2:].any()


def test_stream_error_is_raised_in_consumer():
    class BrokenShard(CountingShard):
        def iter_batches(self, **_: object) -> Iterator[dict[str, np.ndarray]]:
            yield self.batch(0)
            raise RuntimeError("no actor was up")

    loader = loader_of(BrokenShard(2, batch_size=4), 4, Uses(1, 1))
    with pytest.raises(RuntimeError, match="no actor was up"):
        list(loader)


def test_held_out_samples_are_read_once_for_all_epochs():
    shard = CountingShard(3)
    loader = HeldOutLoader(shard, 1)  # pyright: ignore[reportArgumentType]
    iter(loader)  # as Lightning does at setup
    assert shard.num_opened == 0
    epochs = [[batch["serial"].item() for batch in loader] for _ in range(3)]
    assert epochs == [[0, 1, 2]] * 3
    assert shard.num_opened == 1


def test_held_out_samples_are_prefetched_after_start():
    shard = CountingShard(4)
    loader = HeldOutLoader(shard, 1)  # pyright: ignore[reportArgumentType]
    loader.start()
    give_up_at = time.monotonic() + 60
    while shard.num_handed_out < 4 and time.monotonic() < give_up_at:
        time.sleep(0.01)
    assert shard.num_handed_out == 4  # before any was requested
    loader.start()
    assert [batch["serial"].item() for batch in loader] == [0, 1, 2, 3]
    assert shard.num_opened == 1


def test_prefetch_error_is_raised_in_consumer():
    class BrokenShard:
        def iter_torch_batches(self, **_: object) -> Iterator[dict[str, torch.Tensor]]:
            raise RuntimeError("no actor was up")

    loader = HeldOutLoader(BrokenShard(), 1)  # pyright: ignore[reportArgumentType]
    loader.start()
    with pytest.raises(RuntimeError, match="no actor was up"):
        list(loader)


def test_scores_and_soft_labels_stay_with_their_images():
    class Scored(CountingShard):
        def batch(self, i: int) -> dict[str, np.ndarray]:
            rows = super().batch(i)
            serial = rows["serial"]
            soft = np.stack([serial / 100, 1 - serial / 100], axis=1).astype(np.float16)
            return rows | {"score": (serial / 100).astype(np.float32), "soft_label": soft}

    scored, real = (loader_of(kind(10, batch_size=4), 3, Uses(1, 1)) for kind in (Scored, CountingShard))
    batch = next(MixedLoader({"real": real, "synthetic": scored}))
    expected = batch["serial"][3:] / 100
    torch.testing.assert_close(batch["score"], torch.cat([torch.ones(3), expected]).float())
    torch.testing.assert_close(batch["soft_label"][3:, 0], expected.half())
    assert batch["soft_label"].dtype == torch.float16
    assert not batch["soft_label"][:3].any()
    scored.close()
    real.close()
