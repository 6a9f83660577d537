"""Parameters of random crops from given random numbers: their boxes and color changes.

Works on numbers only: `training.augmentation.operations` changes the pixels.
"""

import math
from dataclasses import dataclass
from itertools import permutations

import numpy as np

NUM_TRIES = 10
"""Number of boxes to try before falling back to a central one, as in RandomResizedCrop."""

MIN_RATIO, MAX_RATIO = 3 / 4, 4 / 3
"""Width over height of a crop."""

AREA_DRAWS, RATIO_DRAWS = slice(0, NUM_TRIES), slice(NUM_TRIES, 2 * NUM_TRIES)

(
    TOP_DRAW,
    LEFT_DRAW,
    FLIP_DRAW,
    JITTER_DRAW,
    ORDER_DRAW,
    BRIGHTNESS_DRAW,
    CONTRAST_DRAW,
    SATURATION_DRAW,
    HUE_DRAW,
    GREY_DRAW,
    BLUR_DRAW,
    SIGMA_DRAW,
    SOLARIZE_DRAW,
) = range(2 * NUM_TRIES, 2 * NUM_TRIES + 13)

DRAWS_PER_CROP = SOLARIZE_DRAW + 1
"""Random numbers per crop. The constants above index them; operations that a kind of crop omits leave theirs unused."""

JITTER_ORDERS = ((), *permutations(range(4)))
"""Orders of color operations, as indices into `JITTERS`; the first means no jitter."""


@dataclass(frozen=True)
class CropKind:
    """Distribution of a crop; `*_fraction` are probabilities."""

    size: int
    """Height and width in pixels."""

    areas: tuple[float, float]
    """Minimum and maximum area as fractions of the image's area."""

    jitter_fraction: float = 0.0
    grey_fraction: float = 0.0
    blur_fraction: float = 0.0
    solarize_fraction: float = 0.0


@dataclass(frozen=True)
class CropDraws:
    """Parameters of M crops: arrays of length M."""

    boxes: np.ndarray
    """[M, 4] int64: top, left, height and width in pixels."""

    flipped: np.ndarray
    order: np.ndarray
    """Index into `JITTER_ORDERS`."""

    factors: np.ndarray
    """[M, 4] float32: factors of brightness, contrast and saturation, and the hue shift in full turns."""

    grey: np.ndarray
    sigma: np.ndarray
    """Standard deviation of the blur in pixels, float32; 0 for none."""

    solarized: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> "CropDraws":
        return CropDraws(**{name: values[rows] for name, values in vars(self).items()})


def draw_crops(kind: CropKind, draws: np.ndarray, extents: np.ndarray) -> CropDraws:
    """Return the parameters of one crop of each of N images, from random numbers `[N, DRAWS_PER_CROP]`.

    `extents` are the images' heights and widths, int64 [N, 2].
    """
    jittered = draws[:, JITTER_DRAW] < kind.jitter_fraction
    order = 1 + (draws[:, ORDER_DRAW] * (len(JITTER_ORDERS) - 1)).astype(np.int64)
    strengths = (0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1)
    factors = [between(span, draws[:, BRIGHTNESS_DRAW + offset]) for offset, span in enumerate(strengths)]
    blurred = draws[:, BLUR_DRAW] < kind.blur_fraction
    return CropDraws(
        boxes=crop_boxes(kind.areas, draws, extents),
        flipped=draws[:, FLIP_DRAW] < 0.5,
        order=np.where(jittered, order, 0),
        factors=np.stack(factors, axis=1).astype(np.float32),
        grey=draws[:, GREY_DRAW] < kind.grey_fraction,
        sigma=np.where(blurred, between((0.1, 2.0), draws[:, SIGMA_DRAW]), 0).astype(np.float32),
        solarized=draws[:, SOLARIZE_DRAW] < kind.solarize_fraction,
    )


def crop_boxes(areas: tuple[float, float], draws: np.ndarray, extents: np.ndarray) -> np.ndarray:
    """Return boxes int64 `[N, 4]`, top, left, height and width, distributed as in torchvision's RandomResizedCrop.

    `extents` are the images' heights and widths, int64 [N, 2].
    """
    height, width = extents[:, :1], extents[:, 1:]
    area = height * width * between(areas, draws[:, AREA_DRAWS])
    ratio = np.exp(between((math.log(MIN_RATIO), math.log(MAX_RATIO)), draws[:, RATIO_DRAWS]))
    widths, heights = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.argmax(axis=1)[:, None]
    sizes = np.hstack([np.take_along_axis(each, first, axis=1) for each in (heights, widths)])
    corners = np.floor(draws[:, [TOP_DRAW, LEFT_DRAW]] * (extents - sizes + 1))
    drawn = np.hstack((corners, sizes)).astype(np.int64)
    return np.where(fits.any(axis=1, keepdims=True), drawn, central_boxes(extents))


def central_boxes(extents: np.ndarray) -> np.ndarray:
    """Return the largest central boxes with an allowed ratio, int64 `[N, 4]`, the fallback if no drawn box fits."""
    height, width = extents.T
    box_width = np.minimum(width, np.rint(height * MAX_RATIO).astype(np.int64))
    box_height = np.minimum(height, np.rint(width / MIN_RATIO).astype(np.int64))
    return np.stack(((height - box_height) // 2, (width - box_width) // 2, box_height, box_width), axis=1)


def between(span: tuple[float, float], draws: np.ndarray) -> np.ndarray:
    """Scale uniform numbers in [0, 1) to the span."""
    return span[0] + (span[1] - span[0]) * draws


def concatenated(drawn: list[CropDraws]) -> CropDraws:
    """Concatenate the parameters of several crops."""
    return CropDraws(**{name: np.concatenate([getattr(each, name) for each in drawn]) for name in vars(drawn[0])})
