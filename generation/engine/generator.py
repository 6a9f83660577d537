"""What a generator is, whichever model stands behind it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from generation.errors import FigmentError
from generation.recipes.plan import SamplePlan


class GenerationFailedError(FigmentError):
    """No generator can work: the message says why."""


class ActorFailedError(RuntimeError):
    """An actor failed at a batch that another one may make, and ends its process: its device may be broken."""

    def __init__(self, process: str, description: str) -> None:
        """Take the actor's process, as `host:pid`, and the error's class and message."""
        super().__init__(process, description)
        self.process = process
        self.description = description

    def __str__(self) -> str:
        """Return both in one line."""
        return f"{self.description} (in {self.process})"


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
