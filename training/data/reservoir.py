"""Recent images beside the trainer, each used several times and then let go. Knows no stream, no thread and no clock.

How often an image is used is bounded from both sides: with `least == most` every image is used exactly so often, as
by Reverb's SampleToInsertRatio (arXiv 2102.04736); with room between them it is used until a new one needs its place.
"""

import dataclasses
import io
import math
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
    """How often an image is used."""

    least: int
    most: int

    @property
    def is_exact(self) -> bool:
        """Whether each is used equally often."""
        return self.least == self.most

    def needed(self, batch_size: int) -> int:
        """Return how many uses must be left before a step takes some, while images are still to come.

        Whatever comes, the rest can then be used up: an image of which `most` uses are left needs as many further
        steps, each of different images.
        """
        return batch_size * (self.most + 1 if self.is_exact and self.most > 1 else 1)


class PixelStore:
    """Images as they are, in one array."""

    def __init__(self, num_bytes: int, image_size: int) -> None:
        """Take as many slots as fit; memory is taken when it is first written to."""
        self.num_slots = num_bytes // (image_size**2 * 3)
        self.images = torch.empty((self.num_slots, image_size, image_size, 3), dtype=torch.uint8)

    def room(self, num_images: int) -> int:
        """Return for how many images there is room beside so many."""
        return self.num_slots - num_images

    def put(self, slots: np.ndarray, images: np.ndarray) -> None:
        """Keep uint8 [N, H, W, 3] in slots int64 [N]."""
        self.images.index_copy_(0, torch.from_numpy(slots), torch.tensor(images))

    def get(self, slots: np.ndarray) -> torch.Tensor:
        """Return uint8 [N, H, W, 3]; other threads run meanwhile."""
        return self.images.index_select(0, torch.from_numpy(slots))

    def clear(self, slots: np.ndarray) -> None:
        """Do nothing: the next images are written over these."""


MIN_FILE_BYTES = 100
"""No PNG is smaller: bounds the number of slots."""

MAX_FILE_OVERHEAD_BYTES = 4096
"""By how much a PNG may exceed its pixels, generously."""


