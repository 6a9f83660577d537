"""Real labelled images as Ray Datasets, to judge a classifier and to train one. Knows no classifier."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import ray.data
from PIL import Image

from evaluation.real_files import LabelledImages, list_images, square
from generation.digits.real_digits import evaluation_digits, training_digits, training_positions
from generation.indices import IndexSet, Wanted
from generation.labels import LabelSpace
from generation.shards import MAX_READING_BLOCKS, PART_BYTES, PARTS_PER_READER, each_by
from generation.stream import bound_memory

NUM_BLOCKS = 8
"""Parts that a small set travels in."""

ORDER_STREAM = 6
"""Second key word of the counter-based generator, as in `generation.shards`: in which order images are read."""

MAX_IMAGES_PER_UNIT = 64
"""Images that are read at once and travel in one block."""


def check_real_images(name: str, label_space: str, must_have_images: bool = False) -> None:
    """Raise ValueError if the set does not have the classes of `label_space`, or no images where it must."""
    if name == "none" and must_have_images:
        raise ValueError("evaluation.dataset is 'none', so there is nothing to evaluate on. Choose digits.")
    if name == "digits" and label_space != "digits":
        raise ValueError(f"evaluation.dataset is 'digits', but the classes are those of '{label_space}'. Choose none.")


def real_images(name: str, image_size: int) -> ray.data.Dataset:
    """Return rows `label` int64 and `image` uint8 [image_size, image_size, 3]; ValueError for an unknown name."""
    if name != "digits":
        raise ValueError(f"evaluation.dataset is '{name}', which names no real images. Choose digits.")
    images, labels = evaluation_digits()
    resized = np.stack([square(Image.fromarray(image), image_size) for image in images])
    rows = [{"image": image, "label": label} for image, label in zip(resized, labels, strict=True)]
    return ray.data.from_items(rows, override_num_blocks=NUM_BLOCKS)


def real_training_images(
    place: str, label_space: LabelSpace, image_size: int, seed: int, num_readers: int = 2
) -> "RealTrainingImages":
    """Return the images of a folder with one folder per class, or `digits`, which no evaluation uses.

    Files are listed and not opened. ValueError if the classes are not those of the label space.
    """
    if place != "digits":
        return RealTrainingImages(list_images(place, label_space), image_size, seed, num_readers)
    if label_space.name != "digits":
        raise ValueError(
            f"The real images are 'digits', but the classes are those of {label_space.name}. Give a folder that has "
            "one folder of images per class."
        )
    return RealTrainingImages(TrainingDigits(), image_size, seed, num_readers)


class TrainingDigits:
    """The real digits that no evaluation uses."""

    @property
    def num_images(self) -> int:
        """How many there are."""
        return len(training_positions())

    @property
    def names_hash(self) -> int:
        """Return 0: they are what they are."""
        return 0

    def labels(self) -> np.ndarray:
        """Return the label of each, int64 [1257]."""
        return training_digits()[1]

    def opener(self, image_size: int) -> Callable[[int], np.ndarray]:
        """Return what gives the image at a position."""
        images, _ = training_digits()
        return lambda position: square(Image.fromarray(images[position]), image_size)


@dataclass(frozen=True)
class RealTrainingImages:
    """Real images to train on, turn by turn: index `i` is the same image in each, whatever the seed."""

    images: LabelledImages
    image_size: int
    """Height and width of a row's image, in pixels."""

    seed: int
    """Decides the order of each turn."""

    num_readers: int = 2
    """Processes that read and decode, over all consumers."""

    @property
    def num_images(self) -> int:
        """How many there are, each of which comes once a turn."""
        return self.images.num_images

    @property
    def names_hash(self) -> int:
        """Return a number that others have if files were added, removed or renamed."""
        return self.images.names_hash

    @property
    def images_per_unit(self) -> int:
        """How many images are read at once."""
        return max(1, min(MAX_IMAGES_PER_UNIT, PART_BYTES // self.image_bytes))

    @property
    def image_bytes(self) -> int:
        """The size of a row's image."""
        return self.image_size**2 * 3

    def open(self, wanted: Wanted) -> ray.data.Dataset:
        """Return rows `serial`, `index` and `label` int64, `image` uint8 [image_size, image_size, 3].

        Turn by turn, each shuffled anew, or by ascending serial where an order is wanted; where none is, readers may
        be a block of units apart.
        """
        units = reading_units(wanted.serials, self.num_images, self.images_per_unit)
        num_readers = 1 if wanted.in_order else max(1, self.num_readers // wanted.num_consumers)
        dataset = each_by(RealReader, [self, wanted], units, num_readers, MAX_READING_BLOCKS)
        dataset.context.execution_options.preserve_order = wanted.in_order
        unit_bytes = self.images_per_unit * self.image_bytes
        bound_memory(dataset, unit_bytes, num_readers * PARTS_PER_READER * unit_bytes)
        return dataset


class RealReader:
    """Reads units of `reading_units`."""

    def __init__(self, source: RealTrainingImages, wanted: Wanted) -> None:
        """Take the images, and what is wanted of them."""
        self.source = source
        self.positions = positions_by_index(source.num_images)
        self.labels = source.images.labels()[self.positions]
        self.read = source.images.opener(source.image_size)
        self.order = lru_cache(maxsize=1)(lambda lap: order_of_lap(wanted, source.num_images, source.seed, lap))

    def __call__(self, unit: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        """Yield one unit's images.

        A generator, since Ray Data hides what another function raises behind an exception of its own.
        """
        lap, start = int(unit["lap"][0]), int(unit["start"][0])
        indices = self.order(lap)[start : start + self.source.images_per_unit]
        yield {
            "serial": lap * self.source.num_images + indices,
            "index": indices,
            "label": self.labels[indices],
            "image": np.stack([self.read(position) for position in self.positions[indices].tolist()]),
        }


def reading_units(serials: IndexSet, num_images: int, size: int) -> list[dict[str, int]]:
    """Return units of up to `size` images: the lap, and where the unit starts in its `order_of_lap`."""
    return [
        {"lap": lap, "start": start}
        for lap, indices in serials.sections(num_images)
        for start in range(0, len(indices), size)
    ]


def order_of_lap(wanted: Wanted, num_images: int, seed: int, lap: int) -> np.ndarray:
    """Return the indices wanted at a turn in the order in which they come, int64.

    What is wanted of a turn is left out of its order, not shuffled anew: who goes on amid a turn goes on as before.
    """
    order = np.arange(num_images) if wanted.in_order else _random(seed, lap, 0).permutation(num_images)
    return order[wanted.serials.contains(lap * num_images + order)]


def positions_by_index(num_images: int) -> np.ndarray:
    """Return where in its list the image of each index is, int64 [num_images]: shuffled, so that neighbours differ."""
    return _random(0, 0, 1).permutation(num_images)


def _random(seed: int, lap: int, use: int) -> np.random.Generator:
    """Return a generator that is a function of its arguments alone, as in `generation.plan`."""
    key = np.array([seed, ORDER_STREAM], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, lap, use, 0], dtype=np.uint64)))
