"""Real labeled images as Ray Datasets, for training and validation. Uses no classifier."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import ray.data

from evaluation.config import EvaluationConfig
from evaluation.images.class_names import NOT_SHARED, labels_of_classes, labels_of_titles, matching_labels
from evaluation.images.decoding import UnreadableImageError, fitted, square, upright
from evaluation.images.digits import DIGITS, digit_images
from evaluation.images.image_list import ImageList
from evaluation.images.layouts import open_layout
from evaluation.images.real_sets import RealSet
from evaluation.images.unreadable import NO_SKIPPING, Unreadable
from generation.indices import SampleRequest
from generation.passes import Passes
from generation.random_streams import Purpose, stream
from generation.recipes.labels import LabelSpace, load_label_space
from generation.shards.storage import StorageError
from generation.stream.units import MAX_READING_BLOCKS, PARTS_PER_READER, UNIT_BYTES, bound_memory, map_units

NUM_BLOCKS = 8
"""Number of blocks in the dataset of a small set."""

MAX_VALIDATION_BYTES = 2_000_000_000
"""Maximum size of validation images in memory."""

MAX_IMAGES_PER_UNIT = 64
"""Maximum number of images that are read at once and become one block."""


def real_training_images(
    path: str, label_space: LabelSpace, image_size: int, seed: int, num_readers: int = 2
) -> "RealTrainingImages":
    """Return the images at a path, in any layout of `evaluation.images.layouts`, or the training split of `digits`.

    Files are listed, not opened. ValueError if the classes are not those of the label space, or are only numbered and
    incomplete.
    """
    if path == DIGITS:
        source, space = digit_images(for_training=True), load_label_space(DIGITS)
    else:
        source = open_layout(path, split="train")
        space = _space_of(source, path, label_space)
        _check_numbers(source, path, space)
    is_imagenet = space.name == "imagenet1k" and len(source.titles) == space.num_classes
    by_class = labels_of_titles(source.classes, source.titles, path, space, is_order_known=is_imagenet)
    labels = matching_labels(space, label_space)[by_class[source.class_numbers()]]
    positions = np.flatnonzero(labels != NOT_SHARED)
    if path == DIGITS and not len(positions):
        raise ValueError(
            f"The real images are 'digits', but the classes are those of {label_space.name}. Use a folder with "
            "one folder of images per class."
        )
    return RealTrainingImages(source, positions, labels[positions], image_size, seed, num_readers)


def _space_of(source: ImageList, path: str, label_space: LabelSpace) -> LabelSpace:
    """Return the label space of a source: ImageNet's 1,000 classes if `label_space` is only a part of those it has."""
    thousand = load_label_space("imagenet1k")
    if not {entry.wnid for entry in label_space.classes} < {entry.wnid for entry in thousand.classes}:
        return label_space
    if len(source.titles) == thousand.num_classes:
        return thousand
    names = source.titles or source.classes
    try:
        labels_of_classes(names, path, label_space)
    except ValueError:
        return thousand
    return label_space


def _check_numbers(source: ImageList, path: str, space: LabelSpace) -> None:
    """Raise ValueError if classes are only numbered and incomplete: the numbers may be those of another set."""
    is_numbered = not source.titles and all(name.isdecimal() for name in source.classes)
    are_names = set(source.classes) <= set(space.class_names)
    if is_numbered and not are_names and len(source.classes) < space.num_classes:
        raise ValueError(
            f"'{path}' has numbers for {len(source.classes)} classes, but {space.name} has {space.num_classes}, so "
            "it is unknown which classes these are. Name classes by wnid or class name, or add images of all classes."
        )


def missing_classes(images: "RealTrainingImages", path: str, label_space: LabelSpace) -> str:
    """Return a sentence with the classes that have no images; empty if there are none."""
    missing = np.setdiff1d(np.arange(label_space.num_classes), images.labels)
    if not len(missing):
        return ""
    names = [label_space.classes[label].wnid or label_space.class_names[label] for label in missing[:3].tolist()]
    return (
        f"'{path}' has no images of {len(missing)} of the {label_space.num_classes} classes of {label_space.name}: "
        f"{', '.join(names)}{', ...' if len(missing) > 3 else '.'}"
    )


