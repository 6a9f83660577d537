"""Procedural backgrounds for digits, by name.

Each function works on one image with numpy.
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

BACKGROUNDS = ("plain", "gradient", "noise", "stripes", "checkerboard", "inverted")
"""Names of backgrounds in prompts `c inside b`: plain is white ink on black, inverted is black ink on white."""

DARKEST = 0.05
BRIGHTEST = 0.5
"""Range of a background's color channels; white ink is 1, so the digit stays brightest."""

MIN_PERIOD = 8.0
MAX_PERIOD = 14.0
"""Range of the period of stripes, and of two checkerboard cells, in pixels."""

NOISE_CELLS = 9
"""Noise interpolates bilinearly between this many random colors per side."""


def composite(ink: np.ndarray, background: str, rng: np.random.Generator) -> np.ndarray:
    """Return uint8 [H, W, 3]: `ink` [H, W] in 0..1 on a randomly drawn background."""
    if background == "plain":
        canvas = np.repeat(ink[..., None], 3, axis=-1)
    elif background == "inverted":
        canvas = np.repeat(1 - ink[..., None], 3, axis=-1)
    else:
        pattern = _PATTERNS[background](ink.shape[0], rng)
        canvas = pattern + ink[..., None] * (1 - pattern)
    return np.round(canvas * 255).astype(np.uint8)


def _gradient(size: int, rng: np.random.Generator) -> np.ndarray:
    ramp = _slanted(size, rng.uniform(0, 2 * np.pi))
    return _blend((ramp - ramp.min()) / np.ptp(ramp), rng)


def _noise(size: int, rng: np.random.Generator) -> np.ndarray:
    grain = rng.uniform(DARKEST, BRIGHTEST, (NOISE_CELLS, NOISE_CELLS, 1)) * rng.uniform(0.6, 1, (1, 1, 3))
    return np.asarray(ndimage.zoom(grain, (size / NOISE_CELLS, size / NOISE_CELLS, 1), order=1))


def _stripes(size: int, rng: np.random.Generator) -> np.ndarray:
    angle = rng.integers(4) * np.pi / 4
    return _blend(_wave(_slanted(size, angle), rng), rng)


def _checkerboard(size: int, rng: np.random.Generator) -> np.ndarray:
    across = 2 * _wave(_slanted(size, 0.0), rng) - 1
    down = 2 * _wave(_slanted(size, np.pi / 2), rng) - 1
    return _blend((across * down + 1) / 2, rng)


def _slanted(size: int, angle: float) -> np.ndarray:
    """Return [size, size] distances in pixels along a direction in radians."""
    rows, columns = np.mgrid[:size, :size].astype(np.float64)
    return columns * np.cos(angle) + rows * np.sin(angle)


def _wave(distances: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return soft square waves in 0..1 with a random period and phase."""
    period = rng.uniform(MIN_PERIOD, MAX_PERIOD)
    phase = rng.uniform(0, 2 * np.pi)
    return (np.tanh(3 * np.sin(2 * np.pi * distances / period + phase)) + 1) / 2


def _blend(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return [H, W, 3]: a blend of a dark and a brighter muted color, by weights [H, W] in 0..1."""
    middle = (DARKEST + BRIGHTEST) / 2
    dark = rng.uniform(DARKEST, middle - 0.1, 3)
    bright = rng.uniform(middle + 0.05, BRIGHTEST, 3)
    return dark + weights[..., None] * (bright - dark)


_PATTERNS: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "gradient": _gradient,
    "noise": _noise,
    "stripes": _stripes,
    "checkerboard": _checkerboard,
}
