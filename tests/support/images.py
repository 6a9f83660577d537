"""Tolerances for the equality of two images."""

import numpy as np

MAX_LEVELS_APART = 2
"""Largest difference, of 255, on a CPU in float32: with another batch size, convolutions sum in another order."""

MAX_LEVELS_APART_IN_BFLOAT16 = 8
"""Largest difference, of 255, on a CPU in bfloat16: values have 8 bits, and rounding errors add up over steps."""

MAX_LEVELS_APART_ON_A_GPU = {"float32": 2, "float16": 8}
"""Largest difference, of 255, between alone, in a batch, and on the CPU in float32; not measured yet."""


def apart(a: np.ndarray, b: np.ndarray) -> int:
    """Return the largest absolute difference of two uint8 images."""
    return int(np.abs(a.astype(int) - b.astype(int)).max())
