"""What a generator is, whichever model stands behind it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from generation.plan import SamplePlan


class GenerationFailedError(RuntimeError):
    """No generator can work: the message says why."""


@dataclass(frozen=True)
class GeneratedImages:
    """What a generator made of `N` plans, in their order."""

    images_nhwc: np.ndarray
    """uint8 [N, H, W, 3]."""

    finite: np.ndarray
    """bool [N]: False where the model's output had a NaN or an infinity."""

    flagged: np.ndarray
    """bool [N]: True where the model's own safety checker took the image out."""


class ImageGenerator(Protocol):
    """Turns plans into images on one device. Knows nothing of Ray or files."""

    def generate(self, plans: Sequence[SamplePlan]) -> GeneratedImages:
        """Return one image a plan; image `i` depends on `plans[i]` alone."""
        ...
