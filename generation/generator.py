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
    """What a generator made of `N` plans, in their order, and what the guard has to know of it."""

    images_nhwc: np.ndarray
    """uint8 [N, H, W, 3]."""

    darkest: np.ndarray
    """uint8 [N]: the least value of each image."""

    brightest: np.ndarray
    """uint8 [N]: the greatest."""

    finite: np.ndarray
    """bool [N]: False where the model's output had a NaN or an infinity."""

    flagged: np.ndarray
    """bool [N]: True where the model's own safety checker took the image out."""


class ImageGenerator(Protocol):
    """Turns plans into images on one device. Knows nothing of Ray or files."""

    batch_size: int
    """How many images it makes at once."""

    def generate(self, plans: Sequence[SamplePlan]) -> GeneratedImages:
        """Return one image a plan, of any number of plans; image `i` depends on `plans[i]` alone.

        Two threads may call it: one's images are copied to the host while the device works for the other.
        """
        ...