def validation_images(images: RealSet, image_size: int, config: EvaluationConfig) -> ray.data.Dataset:
    """Return a small set as rows `label` int64 and `image` uint8 [image_size, image_size, 3], for validation.

    ValueError for a set that is too large for memory. StorageError if more than `evaluation.allow_unreadable` images
    cannot be decoded.
    """
    num_bytes = images.num_images * image_size**2 * 3
    if num_bytes > MAX_VALIDATION_BYTES:
        raise ValueError(
            f"'{images.name}' has {images.num_images:,} images of {num_bytes / 1e9:.1f} GB, too large for validation "
            f"during training (at most {MAX_VALIDATION_BYTES / 1e9:.0f} GB). Put a smaller set first in "
            "evaluation.sets."
        )
    return ray.data.from_items(readable_rows(images, image_size, config), override_num_blocks=NUM_BLOCKS)


def readable_rows(images: RealSet, image_size: int, config: EvaluationConfig) -> list[dict[str, Any]]:
    """Return the rows of `validation_images`, without undecodable images."""
    read = images.source.opener()
    rows, unreadable = [], []
    for position, label in zip(images.positions.tolist(), images.labels, strict=True):
        try:
            image = upright(read(position)) if config.upright else read(position)
            rows.append({"image": square(image, image_size), "label": label})
        except UnreadableImageError as error:
            unreadable.append(error)
            if len(unreadable) > config.allow_unreadable:
                raise StorageError(
                    f"{error} Unreadable images of '{images.name}' so far: {len(unreadable)}. Set "
                    f"evaluation.allow_unreadable={len(unreadable)} or more to skip them."
                ) from error
    if not rows:
        raise StorageError(f"None of the {images.num_images:,} images of '{images.name}' can be decoded.")
    return rows


