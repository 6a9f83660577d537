"""The real test digits under distribution shifts: a robustness suite of 540 images per shift that runs anywhere.

A shifted image depends only on the shift's name, the digit and its position, not on a classifier.
"""

import difflib
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from generation.digits.real_digits import evaluation_digits
from generation.random_streams import Purpose, stream

TEXTURE_CELLS = 4
"""Colors along a side of a background, with interpolation between them."""

BRIGHTEST_BACKGROUND = 144
"""Maximum value (0..255) of a background; ink is white."""

NOISE_SIGMA = 96.0
"""Standard deviation of the noise before clipping, in values of 0..255."""

BLUR_SIGMA = 2.5
"""Standard deviation of the blur, in pixels of a 32-pixel image."""

MAX_DEGREES = 30.0
"""Maximum rotation of a digit, in either direction."""

THINNING_RADIUS = 2
"""Thinning takes the darkest value within this many steps, in pixels along rows and columns."""

Shift = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""Function from a digit's image to a shifted one, both uint8 [H, W, 3]."""


def shifted_digits(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8 [540, 32, 32, 3] and labels int64 [540]; ValueError with the nearest names if unknown."""
    check_shift(name)
    images, labels = evaluation_digits()
    return np.stack([shift_image(name, image, position) for position, image in enumerate(images)]), labels


def check_shift(name: str) -> None:
    """Raise ValueError with the nearest names for an unknown shift."""
    if name not in SHIFTS:
        near = difflib.get_close_matches(name, SHIFTS, n=3) or list(SHIFTS)
        raise ValueError(f"There is no shift '{name}'. Did you mean {' or '.join(near)}?")


def shift_image(name: str, image: np.ndarray, position: int) -> np.ndarray:
    """Return the shifted image uint8 [H, W, 3] of the digit uint8 [H, W, 3] at `position`."""
    return SHIFTS[name](image, shift_random(name, position))


def shift_random(name: str, position: int) -> np.random.Generator:
    """Return the random generator for the shift of one image, independent of other shifts."""
    return stream(Purpose.SHIFTS, zlib.crc32(name.encode()), position)


def texture(height: int, width: int, random: np.random.Generator) -> np.ndarray:
    """Return a smooth field of colors, float32 [height, width, 3] in 0..`BRIGHTEST_BACKGROUND`."""
    colours = random.random((3, TEXTURE_CELLS, TEXTURE_CELLS), dtype=np.float32)
    channels = [Image.fromarray(colour).resize((width, height), Image.Resampling.BICUBIC) for colour in colours]
    return np.clip(np.stack([np.asarray(channel) for channel in channels], axis=2), 0, 1) * BRIGHTEST_BACKGROUND


def erode(image: np.ndarray) -> np.ndarray:
    """Return the darkest value around each pixel, uint8 [H, W, 3]; strokes at the border are treated as continuing."""
    steps = abs(np.arange(-THINNING_RADIUS, THINNING_RADIUS + 1))
    diamond = np.add.outer(steps, steps) <= THINNING_RADIUS
    from scipy import ndimage

    return ndimage.grey_erosion(image, footprint=diamond[:, :, None], mode="nearest")


def _invert(image: np.ndarray, _random: np.random.Generator) -> np.ndarray:
    return 255 - image


def _put_on_background(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Blend white ink over a texture, with the image's brightness as opacity."""
    cover = image / 255
    return _to_pixels(255 * cover + texture(image.shape[0], image.shape[1], random) * (1 - cover))


def _add_noise(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return _to_pixels(image + random.normal(scale=NOISE_SIGMA, size=image.shape))


def _blur(image: np.ndarray, _random: np.random.Generator) -> np.ndarray:
    from scipy import ndimage

    blurred = ndimage.gaussian_filter(image.astype(np.float64), (BLUR_SIGMA, BLUR_SIGMA, 0), mode="nearest")
    return _to_pixels(blurred)


def _rotate(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Rotate by a random angle, counterclockwise if positive; the outside is black."""
    degrees = random.uniform(-MAX_DEGREES, MAX_DEGREES)
    return np.array(Image.fromarray(image).rotate(degrees, Image.Resampling.BILINEAR))


def _thin(image: np.ndarray, _random: np.random.Generator) -> np.ndarray:
    """Erode the strokes, then scale the brightness so that the brightest pixel is white."""
    thin = erode(image)
    return _to_pixels(thin * (255 / max(int(thin.max()), 1)))


def _to_pixels(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


SHIFTS: dict[str, Shift] = {
    "inverted": _invert,
    "backgrounds": _put_on_background,
    "noisy": _add_noise,
    "blurred": _blur,
    "rotated": _rotate,
    "thinned": _thin,
}
