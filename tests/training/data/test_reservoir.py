import dataclasses
from collections import Counter
from typing import Literal

import numpy as np
import pytest
import torch

from training.config import TrainingConfig
from training.data.reservoir import (
    EncodedStore,
    ImageStore,
    PixelStore,
    Reservoir,
    Uses,
    build_store,
    check_reservoir,
    min_images,
    reservoir_memory_warning,
)

SIZE = 8
IMAGE_BYTES = SIZE**2 * 3


def images_of(serials: np.ndarray) -> np.ndarray:
    """Return an image per serial, unique below 256 * 256."""
    images = np.zeros((len(serials), SIZE, SIZE, 3), np.uint8)
    images[:, :, :, 0], images[:, :, :, 1] = (serials % 256)[:, None, None], (serials // 256)[:, None, None]
    return images


def add(reservoir: Reservoir, serials: range, uses_left: int) -> None:
    numbers = np.array(serials)
    reservoir.add(numbers, numbers % 10, images_of(numbers), np.full(len(serials), uses_left, np.int32))


def reservoir_of(num_slots: int, uses: Uses, seed: int = 0, min_images: int = 0) -> Reservoir:
    return Reservoir(PixelStore(num_slots * IMAGE_BYTES, SIZE), uses, (seed, 0, 0), min_images)


def use_all(reservoir: Reservoir, num_images: int, size: int, arrivals: np.random.Generator) -> list[list[int]]:
    """Return the serials of each step, with random arrivals of images."""
    steps, next_serial, most = [], 0, reservoir.uses.most
    while True:
        is_last = next_serial == num_images
        if not is_last and (arrivals.random() < 0.5 or not reservoir.can_draw(size, is_last)):
            room, evicted = reservoir.make_room(min(int(arrivals.integers(1, 9)), num_images - next_serial))
            assert len(evicted) == 0
            add(reservoir, range(next_serial, next_serial + room), most)
            next_serial += room
        elif reservoir.can_draw(size, is_last):
            steps.append(reservoir.draw(len(steps), size, is_last)["serial"].tolist())
        elif is_last:
            return steps


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("reuse", "min_images"), [(1, 0), (2, 0), (8, 0), (2, 40), (8, 40), (8, 1000)])
def test_every_image_has_exact_uses_and_no_batch_repeats_one(seed: int, reuse: int, min_images: int):
    arrivals = np.random.default_rng(seed)
    steps = use_all(reservoir_of(60, Uses(reuse, reuse), seed, min_images), 120, 6, arrivals)
    assert len(steps) == 120 * reuse // 6
    assert all(len(set(step)) == 6 for step in steps)
    assert Counter(serial for step in steps for serial in step) == dict.fromkeys(range(120), reuse)


def test_image_has_its_label_and_use_number():
    reservoir = reservoir_of(20, Uses(3, 3))
    add(reservoir, range(300, 310), uses_left=3)
    seen: Counter[int] = Counter()
    for step in range(6):
        drawn = reservoir.draw(step, 5, is_last=True)
        np.testing.assert_array_equal(drawn["image"].numpy(), images_of(drawn["serial"].numpy()))
        assert torch.equal(drawn["label"], drawn["serial"] % 10)
        assert drawn["use"].tolist() == [seen[serial] for serial in drawn["serial"].tolist()]
        seen.update(drawn["serial"].tolist())
    assert len(reservoir) == 0


def test_steps_draw_uniformly():
    counts = np.zeros(40)
    for step in range(2000):
        reservoir = reservoir_of(40, Uses(9, 9))
        add(reservoir, range(40), uses_left=9)
        counts[reservoir.draw(step, 10, is_last=False)["serial"]] += 1
    assert counts.sum() == 20_000
    assert np.abs(counts - 500).max() < 5 * np.sqrt(2000 * 0.25 * 0.75)  # five standard deviations of a binomial