@dataclass(frozen=True, eq=False)
class RealTrainingImages:
    """Real images to train on, in passes. Index `i` is the same image in every pass and for every seed."""

    source: ImageList
    positions: np.ndarray
    """int64 [num_images]: positions of the images in `source`."""

    labels: np.ndarray
    """int64 [num_images]."""

    image_size: int
    """Height and width of the image in a row, in pixels."""

    seed: int
    """Seed of the order of each pass."""

    num_readers: int = 2
    """Processes that read and decode images, over all consumers."""

    is_upright: bool = False
    """Whether images are rotated by their EXIF orientation."""

    is_whole: bool = False
    """Whether rows contain the whole photograph, see `evaluation.images.decoding.fitted`; else its center square."""

    unreadable: Unreadable = NO_SKIPPING
    """Limit of undecodable images that may be skipped; each is replaced by another one of its class."""

    def split(self, num_held_out: int) -> tuple["RealTrainingImages", "RealTrainingImages"]:
        """Return `num_held_out` images, the same for every seed, and the others; ValueError if none are left."""
        if num_held_out >= self.num_images:
            raise ValueError(
                f"training.num_held_out is {num_held_out}, but there are {self.num_images} real images in all. Use "
                "fewer."
            )
        order = stream(Purpose.REAL_IMAGE_ORDER, 0, 0, 2).permutation(self.num_images)
        held_out, others = (
            dataclasses.replace(self, positions=self.positions[rows], labels=self.labels[rows])
            for rows in (np.sort(order[:num_held_out]), np.sort(order[num_held_out:]))
        )
        return held_out, others

    @property
    def num_images(self) -> int:
        """Number of images; each comes once per pass."""
        return len(self.positions)

    @property
    def images_per_unit(self) -> int:
        """Number of images that are read at once."""
        return max(1, min(MAX_IMAGES_PER_UNIT, UNIT_BYTES // self.image_bytes))

    @property
    def image_bytes(self) -> int:
        """Size of the image in a row, in bytes."""
        return self.image_size**2 * 3

    def passes(self, request: SampleRequest) -> Passes:
        """Return the passes over the images that `request` covers."""
        return Passes(self.num_images, request, Purpose.REAL_IMAGE_ORDER, self.seed)

    def open(self, request: SampleRequest) -> ray.data.Dataset:
        """Return rows `serial`, `index` and `label` int64, `image` uint8 [image_size, image_size, 3].

        With whole photographs, also `extent` int64 [2], the height and width of the photograph in its corner.

        Passes come in order, each shuffled differently, or by ascending serial if `request.in_order`; otherwise readers
        may be a block of units apart.
        """
        units = reading_units(self.passes(request), self.images_per_unit)
        num_readers = 1 if request.in_order else max(1, self.num_readers // request.num_consumers)
        dataset = map_units((RealReader, [self, request]), units, num_readers, MAX_READING_BLOCKS)
        dataset.context.execution_options.preserve_order = request.in_order
        unit_bytes = self.images_per_unit * self.image_bytes
        bound_memory(dataset, unit_bytes, num_readers * PARTS_PER_READER * unit_bytes)
        return dataset


class RealReader:
    """Ray actor that reads the units of `reading_units`."""

    def __init__(self, source: RealTrainingImages, request: SampleRequest) -> None:
        self.source = source
        order = positions_by_index(source.num_images)
        self.positions, self.labels = source.positions[order], source.labels[order]
        self.read = source.source.opener()
        self.passes = source.passes(request)
        self.order = lru_cache(maxsize=1)(lambda pass_number: order_of_pass(self.passes, pass_number))

    def __call__(self, unit: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        """Yield one unit's images.

        A generator, because Ray Data wraps the exceptions of plain functions in its own.
        """
        unit_rows = slice(start := int(unit["start"][0]), start + self.source.images_per_unit)
        indices, serials = (column[unit_rows] for column in self.order(int(unit["pass"][0])))
        images, extents = zip(*(self._image(index) for index in indices.tolist()), strict=True)
        rows = {
            "serial": serials,
            "index": indices,
            "label": self.labels[indices],
            "image": np.stack(images),
        }
        yield rows | ({"extent": np.array(extents)} if self.source.is_whole else {})

    def _image(self, index: int) -> tuple[np.ndarray, tuple[int, int]]:
        """Return the image at an index; if it is skipped, that of the next index of its class that can be decoded."""
        size = self.source.image_size
        for each in self._alike(index):
            try:
                image = self.read(int(self.positions[each]))
            except UnreadableImageError as error:
                self.source.unreadable.record(error)
                continue
            image = upright(image) if self.source.is_upright else image
            return fitted(image, size) if self.source.is_whole else (square(image, size), (size, size))
        raise StorageError(
            f"None of the {np.sum(self.labels == self.labels[index])} images of a class can be decoded. Replace "
            f"those listed in '{self.source.unreadable.file}'."
        )

    def _alike(self, index: int) -> Iterator[int]:
        """Yield an index, then the other indices of its class, starting after it and wrapping around."""
        yield index
        alike = np.flatnonzero(self.labels == self.labels[index])
        yield from [*alike[alike > index].tolist(), *alike[alike < index].tolist()]


def reading_units(passes: Passes, size: int) -> list[dict[str, int]]:
    """Return units of up to `size` images: the pass, and the unit's start in its `order_of_pass`."""
    return [
        {"pass": pass_number, "start": start}
        for pass_number, indices in passes.sections()
        for start in range(0, len(indices), size)
    ]


def order_of_pass(passes: Passes, pass_number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the requested indices of a pass in reading order, and their serials, both int64."""
    return passes.choose(pass_number, passes.order(passes.num_images, pass_number))


def positions_by_index(num_images: int) -> np.ndarray:
    """Return the list position of each index, int64 [num_images]: shuffled, so that neighbours are unrelated."""
    return stream(Purpose.REAL_IMAGE_ORDER, 0, 0, 1).permutation(num_images)
