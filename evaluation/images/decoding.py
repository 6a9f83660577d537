"""Files' bytes to pixels: RGB, upright where that is wanted, cut to a square. Knows no folders, classes or Ray."""

import errno
import os
import socket
import stat
import struct
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from generation.shards.storage import StorageError

BITS = (8, 10, 12, 14, 16, 24, 31, 32)
"""How many bits a value may have."""

MAX_OF_UNIT_FLOATS = 2.0
"""Floats of which none is larger are taken for 0..1: a resampler may have gone somewhat beyond."""

SAMPLE_FORMAT, UNSIGNED = 339, 1
"""TIFF's SampleFormat tag, and its value for unsigned integers: PIL reads those of 32 bits as signed."""

DAMAGED_EXIF = (struct.error, KeyError, SyntaxError, TypeError, ValueError, ZeroDivisionError)
"""What PIL ends with, as it says itself, where EXIF is not what it should be."""


class UnreadableImageError(StorageError):
    """An image cannot be decoded."""

    name = ""
    """What a user calls it."""


def read_image(file: str | BinaryIO, name: str = "") -> Image.Image:
    """Return a file's image as RGB; UnreadableImageError with its name, by default its path, if damaged.

    It lies as it is stored, as torchvision reads it; `upright` turns it as its EXIF says.

    StorageError if this machine cannot read the file, whatever is in it.
    """
    try:
        if isinstance(file, str) and not stat.S_ISREG(os.stat(file).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")  # reading a pipe might never end
        with Image.open(file) as image:
            image.load()  # some formats have EXIF behind the image
            rgb, exif = _rgb(image), Image.Exif()
            exif[ExifTags.Base.Orientation] = _orientation(image)
            rgb.info = {"exif": exif.tobytes()}  # no more of it: the rest may be damaged
            return rgb
    except Exception as error:  # PIL's decoders end with errors of any kind
        shown = shown_name(name or str(file))
        if isinstance(error, OSError) and error.errno is not None:
            raise StorageError(
                f"The image '{shown}' cannot be read on {socket.gethostname()}: {error.strerror}. Check that "
                "every node has its folder."
            ) from error
        unreadable = UnreadableImageError(
            f"The image '{shown}' cannot be decoded: {shown_name(str(error))}. Replace it, or remove it "
            "and start a new run."
        )
        unreadable.name = shown
        raise unreadable from error


def shown_name(name: str) -> str:
    """Return a file's name as a line of text that can be written anywhere: bytes that are no UTF-8 as escapes."""
    return name.encode("utf-8", errors="backslashreplace").decode("utf-8").replace("\n", "\\n")


def upright(image: Image.Image) -> Image.Image:
    """Return an image of `read_image` as its EXIF says that it was seen."""
    return ImageOps.exif_transpose(image)


def square(image: Image.Image, size: int) -> np.ndarray:
    """Return the largest centred square of an RGB image, made `size` wide, bicubic: uint8 [size, size, 3]."""
    return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC))


def fitted(image: Image.Image, size: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the whole of an RGB image in the corner of a black square, and its height and width there, in pixels.

    It is shrunk, bicubic, if its longer side is above `size`, and never enlarged: uint8 [size, size, 3].
    """
    scale = size / max(image.size)
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    canvas = np.zeros((size, size, 3), np.uint8)
    canvas[: image.height, : image.width] = np.asarray(image)
    return canvas, (image.height, image.width)


@dataclass(frozen=True)
class Crop:
    """What of an image is shown to a network."""

    resize_size: int
    """What the shorter side is made, in pixels."""

    crop_size: int
    """Height and width of what is cropped from the centre, in pixels."""

    interpolation: str
    """`bilinear` or `bicubic`."""

    is_upright: bool = False
    """Whether it is turned as its EXIF says."""

    is_squashed: bool = False
    """Whether the longer side is made `resize_size` too, as timm's crop mode `squash` does."""

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Return the centre of an RGB image whose shorter side was resized: uint8 [crop_size, crop_size, 3].

        As torchvision's Resize and CenterCrop do it, to the pixel, for a crop no larger than `resize_size`.
        """
        image = upright(image) if self.is_upright else image
        width, height = image.size
        shorter = self.resize_size
        longer = shorter if self.is_squashed else int(shorter * max(width, height) / min(width, height))
        size = (shorter, longer) if width <= height else (longer, shorter)
        if size != image.size:
            image = image.resize(size, Image.Resampling[self.interpolation.upper()])
        left, top = (round((side - self.crop_size) / 2) for side in size)
        return np.asarray(image.crop((left, top, left + self.crop_size, top + self.crop_size)))


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1, upright, where EXIF is damaged, which is no damage of the image."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except DAMAGED_EXIF:
        return 1
    return int(found) if found in range(1, 9) else 1  # some write it as a fraction


def _rgb(image: Image.Image) -> Image.Image:
    """Return it as RGB; of more than 8 bits the upper 8, where PIL would make white or black of nearly all."""
    if image.mode.startswith(("I", "F")):
        values = np.nan_to_num(_values(image), posinf=0, neginf=0).clip(0)
        white = 1 if image.mode == "F" and values.max() <= MAX_OF_UNIT_FLOATS else _white(values.max())
        image = Image.fromarray((values / white * 255).round().clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def _values(image: Image.Image) -> np.ndarray:
    values = np.asarray(image)
    is_unsigned = getattr(image, "tag_v2", {}).get(SAMPLE_FORMAT, UNSIGNED) in (UNSIGNED, (UNSIGNED,))
    if image.mode == "I" and image.format == "TIFF" and is_unsigned:
        values = values.view(np.uint32)
    return values.astype(np.float64)


def _white(brightest: float) -> int:
    """Return the full scale of the smallest of `BITS` that holds the brightest value: files seldom state it."""
    return next((2**bits - 1 for bits in BITS if brightest <= 2**bits - 1), 2 ** BITS[-1] - 1)
