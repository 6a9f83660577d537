"""The real handwritten digits as image sets: training, evaluation, and evaluation under a shift."""

import zlib
from functools import partial

import numpy as np

from evaluation.images.image_list import ImageList, open_array, pack_names
from evaluation.images.shifts import check_shift, shifted_digits
from generation.digits.real_digits import evaluation_digits, training_digits
from generation.recipes.labels import load_label_space

DIGITS = "digits"
"""Name of the set; shifted sets are `digits/SHIFT`."""


def is_digits(name: str) -> bool:
    """Return whether a name is `digits` or `digits/SHIFT`."""
    return name.split("/", maxsplit=1)[0] == DIGITS


def digit_images(for_training: bool = False, shift: str = "") -> ImageList:
    """Return the 1,257 training digits, or the 540 evaluation digits, which are never trained on, optionally shifted.

    ValueError for an unknown shift.
    """
    if shift:
        check_shift(shift)
    _, labels = training_digits() if for_training else evaluation_digits()
    return ImageList(
        folder="",
        classes=tuple(entry.wnid for entry in load_label_space(DIGITS).classes),
        numbers=labels.astype(np.int32),
        packed_names=pack_names(f"digit {position}" for position in range(len(labels))),
        names_hash=zlib.crc32(f"digits {for_training} {shift}".encode()),
        opener_of=partial(open_array, partial(_pixels, for_training, shift)),
    )


def _pixels(for_training: bool, shift: str) -> np.ndarray:
    if shift:
        return shifted_digits(shift)[0]
    return (training_digits() if for_training else evaluation_digits())[0]
