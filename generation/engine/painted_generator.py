"""A generator without a model: the label's color, speckled by the plan's noise seed.

For tests and load experiments, at a known rate. A classifier can learn these images, but that says nothing about real
images.
"""

import colorsys
import math
import threading
import time
from collections.abc import Sequence

import numpy as np

from generation.engine.generator import GeneratedImages
from generation.recipes.plan import SamplePlan

SPECKLE = 64
"""Exclusive upper limit of the darkening by speckles, in levels of 255."""

TILE_SIZE = 8
"""Period of the speckles in pixels; a small tile leaves more CPU time to the code under measurement."""


DEFAULT_BATCH_SIZE = 32


class PaintedGenerator:
    """Paints each plan; takes `start_seconds` to start, and at least `batch_seconds` per batch."""

    def __init__(
        self,
        image_size: int,
        num_classes: int,
        batch_size: int = 0,
        batch_seconds: float = 0.0,
        start_seconds: float = 0.0,
    ) -> None:
        """Take the image size in pixels, the number of colors, and the timing; batch size 0 is the default."""
        time.sleep(start_seconds)
        self.image_size = image_size
        self.num_classes = num_classes
        self.batch_size = batch_size or DEFAULT_BATCH_SIZE
        self.batch_seconds = batch_seconds
        self.device_lock = threading.Lock()

    def generate(self, plans: Sequence[SamplePlan]) -> GeneratedImages:
        """Return one painting per plan; image `i` depends only on `plans[i]`. Each batch takes `batch_seconds`."""
        with self.device_lock:
            started_at = time.monotonic()
            images = np.stack([self.paint(plan) for plan in plans])
            seconds = self.batch_seconds * math.ceil(len(plans) / self.batch_size)
            time.sleep(max(0.0, seconds - (time.monotonic() - started_at)))
        return GeneratedImages(
            images_nhwc=images,
            darkest=images.min(axis=(1, 2, 3)),
            brightest=images.max(axis=(1, 2, 3)),
            finite=np.ones(len(plans), bool),
            flagged=np.zeros(len(plans), bool),
        )

    def paint(self, plan: SamplePlan) -> np.ndarray:
        """Return the image of a plan, uint8 [H, W, 3]."""
        color = np.array(colorsys.hsv_to_rgb(plan.label / self.num_classes, 0.7, 1.0)) * 255
        random = np.random.Generator(np.random.Philox(key=plan.noise_seed))
        speckles = random.integers(0, SPECKLE, size=(TILE_SIZE, TILE_SIZE, 3), dtype=np.uint8)
        num_tiles = self.image_size // TILE_SIZE
        return np.tile(color.astype(np.uint8) - speckles, (num_tiles, num_tiles, 1))