def test_draw_depends_on_seed_worker_and_step():
    def drawn(seed: int, rank: int, step: int) -> list[int]:
        reservoir = Reservoir(PixelStore(50 * IMAGE_BYTES, SIZE), Uses(2, 2), key=(seed, rank, 0))
        add(reservoir, range(50), uses_left=2)
        return reservoir.draw(step, 10, is_last=False)["serial"].tolist()

    assert drawn(1, 0, 7) == drawn(1, 0, 7)
    assert len({tuple(drawn(*key)) for key in ((1, 0, 7), (2, 0, 7), (1, 1, 7), (1, 0, 8))}) == 4


def test_no_draw_makes_exact_reuse_impossible():
    reservoir = reservoir_of(20, Uses(3, 3))
    add(reservoir, range(5), uses_left=3)
    assert not reservoir.can_draw(4, is_last=False)  # 15 uses of the 16 needed, which leave 12 for later steps
    assert reservoir.can_draw(4, is_last=True)
    add(reservoir, range(5, 6), uses_left=3)
    assert reservoir.can_draw(4, is_last=False)


def test_steps_wait_for_min_images():
    reservoir = reservoir_of(12, Uses(least=1, most=2), min_images=8)
    add(reservoir, range(7), uses_left=2)
    assert reservoir.num_missing == 1
    assert not reservoir.can_draw(4, is_last=False)
    assert reservoir.can_draw(4, is_last=True)
    add(reservoir, range(7, 8), uses_left=2)
    assert reservoir.can_draw(4, is_last=False)
    for step in range(3):
        reservoir.draw(step, 4, is_last=True)
    assert len(reservoir) < 8  # images used twice are evicted
    assert not reservoir.can_draw(2, is_last=False)
    full = reservoir_of(6, Uses(1, 2), min_images=8)
    add(full, range(6), uses_left=2)
    assert full.can_draw(4, is_last=False)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 0),  # no reuse
        (
            {"reuse": 8, "global_batch_size": 2000},
            32_000,
        ),  # 16 batches; the run has 162,500 images for 1.3 million uses
        ({"reuse": 8, "num_workers": 2}, 8000),  # 16 per class for 1,000 classes in 2 workers
        ({"reuse": 20, "num_images": 128_000}, 3200),  # half of 6,400 images
        ({"reuse": "auto", "num_images": 128_000}, 8000),  # half of 16,000 images with 8 uses each
        ({"reuse": 8, "reservoir_bytes": 3000 * IMAGE_BYTES}, 3000),
        ({"reuse": 8, "reservoir_bytes": 3000 * IMAGE_BYTES, "reservoir_format": "png"}, 134),  # of 4,288 bytes
        ({"reuse": 8, "reservoir_min_images": 1}, 1),
    ],
)
def test_default_fill_depends_on_batch_classes_memory_and_run(settings: dict, expected: int):
    config = TrainingConfig(num_epochs=1, **{"num_images": 1_300_000, **settings})
    assert min_images(config, SIZE, num_classes=1000, num_images=10**9) == expected


def test_default_fill_is_at_most_half_of_a_pass():
    config = TrainingConfig(num_images=1_300_000, num_epochs=1, reuse=8, num_workers=2)
    assert min_images(config, SIZE, num_classes=1000, num_images=10_000) == 2500  # of a worker's 5,000


def test_memory_warning_names_sufficient_bytes():
    config = TrainingConfig(num_images=1_300_000, num_epochs=1, reuse=8, reservoir_bytes=1280 * IMAGE_BYTES)
    assert reservoir_memory_warning(
        config, SIZE, num_classes=100, num_images=10**9
    ) == (  # 16 batches of 256 images of 192 bytes
        "each worker's reservoir holds 1,280 images, so 20% of each batch repeats in the next. "
        "Set training.reservoir_bytes=786_432 to hold 4,096."
    )
    for enough in ({"reuse": 1}, {"reservoir_min_images": 8}, {"reservoir_bytes": 4096 * IMAGE_BYTES}):
        assert not reservoir_memory_warning(
            dataclasses.replace(config, **enough), SIZE, num_classes=100, num_images=10**9
        )


def test_min_images_beyond_memory_is_rejected():
    config = TrainingConfig(reuse=2, reservoir_min_images=1001, reservoir_bytes=1000 * IMAGE_BYTES, global_batch_size=8)
    with pytest.raises(
        ValueError, match=r"reservoir_min_images is 1001, but training\.reservoir_bytes 192000 holds 1000"
    ):
        check_reservoir(config, SIZE, num_classes=10)


