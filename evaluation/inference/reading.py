"""Read, decode and crop images of real sets on a Ray cluster."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import ray
import ray.data

from evaluation.config import EvaluationConfig
from evaluation.images.decoding import Crop, UnreadableImageError
from evaluation.images.image_list import ImageList
from evaluation.inference.output_cache import ROW, Columns
from generation.stream.units import PARTS_PER_READER, UNIT_BYTES, bound_memory, map_units

MAX_IMAGES_PER_UNIT = 512
"""Maximum number of images in a unit, which is read as a whole and becomes one block."""

UNITS_PER_READER = 4
"""Minimum number of units per reader, so that small sets keep all readers busy."""


def crop_for(own: Crop, config: EvaluationConfig, center_crop: bool) -> Crop:
    """Return the crop for a network whose default is `own`.

    Without `center_crop` it is the whole largest center square, bicubic.
    """
    crop_size = config.crop_size or own.crop_size
    resize_size = config.resize_size or round(crop_size * own.resize_size / own.crop_size)
    if resize_size < crop_size:
        raise ValueError(f"evaluation.resize_size is {resize_size}, smaller than the crop; use {crop_size} or more.")
    if not center_crop:
        return Crop(crop_size, crop_size, "bicubic", config.upright)
    interpolation = own.interpolation if config.interpolation == "own" else config.interpolation
    return Crop(resize_size, crop_size, interpolation, config.upright, own.is_squashed)


@dataclass(frozen=True, eq=False)
class ReadRequest:
    """Images of a set to read, and how to crop them."""

    source: ImageList
    positions: np.ndarray
    """int64 [N]: the images' positions in `source`."""

    rows: np.ndarray
    """int64 [N]: the images' row numbers in the results of the set."""

    crop: Crop


def read_images(sets: Sequence[ReadRequest], config: EvaluationConfig) -> ray.data.Dataset:
    """Return a dataset of cropped images in no fixed order; all images of a block are of one set.

    Columns are `set`, the set's number, int64 [N]; `row` int64 [N]; `image` uint8 [N, crop_size, crop_size, 3]; and
    `is_read`, bool [N], False if an image cannot be decoded.
    """
    image_bytes = max(each.crop.crop_size for each in sets) ** 2 * 3
    sizes = [_unit_size(len(each.rows), image_bytes, config) for each in sets]
    units = [
        {"set": number, "start": start, "stop": min(start + size, len(each.rows))}
        for number, (each, size) in enumerate(zip(sets, sizes, strict=True))
        for start in range(0, len(each.rows), size)
    ]
    dataset = map_units(
        (ImageReader, [[ray.put(list(sets))]]), units, config.num_readers, len(units), config.label_selector
    )
    unit_bytes = max(sizes) * image_bytes
    bound_memory(dataset, unit_bytes, (config.num_readers + config.num_actors) * PARTS_PER_READER * unit_bytes)
    return dataset


def _unit_size(num_images: int, image_bytes: int, config: EvaluationConfig) -> int:
    """Return the number of images per unit: whole batches of up to 16 MB, fewer for small sets, but at least one."""
    most = min(MAX_IMAGES_PER_UNIT, UNIT_BYTES // image_bytes, num_images // (UNITS_PER_READER * config.num_readers))
    return max(1, most // config.batch_size) * config.batch_size


class ImageReader:
    """Ray actor that reads and decodes units of sets."""

    def __init__(self, sets: list[ray.ObjectRef]) -> None:
        self.sets: list[ReadRequest] = ray.get(sets[0])
        self.opener_of = lru_cache(maxsize=2)(lambda number: self.sets[number].source.opener())

    def __call__(self, unit: dict[str, np.ndarray]) -> Iterator[Columns]:
        """Yield one unit's images; undecodable images are black.

        A generator, because Ray Data wraps the exceptions of plain functions in its own.
        """
        number, start, stop = (int(unit[name][0]) for name in ("set", "start", "stop"))
        request, read = self.sets[number], self.opener_of(number)
        rows, size = request.rows[start:stop], request.crop.crop_size
        images = np.zeros((len(rows), size, size, 3), dtype=np.uint8)
        is_read = np.ones(len(rows), dtype=bool)
        for i, position in enumerate(request.positions[start:stop].tolist()):
            try:
                images[i] = request.crop(read(position))
            except UnreadableImageError:
                is_read[i] = False
        yield {"set": np.full(len(rows), number), ROW: rows, "image": images, "is_read": is_read}
