"""The real handwritten digits as a set of images: those of training, of evaluation, and the latter under a shift."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from evaluation.images.shifts import check_shift, shifted_digits
from generation.digits.real_digits import evaluation_digits, training_digits
from generation.recipes.labels import load_label_space

DIGITS = "digits"
"""What they are called: `digits`, and `digits/SHIFT`."""


def is_digits(name: str) -> bool:
    """Return whether a set of this name is one of digits."""
    return name.split("/", maxsplit=1)[0] == DIGITS


@dataclass(frozen=True)
class DigitImages:
    """An `ImageSource` of digits; nothing is read from anywhere."""

    for_training: bool = False
    """Whether they are the 1,257 that no evaluation uses, not the 540 that nothing is trained on."""

    shift: str = ""
    """A name of `evaluation.images.shifts.SHIFTS`, for evaluation."""

    @property
    def num_images(self) -> int:
        """How many there are."""
        return len(self._digits[1])

    @property
    def names_hash(self) -> int:
        """Return a number that no other images have: they are what they are."""
        return zlib.crc32(f"digits {self.for_training} {self.shift}".encode())

    @property
    def classes(self) -> tuple[str, ...]:
        """Wnids."""
        return tuple(entry.wnid for entry in load_label_space(DIGITS).classes)

    @property
    def titles(self) -> tuple[str, ...]:
        """Return nothing: classes are not numbered."""
        return ()

    def class_numbers(self) -> np.ndarray:
        """Return the class of each, int64 [num_images]."""
        return self._digits[1]

    def names(self) -> list[str]:
        """Return their places."""
        return [f"digit {position}" for position in range(self.num_images)]

    def opener(self) -> Callable[[int], Image.Image]:
        """Return what gives the image at a position."""
        images, _ = self._digits
        return lambda position: Image.fromarray(images[position])

    @property
    def _digits(self) -> tuple[np.ndarray, np.ndarray]:
        if self.for_training:
            return training_digits()
        return shifted_digits(self.shift) if self.shift else evaluation_digits()


def open_digits(name: str) -> DigitImages:
    """Return the evaluation digits that `digits` or `digits/SHIFT` names; ValueError for an unknown shift."""
    shift = name.removeprefix(DIGITS).removeprefix("/")
    if shift:
        check_shift(shift)
    return DigitImages(shift=shift)