class EncodedStore:
    """Images as PNG: several times as many in the same memory, each decoded whenever it is used."""

    def __init__(self, num_bytes: int, image_size: int) -> None:
        self.num_slots = num_bytes // MIN_FILE_BYTES
        self.room_bytes = num_bytes
        self.most_bytes = image_size**2 * 3 + MAX_FILE_OVERHEAD_BYTES
        self.files: dict[int, bytes] = {}

    def room(self, num_images: int) -> int:
        """Return for how many images there is room beside so many, however badly they compress."""
        return min(self.num_slots - num_images, self.room_bytes // self.most_bytes)

    def put(self, slots: np.ndarray, images: np.ndarray) -> None:
        """Keep uint8 [N, H, W, 3] in slots int64 [N]."""
        for slot, image in zip(slots.tolist(), images, strict=True):
            self.files[slot] = PNG.encode(image)
            self.room_bytes -= len(self.files[slot])

    def get(self, slots: np.ndarray) -> torch.Tensor:
        """Return uint8 [N, H, W, 3]."""
        images = [np.asarray(Image.open(io.BytesIO(self.files[slot]))) for slot in slots.tolist()]
        return torch.from_numpy(np.stack(images))

    def clear(self, slots: np.ndarray) -> None:
        """Let images go."""
        self.room_bytes += sum(len(self.files.pop(slot)) for slot in slots.tolist())


ImageStore = PixelStore | EncodedStore
"""Images in numbered slots."""


Batch = dict[str, torch.Tensor]
"""What a step takes, as columns: `serial`, all different, `label`, and `use`, which one of its image this is, from 0,
int64 [B]; `image` uint8 [B, H, W, 3]; `extent` int64 [B, 2], height and width of what each image has in its corner.
"""

MIN_BATCHES, MIN_IMAGES_OF_CLASS = 16, 16
"""A reservoir has as many images as so many batches, and so many of each class among all workers' together: while more
are to come, a sixteenth of a batch comes in the next one too. Measured by `benchmarks.reservoir`.
"""

EXPECTED_USES = 8
"""Assumed uses of each image with `auto`: the fill is at most half of the images that a run then has."""


def min_images(config: TrainingConfig, image_size: int, num_classes: int, num_images: int) -> int:
    """Return how many images a worker has before it draws, while more are to come; 0 where none is used again.

    By default never more than half of its share of the run's images (with `auto`: if each is used `EXPECTED_USES`
    times), or of the `num_images` of a pass, or than there is memory for.
    """
    if config.most_uses == 1 or config.reservoir_min_images:
        return config.reservoir_min_images if config.most_uses > 1 else 0
    num_drawn = config.num_generated_per_batch
    wanted = max(MIN_BATCHES * num_drawn, -(-MIN_IMAGES_OF_CLASS * num_classes // config.num_workers))
    num_uses = config.num_steps * config.accumulate_batches * num_drawn
    uses_of_image = max(config.least_uses, min(EXPECTED_USES, config.most_uses))
    its_images = min(num_uses // uses_of_image, num_images // config.num_workers)
    return min(wanted, its_images // 2, room_for(config, image_size))


def reservoir_memory_warning(config: TrainingConfig, image_size: int, num_classes: int, num_images: int) -> str:
    """Return a line where memory holds fewer images than a default fill has; empty if it does not, or one is given."""
    held, wanted = (
        min_images(dataclasses.replace(config, reservoir_bytes=num_bytes), image_size, num_classes, num_images)
        for num_bytes in (config.reservoir_bytes, 2**62)
    )
    if held == wanted:
        return ""
    image_bytes = config.reservoir_bytes / room_for(config, image_size)
    num_drawn = config.num_generated_per_batch
    return (
        f"each worker's reservoir has memory for {held:,} images: {min(1, num_drawn / held):.0%} of a batch come in "
        f"the next one too. training.reservoir_bytes={math.ceil(wanted * image_bytes):_} holds {wanted:,}."
    )


def room_for(config: TrainingConfig, image_size: int) -> int:
    """Return how many images a worker has memory for, however badly they compress."""
    overhead = MAX_FILE_OVERHEAD_BYTES if config.reservoir_format == "png" else 0
    return config.reservoir_bytes // (image_size**2 * 3 + overhead)


def build_reservoir(
    config: TrainingConfig, uses: Uses, batch_size: int, image_size: int, key: tuple[int, int, int], fill: int = 0
) -> "Reservoir":
    """Return an empty reservoir, to have so many images before a step draws `batch_size` of them."""
    if uses.most == 1:  # nothing is used again: what has to wait waits in the stream
        store = PixelStore(2 * batch_size * image_size**2 * 3, image_size)
    elif config.reservoir_format == "pixels":
        store = PixelStore(config.reservoir_bytes, image_size)
    else:
        store = EncodedStore(config.reservoir_bytes, image_size)
    return Reservoir(store, uses, key, fill)


def check_reservoir(config: TrainingConfig, image_size: int) -> None:
    """Raise ValueError if a worker's memory for images cannot hold those that must be there, however often used."""
    uses = Uses(config.least_uses, config.most_uses)
    least = uses.needed(config.batch_size_per_worker) if uses.is_exact else 2 * config.batch_size_per_worker
    least_bytes = least * (image_size**2 * 3 + MAX_FILE_OVERHEAD_BYTES)
    if config.most_uses > 1 and config.reservoir_bytes < least_bytes:
        raise ValueError(
            f"training.reservoir_bytes is {config.reservoir_bytes}, and {least} images have to fit, as batches are of "
            f"{config.batch_size_per_worker} and training.reuse is {config.reuse}. Give {least_bytes} or more."
        )
    if config.most_uses > 1 and config.reservoir_min_images > room_for(config, image_size):
        raise ValueError(
            f"training.reservoir_min_images is {config.reservoir_min_images}, and training.reservoir_bytes "
            f"{config.reservoir_bytes} holds {room_for(config, image_size)}. Give fewer, or more memory."
        )


class Reservoir:
    """Images with the uses that each has left; at most one thread may be in it."""

    def __init__(self, store: ImageStore, uses: Uses, key: tuple[int, int, int], min_images: int = 0) -> None:
        """Take where images are kept, how often they are used, and by what steps draw.

        `key` is a seed, a worker's rank and a domain's number. Before a step draws there are to be `min_images`, while
        more are to come.
        """
        self.store = store
        self.uses = uses
        self.key = key
        self.min_images = min_images
        self.free: list[int] = []
        """Places that had an image."""

        self.num_used_slots = 0
        """All slots from here on have had none."""

        self.order = np.zeros(0, np.int64)
        """Places in use, in the order in which their images came."""

        self.serials, self.labels = (np.zeros(store.num_slots, np.int64) for _ in range(2))
        self.extents = np.zeros((store.num_slots, 2), np.int64)
        self.left = np.zeros(store.num_slots, np.int32)
        """How often each place's image may still be used."""

        self.num_uses_left = 0
        """How often its images may be used, all together."""

    def __len__(self) -> int:
        return len(self.order)

    @property
    def num_uses_owed(self) -> int:
        """How often its images are still to be used, at the least."""
        owed = self.left[self.order] - (self.uses.most - self.uses.least)
        return int(np.maximum(owed, 0).sum())

    def can_draw(self, size: int, is_last: bool) -> bool:
        """Return whether a step may take so many: the images are there, and the rest can be used up later."""
        if is_last:
            return self.num_uses_left >= size
        return len(self) >= size and self.num_uses_left >= self.uses.needed(size) and not self.num_missing

    @property
    def num_missing(self) -> int:
        """How many more images it is to have before a step draws; none if there is room for no more."""
        return max(0, min(self.min_images - len(self), self.store.room(len(self))))

    def make_room(self, wanted: int) -> tuple[int, np.ndarray]:
        """Return for how many more images there is room, up to `wanted`, and the serials of those that went for it.

        Who was used most goes first, the oldest of these, and nobody before its least number of uses.
        """
        lacking = wanted - self.store.room(len(self))
        evicted = np.zeros(0, np.int64)
        if lacking > 0 and not self.uses.is_exact:
            left = self.left[self.order]
            may_go = np.flatnonzero(left <= self.uses.most - self.uses.least)
            chosen = may_go[np.argsort(left[may_go], kind="stable")[:lacking]]
            evicted = self.serials[self.order[chosen]]
            self._evict(chosen)
        return min(wanted, self.store.room(len(self))), evicted

    def add(
        self,
        serials: np.ndarray,
        labels: np.ndarray,
        images: np.ndarray,
        uses_left: np.ndarray,
        extents: np.ndarray | None = None,
    ) -> None:
        """Take `N` images, for which there is room: int64 [N], int64 [N], uint8 [N, H, W, 3], int32 [N].

        Extents are int64 [N, 2], of images that do not fill their array.
        """
        slots = np.array([self._free_slot() for _ in serials], dtype=np.int64)
        self.store.put(slots, images)
        self.serials[slots], self.labels[slots], self.left[slots] = serials, labels, uses_left
        self.extents[slots] = images.shape[1:3] if extents is None else extents
        self.order = np.concatenate([self.order, slots])
        self.num_uses_left += int(uses_left.sum())

    def _free_slot(self) -> int:
        if self.free:
            return self.free.pop()
        self.num_used_slots += 1
        return self.num_used_slots - 1

    def draw(self, step: int, size: int, is_last: bool) -> Batch:
        """Return `size` different images, drawn uniformly by a function of the step, and count a use of each.

        Where no more will come (`is_last`), those that every batch from here on needs are taken first, so that at the
        end nothing is left over. Where a run goes on with fewer steps left than an image has uses, it comes twice.
        """
        chosen = self._choose(step, size, is_last)
        slots = self.order[chosen]
        again = np.arange(size) - np.searchsorted(chosen, chosen)
        columns = {
            "serial": self.serials[slots],
            "label": self.labels[slots],
            "use": (self.uses.most - self.left[slots] + again).astype(np.int64),
            "extent": self.extents[slots],
        }
        batch = {name: torch.from_numpy(column) for name, column in columns.items()}
        batch["image"] = self.store.get(slots)
        np.subtract.at(self.left, slots, 1)
        self.num_uses_left -= size
        self._evict(np.unique(chosen[self.left[slots] == 0]))
        return batch

    def _choose(self, step: int, size: int, is_last: bool) -> np.ndarray:
        """Return which of `order` are taken, ascending."""
        random = stream(Purpose.RESERVOIR, self.key[0], step, *self.key[1:])
        left = self.left[self.order]
        if not is_last:
            return np.sort(random.choice(len(left), size, replace=False, shuffle=False))
        num_draws = left.sum() // size
        if len(left) < size or (left > num_draws).any():  # another number of workers or parts has left no other way
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
        self.free += slots.tolist()
        self.order = np.delete(self.order, chosen)
