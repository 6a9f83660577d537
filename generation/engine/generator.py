"""The interface of a generator, its results and its errors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from generation.errors import FigmentError
from generation.recipes.plan import SamplePlan


class GenerationFailedError(FigmentError):
    """Generation cannot continue; the message gives the reason."""


class ActorFailedError(RuntimeError):
    """An actor failed on a batch and exits, as its device may be broken; another actor may make the batch."""

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
    """Images for N plans, in order, with the statistics that the guard checks."""

    images_nhwc: np.ndarray
    """uint8 [N, H, W, 3]."""

    darkest: np.ndarray
    """uint8 [N]: the lowest value of each image."""

    brightest: np.ndarray
    """uint8 [N]: the highest value of each image."""

    finite: np.ndarray
    """bool [N]: False where the model's output had a NaN or an infinity."""

    flagged: np.ndarray
    """bool [N]: True where the model's own safety checker removed the image."""


class ImageGenerator(Protocol):
    """Turns plans into images on one device, without Ray or files."""

    batch_size: int
    """Images per pipeline call."""

    def generate(self, plans: Sequence[SamplePlan]) -> GeneratedImages:
        """Return one image per plan, for any number of plans; image `i` depends only on `plans[i]`.

        Two threads may call it: one's images are copied to the host while the device works for the other.
        """
        ...
