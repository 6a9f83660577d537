"""Intervals of 95% and tests for shares of images: of one model, and of two on the same images. Knows no model."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.result import Interval

Z = 1.959964
"""A normal distribution has 95% within so many deviations."""


def wilson_interval(num_hits: int, num_images: int) -> Interval:
    """Return the interval of a share, 0..1, by Wilson (1927): one of 10 images holds what it promises, too."""
    share, spread = num_hits / num_images, Z**2 / num_images
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def student_interval(values: Sequence[float]) -> Interval | None:
    """Return the interval of the mean of shares, 0..1, of independent repetitions, by Student's t; None for one."""
    from scipy.stats import sem, t  # takes a second to import

    if len(values) < 2:
        return None
    mean, half = float(np.mean(values)), float(t.ppf(0.975, len(values) - 1) * sem(values))
    return max(0.0, mean - half), min(1.0, mean + half)


@dataclass(frozen=True)
class Difference:
    """How much better one model is than another on the same images."""

    points: float
    """Top-1 of the one less that of the other, -1..1."""

    interval: Interval
    """Of Agresti and Min (2005), over pairs."""

    p_value: float
    """Of McNemar's exact test: how often equally good models would differ so much on so many of the images."""

    @property
    def is_told_apart(self) -> bool:
        """Whether the interval excludes zero and p is below 0.05: they may disagree where few images differ."""
        return (self.interval[0] > 0 or self.interval[1] < 0) and self.p_value < 0.05


def paired_difference(hits: np.ndarray, other_hits: np.ndarray) -> Difference:
    """Return how much better the first model is: bool [N] and bool [N], whether each image was right, N at least 1."""
    from scipy.stats import binomtest  # takes a second to import

    num_images = len(hits)
    better, worse = int((hits & ~other_hits).sum()), int((other_hits & ~hits).sum())
    p_value = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    num, gain, loss = num_images + 2, better + 0.5, worse + 0.5
    centre = (gain - loss) / num
    half = Z * math.sqrt(gain + loss - (gain - loss) ** 2 / num) / num
    return Difference((better - worse) / num_images, (max(-1.0, centre - half), min(1.0, centre + half)), p_value)


def packed_hits(hits: np.ndarray) -> str:
    """Return bool [N] as text, an eighth of a byte and a third each."""
    return base64.b64encode(np.packbits(hits).tobytes()).decode()


def unpacked_hits(text: str, num_images: int) -> np.ndarray:
    """Return what `packed_hits` was given."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=num_images).astype(bool)
