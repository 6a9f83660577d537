"""Reservoir of recent images, each used several times and then evicted. Uses no stream, thread or clock.

The number of uses per image is bounded: if `least == most`, each image is used exactly that often, as with Reverb's
SampleToInsertRatio (arXiv 2102.04736); otherwise it is used until a new image replaces it.
"""

import dataclasses
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from generation.random_streams import Purpose, stream
from generation.shards.shard import ImageFormat
from training.config import TrainingConfig

PNG = ImageFormat("png", 0)


@dataclass(frozen=True)
class Uses:
    """Minimum and maximum number of uses per image."""

    least: int
    most: int

    @property
    def is_exact(self) -> bool:
        """Whether every image is used equally often."""
        return self.least == self.most

    def needed(self, batch_size: int) -> int:
        """Return how many uses must be left in the reservoir before a step draws, while images still arrive.

        This guarantees that the rest can be used up: an image with `most` uses left needs `most` further steps, each
        with different images.
        """
        return batch_size * (self.most + 1 if self.is_exact and self.most > 1 else 1)


class PixelStore:
    """Uncompressed images in one array."""

    def __init__(self, num_bytes: int, image_size: int, label_bytes: int = 0) -> None:
        """Create the slots that fit into `num_bytes` with their soft labels; the OS allocates at the first write."""
        self.num_slots = num_bytes // (image_size**2 * 3 + label_bytes)
        self.images = torch.empty((self.num_slots, image_size, image_size, 3), dtype=torch.uint8)

    def room(self, num_images: int) -> int:
        """Return how many more images fit besides `num_images`."""
        return self.num_slots - num_images

    def put(self, slots: np.ndarray, images: np.ndarray) -> None:
        """Store images uint8 [N, H, W, 3] in slots int64 [N]."""
        self.images.index_copy_(0, torch.from_numpy(slots), torch.tensor(images))

    def get(self, slots: np.ndarray) -> torch.Tensor:
        """Return the slots' images, uint8 [N, H, W, 3]; releases the GIL."""
        return self.images.index_select(0, torch.from_numpy(slots))

    def clear(self, slots: np.ndarray) -> None:
        """Do nothing: new images overwrite these."""


MIN_FILE_BYTES = 100
"""Lower bound of a PNG file's size, which bounds the number of slots."""

MAX_FILE_OVERHEAD_BYTES = 4096
"""Upper bound of a PNG file's size beyond its raw pixels."""