def test_most_used_images_are_evicted_first():
    reservoir = reservoir_of(4, Uses(least=2, most=5))
    add(reservoir, range(4), uses_left=5)
    assert reservoir.num_uses_owed == 8
    assert reservoir.make_room(2) == (0, pytest.approx(np.zeros(0)))
    for step in range(2):
        reservoir.draw(step, 4, is_last=False)
    assert reservoir.num_uses_owed == 0
    once_more = reservoir.draw(2, 1, is_last=False)["serial"].tolist()
    room, evicted = reservoir.make_room(2)
    others = [serial for serial in range(4) if serial not in once_more]
    assert (room, evicted.tolist()) == (2, [*once_more, others[0]])  # then the oldest
    assert reservoir.serials[reservoir.order].tolist() == others[1:]


@pytest.mark.parametrize("kind", [PixelStore, EncodedStore])
def test_stores_return_images_within_their_memory(kind: type):
    num_bytes = 40 * (IMAGE_BYTES + 4096)
    store: ImageStore = kind(num_bytes, SIZE)
    reservoir = Reservoir(store, Uses(1, 1), key=(0, 0, 0))
    next_serial = 0
    while room := reservoir.make_room(7)[0]:
        add(reservoir, range(next_serial, next_serial + room), uses_left=1)
        next_serial += room
    assert next_serial > (800 if kind is PixelStore else 39)
    drawn = reservoir.draw(0, 30, is_last=True)
    assert drawn["image"].dtype == torch.uint8
    np.testing.assert_array_equal(drawn["image"].numpy(), images_of(drawn["serial"].numpy()))
    assert reservoir.make_room(7)[0] == 7  # used images were evicted


def test_image_with_too_many_uses_repeats_in_a_batch():
    reservoir = reservoir_of(10, Uses(5, 5))
    add(reservoir, range(1), uses_left=5)
    add(reservoir, range(1, 4), uses_left=1)
    first, second = (reservoir.draw(step, 4, is_last=True) for step in range(2))
    assert Counter([*first["serial"].tolist(), *second["serial"].tolist()]) == {0: 5, 1: 1, 2: 1, 3: 1}
    of_the_first = [use for step in (first, second) for use in step["use"][step["serial"] == 0].tolist()]
    assert of_the_first == [0, 1, 2, 3, 4]  # each with a different augmentation
    assert len(reservoir) == reservoir.num_uses_left == 0


@pytest.mark.parametrize(("image_format", "file_bytes"), [("pixels", 0), ("png", 4096)])
def test_soft_labels_count_as_memory(image_format: Literal["pixels", "png"], file_bytes: int):
    per_image = IMAGE_BYTES + file_bytes + 2 * 1000
    config = TrainingConfig(
        reuse="auto", reservoir_format=image_format, reservoir_bytes=30 * per_image, soft_labels=0.5
    )
    assert build_store(config, Uses(1, 64), 4, SIZE, num_classes=1000).room(0) == 30
    few = dataclasses.replace(config, global_batch_size=64, num_workers=1)  # 128 images are needed
    with pytest.raises(ValueError, match=rf"Use {128 * (IMAGE_BYTES + 4096 + 2000)} or more"):
        check_reservoir(few, SIZE, num_classes=1000)


def test_soft_labels_are_held_as_long_as_their_image():
    reservoir, numbers = reservoir_of(8, Uses(1, 2)), np.arange(4)
    soft = np.eye(4, dtype=np.float16)
    reservoir.add(numbers, numbers, images_of(numbers), np.full(4, 2, np.int32), {"soft_label": soft})
    assert all(row.base is None for row in reservoir.soft_labels.values())  # else one row keeps its whole block
    reservoir.draw(0, 4, is_last=True)
    batch = reservoir.draw(1, 4, is_last=True)
    assert torch.equal(batch["soft_label"], torch.eye(4, dtype=torch.float16)[batch["serial"]])
    assert reservoir.soft_labels == {}
