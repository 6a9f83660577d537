"""Decode image files to RGB pixels, optionally upright, cropped to a square. Uses no Ray."""

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
"""Possible numbers of bits per value."""

MAX_OF_UNIT_FLOATS = 2.0
"""Float images without larger values are taken as 0..1; resampling may overshoot slightly."""

SAMPLE_FORMAT, UNSIGNED = 339, 1
"""TIFF's SampleFormat tag, and its value for unsigned integers: PIL reads those of 32 bits as signed."""

DAMAGED_EXIF = (struct.error, KeyError, SyntaxError, TypeError, ValueError, ZeroDivisionError)
"""Exceptions that PIL documents for damaged EXIF."""


class UnreadableImageError(StorageError):
    """An image cannot be decoded."""

    name = ""
    """Name of the image, as shown to users."""


def read_image(file: str | BinaryIO, name: str = "") -> Image.Image:
    """Return a file's image as RGB; UnreadableImageError with its name, by default its path, if it is damaged.

    The orientation is the stored one, as in torchvision; `upright` applies the EXIF orientation.

    StorageError if this machine cannot read the file, whatever its contents.
    """
    try:
        if isinstance(file, str) and not stat.S_ISREG(os.stat(file).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")  # reading a pipe might never end
        with Image.open(file) as image:
            image.load()  # some formats store EXIF after the image
            rgb, exif = _rgb(image), Image.Exif()
            exif[ExifTags.Base.Orientation] = _orientation(image)
            rgb.info = {"exif": exif.tobytes()}  # drop the rest, which may be damaged
            return rgb
    except Exception as error:  # PIL's decoders raise errors of any kind
        shown = printable_name(name or str(file))
        if isinstance(error, OSError) and error.errno is not None:
            raise StorageError(
                f"The image '{shown}' cannot be read on {socket.gethostname()}: {error.strerror}. Check that "
                "every node has its folder."
            ) from error
        unreadable = UnreadableImageError(
            f"The image '{shown}' cannot be decoded: {printable_name(str(error))}. Replace it, or remove it "
            "and start a new run."
        )
        unreadable.name = shown
        raise unreadable from error


def printable_name(name: str) -> str:
    """Return a file's name as one line of printable text, with bytes that are not UTF-8 as escapes."""
    return name.encode("utf-8", errors="backslashreplace").decode("utf-8").replace("\n", "\\n")


def upright(image: Image.Image) -> Image.Image:
    """Return an image of `read_image` rotated by its EXIF orientation."""
    return ImageOps.exif_transpose(image)


def square(image: Image.Image, size: int) -> np.ndarray:
    """Return the largest center square of an RGB image, resized to `size`, bicubic: uint8 [size, size, 3]."""
    return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC))


def fitted(image: Image.Image, size: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Return a whole RGB image in the corner of a black square, and its height and width there, in pixels.

    The square is uint8 [size, size, 3]. The image is shrunk, bicubic, if its longer side exceeds `size`; never
    enlarged.
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
    """Resize and center crop of a network's input images."""

    resize_size: int
    """Size to which the shorter side is resized, in pixels."""

    crop_size: int
    """Height and width of the center crop, in pixels."""

    interpolation: str
    """`bilinear` or `bicubic`."""

    is_upright: bool = False
    """Whether the image is rotated by its EXIF orientation."""

    is_squashed: bool = False
    """Whether the longer side is resized to `resize_size` too, as in timm's crop mode `squash`."""

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Return the center of a resized RGB image: uint8 [crop_size, crop_size, 3].

        Pixel-identical to torchvision's Resize and CenterCrop for a crop no larger than `resize_size`.
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
    """Return the EXIF orientation; 1, upright, if EXIF is damaged, which leaves the image intact."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except DAMAGED_EXIF:
        return 1
    return int(found) if found in range(1, 9) else 1  # some files store it as a fraction


def _rgb(image: Image.Image) -> Image.Image:
    """Return the image as RGB. More than 8 bits become the upper 8; PIL would clip nearly all to white or black."""
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
    """Return the full scale of the smallest of `BITS` that holds the brightest value; files rarely state it."""
    return next((2**bits - 1 for bits in BITS if brightest <= 2**bits - 1), 2 ** BITS[-1] - 1)
