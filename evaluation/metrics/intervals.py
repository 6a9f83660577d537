"""95% intervals and tests for fractions of images: of one model, or of two models on the same images."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.result import Interval

Z = 1.959964
"""Number of standard deviations that cover 95% of a normal distribution."""


def wilson_interval(num_hits: int, num_images: int) -> Interval:
    """Return Wilson's interval (1927) of a fraction, 0..1; it is reliable even for 10 images."""
    share, spread = num_hits / num_images, Z**2 / num_images
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Return Student's 95% t interval of the mean over independent repetitions; None for one."""
    from scipy.stats import sem, t  # takes a second to import

    if len(values) < 2:
        return None
    mean, half = float(np.mean(values)), float(t.ppf(0.975, len(values) - 1) * sem(values))
    return mean - half, mean + half


def student_interval(values: Sequence[float], most: float = 1.0) -> Interval | None:
    """Return `mean_interval` within the possible values, 0 to `most`: by default those of fractions."""
    found = mean_interval(values)
    return found and (max(0.0, found[0]), min(most, found[1]))


@dataclass(frozen=True)
class Difference:
    """Difference in top-1 between two models on the same images."""

    points: float
    """Top-1 of the first model minus that of the second, -1..1."""

    interval: Interval
    """Paired interval by Agresti and Min (2005)."""

    p_value: float
    """P value of McNemar's exact test: the probability of a difference this large between equally good models."""

    @property
    def is_significant(self) -> bool:
        """Whether the interval excludes zero and p is below 0.05; the two may disagree when few images differ."""
        return (self.interval[0] > 0 or self.interval[1] < 0) and self.p_value < 0.05


def paired_difference(hits: np.ndarray, other_hits: np.ndarray) -> Difference:
    """Return the difference of the first model to the second; bool [N] each, True if correct, N at least 1."""
    from scipy.stats import binomtest  # takes a second to import

    num_images = len(hits)
    better, worse = int((hits & ~other_hits).sum()), int((other_hits & ~hits).sum())
    p_value = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    num, gain, loss = num_images + 2, better + 0.5, worse + 0.5
    centre = (gain - loss) / num
    half = Z * math.sqrt(gain + loss - (gain - loss) ** 2 / num) / num
    return Difference((better - worse) / num_images, (max(-1.0, centre - half), min(1.0, centre + half)), p_value)


def pack_hits(hits: np.ndarray) -> str:
    """Return bool [N] as text, 1/6 byte per entry."""
    return base64.b64encode(np.packbits(hits).tobytes()).decode()


def unpack_hits(text: str, num_images: int) -> np.ndarray:
    """Return the inverse of `pack_hits`, bool [num_images]."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=num_images).astype(bool)