class EncodedStore:
    """Images as PNG: several times as many in the same memory, decoded at every use."""

    def __init__(self, num_bytes: int, image_size: int, label_bytes: int = 0) -> None:
        self.num_slots = num_bytes // (MIN_FILE_BYTES + label_bytes)
        self.room_bytes = num_bytes
        self.label_bytes = label_bytes
        self.most_bytes = image_size**2 * 3 + MAX_FILE_OVERHEAD_BYTES + label_bytes
        self.files: dict[int, bytes] = {}

    def room(self, num_images: int) -> int:
        """Return how many more images fit besides `num_images`, even if they do not compress."""
        return min(self.num_slots - num_images, self.room_bytes // self.most_bytes)

    def put(self, slots: np.ndarray, images: np.ndarray) -> None:
        """Store images uint8 [N, H, W, 3] in slots int64 [N]."""
        for slot, image in zip(slots.tolist(), images, strict=True):
            self.files[slot] = PNG.encode(image)
            self.room_bytes -= len(self.files[slot]) + self.label_bytes

    def get(self, slots: np.ndarray) -> torch.Tensor:
        """Return the slots' images, uint8 [N, H, W, 3]."""
        images = [np.asarray(Image.open(io.BytesIO(self.files[slot]))) for slot in slots.tolist()]
        return torch.from_numpy(np.stack(images))

    def clear(self, slots: np.ndarray) -> None:
        """Delete the slots' images."""
        self.room_bytes += sum(len(self.files.pop(slot)) + self.label_bytes for slot in slots.tolist())


ImageStore = PixelStore | EncodedStore
"""Image storage with numbered slots."""


Batch = dict[str, torch.Tensor]
"""A batch as columns: `serial`, `label`, and `use`, the image's use number from 0, int64 [B]; `image` uint8
[B, H, W, 3]; `extent` int64 [B, 2], height and width of each image within its array, from the top left; `score`
float32 [B], 1 for images without one; `soft_label` float16 [B, num_classes], absent if the images have none.
"""

MIN_BATCHES, MIN_IMAGES_OF_CLASS = 16, 16
"""Default fill of a reservoir: images per batch size, and images per class over all workers. With 16 batches, 1/16 of a
batch repeats in the next while images arrive. Measured by `benchmarks.reservoir`.
"""

EXPECTED_USES = 8
"""Assumed uses per image with `auto`, to estimate the run's number of images; the fill is at most half of it."""


def min_images(config: TrainingConfig, image_size: int, num_classes: int, num_images: int) -> int:
    """Return the number of images that a worker's reservoir must hold before it draws, until the stream ends.

    0 without reuse. The default is at most half of the worker's share of the run's images (with `auto`, at
    `EXPECTED_USES` uses per image) or of the `num_images` of a pass, and at most what fits into memory.
    """
    if config.most_uses == 1 or config.reservoir_min_images:
        return config.reservoir_min_images if config.most_uses > 1 else 0
    num_drawn = config.num_generated_per_batch
    wanted = max(MIN_BATCHES * num_drawn, -(-MIN_IMAGES_OF_CLASS * num_classes // config.num_workers))
    num_uses = config.num_steps * config.accumulate_batches * num_drawn
    uses_of_image = max(config.least_uses, min(EXPECTED_USES, config.most_uses))
    its_images = min(num_uses // uses_of_image, num_images // config.num_workers)
    return min(wanted, its_images // 2, room_for(config, image_size, num_classes))


def reservoir_memory_warning(config: TrainingConfig, image_size: int, num_classes: int, num_images: int) -> str:
    """Return a warning if memory limits the default fill; '' if it does not, or if the fill is configured."""
    held, wanted = (
        min_images(dataclasses.replace(config, reservoir_bytes=num_bytes), image_size, num_classes, num_images)
        for num_bytes in (config.reservoir_bytes, 2**62)
    )
    if held == wanted:
        return ""
    image_bytes = config.reservoir_bytes / room_for(config, image_size, num_classes)
    num_drawn = config.num_generated_per_batch
    return (
        f"each worker's reservoir holds {held:,} images, so {min(1, num_drawn / held):.0%} of each batch repeats in "
        f"the next. Set training.reservoir_bytes={math.ceil(wanted * image_bytes):_} to hold {wanted:,}."
    )


def soft_label_bytes(config: TrainingConfig, num_classes: int) -> int:
    """Return the memory of an image's soft label, float16 [num_classes]; 0 if training uses none."""
    return 2 * num_classes if config.soft_labels else 0


def room_for(config: TrainingConfig, image_size: int, num_classes: int) -> int:
    """Return how many images fit into a worker's reservoir, even if they do not compress."""
    overhead = MAX_FILE_OVERHEAD_BYTES if config.reservoir_format == "png" else 0
    return config.reservoir_bytes // (image_size**2 * 3 + overhead + soft_label_bytes(config, num_classes))


def build_store(config: TrainingConfig, uses: Uses, batch_size: int, image_size: int, num_classes: int) -> ImageStore:
    """Return the empty storage of a reservoir from which a step draws `batch_size` images."""
    if uses.most == 1:  # no reuse: the stream does the buffering
        return PixelStore(2 * batch_size * image_size**2 * 3, image_size)
    store = PixelStore if config.reservoir_format == "pixels" else EncodedStore
    return store(config.reservoir_bytes, image_size, soft_label_bytes(config, num_classes))


def check_reservoir(config: TrainingConfig, image_size: int, num_classes: int) -> None:
    """Raise ValueError if a worker's reservoir cannot hold the images that it needs."""
    uses = Uses(config.least_uses, config.most_uses)
    least = uses.needed(config.batch_size_per_worker) if uses.is_exact else 2 * config.batch_size_per_worker
    label_bytes, room = soft_label_bytes(config, num_classes), room_for(config, image_size, num_classes)
    least_bytes = least * (image_size**2 * 3 + MAX_FILE_OVERHEAD_BYTES + label_bytes)
    if config.most_uses > 1 and config.reservoir_bytes < least_bytes:
        raise ValueError(
            f"training.reservoir_bytes is {config.reservoir_bytes}, but must hold {least} images for worker batches of "
            f"{config.batch_size_per_worker} and training.reuse {config.reuse}. Use {least_bytes} or more."
        )
    if config.most_uses > 1 and config.reservoir_min_images > room:
        raise ValueError(
            f"training.reservoir_min_images is {config.reservoir_min_images}, but training.reservoir_bytes "
            f"{config.reservoir_bytes} holds {room}. Lower the first or raise the second."
        )


class Reservoir:
    """Images with their remaining uses. Not thread-safe."""

    def __init__(self, store: ImageStore, uses: Uses, key: tuple[int, int, int], min_images: int = 0) -> None:
        """Create an empty reservoir.

        `key` seeds the draws: seed, worker rank and domain number. While images still arrive, no step draws from fewer
        than `min_images`.
        """
        self.store = store
        self.uses = uses
        self.key = key
        self.min_images = min_images
        self.free: list[int] = []
        """Slots whose image was evicted."""

        self.num_used_slots = 0
        """Slots used so far; all from this number on are new."""

        self.order = np.zeros(0, np.int64)
        """Slots in use, in order of their images' arrival."""

        self.serials, self.labels = (np.zeros(store.num_slots, np.int64) for _ in range(2))
        self.extents = np.zeros((store.num_slots, 2), np.int64)
        self.scores = np.zeros(store.num_slots, np.float32)
        self.soft_labels: dict[int, np.ndarray] = {}
        """By slot; empty if the images have none."""

        self.left = np.zeros(store.num_slots, np.int32)
        """Remaining uses of each slot's image."""

        self.num_uses_left = 0
        """Remaining uses of all images together."""

    def __len__(self) -> int:
        return len(self.order)

    @property
    def num_uses_owed(self) -> int:
        """Uses still needed to bring all images to their minimum."""
        owed = self.left[self.order] - (self.uses.most - self.uses.least)
        return int(np.maximum(owed, 0).sum())

    def can_draw(self, size: int, is_last: bool) -> bool:
        """Return whether `size` images can be drawn while every image can still reach its number of uses."""
        if is_last:
            return self.num_uses_left >= size
        return len(self) >= size and self.num_uses_left >= self.uses.needed(size) and not self.num_missing

    @property
    def num_missing(self) -> int:
        """Images missing to `min_images`, as far as there is room for them."""
        return max(0, min(self.min_images - len(self), self.store.room(len(self))))

    def make_room(self, wanted: int) -> tuple[int, np.ndarray]:
        """Make room for up to `wanted` images; return how many fit and which serials were evicted.

        Evicts the most used images first, among these the oldest, and none before its minimum number of uses.
        """
        num_missing = wanted - self.store.room(len(self))
        evicted = np.zeros(0, np.int64)
        if num_missing > 0 and not self.uses.is_exact:
            left = self.left[self.order]
            evictable = np.flatnonzero(left <= self.uses.most - self.uses.least)
            chosen = evictable[np.argsort(left[evictable], kind="stable")[:num_missing]]
            evicted = self.serials[self.order[chosen]]
            self._evict(chosen)
        return min(wanted, self.store.room(len(self))), evicted

    def add(
        self,
        serials: np.ndarray,
        labels: np.ndarray,
        images: np.ndarray,
        uses_left: np.ndarray,
        others: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Add `N` images, for which there must be room: int64 [N], int64 [N], uint8 [N, H, W, 3], int32 [N].

        `others` may have the columns `extent`, needed for images that do not fill their array, `score`, and
        `soft_label`, which all images have or none.
        """
        others = others or {}
        slots = np.array([self._free_slot() for _ in serials], dtype=np.int64)
        self.store.put(slots, images)
        self.serials[slots], self.labels[slots], self.left[slots] = serials, labels, uses_left
        self.extents[slots] = others.get("extent", images.shape[1:3])
        self.scores[slots] = others.get("score", 1.0)
        if "soft_label" in others:
            self.soft_labels |= {
                slot: row.copy() for slot, row in zip(slots.tolist(), others["soft_label"], strict=True)
            }
        self.order = np.concatenate([self.order, slots])
        self.num_uses_left += int(uses_left.sum())

    def _free_slot(self) -> int:
        if self.free:
            return self.free.pop()
        self.num_used_slots += 1
        return self.num_used_slots - 1

    def draw(self, step: int, size: int, is_last: bool) -> Batch:
        """Return `size` different images, drawn uniformly as a function of the step, and count one use of each.

        After the last arrival (`is_last`), images that every remaining batch needs are drawn first, so that all get
        used up. If a resumed run has fewer steps left than an image has uses, the image appears twice in a batch.
        """
        chosen = self._choose(step, size, is_last)
        slots = self.order[chosen]
        again = np.arange(size) - np.searchsorted(chosen, chosen)
        columns = {
            "serial": self.serials[slots],
            "label": self.labels[slots],
            "use": (self.uses.most - self.left[slots] + again).astype(np.int64),
            "extent": self.extents[slots],
            "score": self.scores[slots],
        }
        if self.soft_labels:
            columns["soft_label"] = np.stack([self.soft_labels[slot] for slot in slots.tolist()])
        batch = {name: torch.from_numpy(column) for name, column in columns.items()}
        batch["image"] = self.store.get(slots)
        np.subtract.at(self.left, slots, 1)
        self.num_uses_left -= size
        self._evict(np.unique(chosen[self.left[slots] == 0]))
        return batch

    def _choose(self, step: int, size: int, is_last: bool) -> np.ndarray:
        """Return the drawn positions in `order`, ascending."""
        random = stream(Purpose.RESERVOIR, self.key[0], step, *self.key[1:])
        left = self.left[self.order]
        if not is_last:
            return np.sort(random.choice(len(left), size, replace=False, shuffle=False))
        num_draws = left.sum() // size
        if len(left) < size or (left > num_draws).any():  # after a change of workers or parts
            return np.sort(random.choice(np.repeat(np.arange(len(left)), left), size, replace=False))
        is_needed = left >= num_draws
        needed, others = np.flatnonzero(is_needed), np.flatnonzero(~is_needed)
        if len(needed) >= size:
            return np.sort(random.choice(needed, size, replace=False))
        return np.sort(np.concatenate([needed, random.choice(others, size - len(needed), replace=False)]))

    def _evict(self, chosen: np.ndarray) -> None:
        slots = self.order[chosen]
        self.store.clear(slots)
        self.num_uses_left -= int(self.left[slots].sum())
        for slot in slots.tolist():
            self.soft_labels.pop(slot, None)
        self.free += slots.tolist()
        self.order = np.delete(self.order, chosen)
