"""When two images count as the same."""

import numpy as np

MAX_LEVELS_APART = 2
"""Of 255, on a CPU in float32: convolutions of another batch size add up in another order."""

MAX_LEVELS_APART_IN_BFLOAT16 = 8
"""Of 255, on a CPU: a value has 8 bits, and each step starts from the rounding of the last."""

MAX_LEVELS_APART_ON_A_GPU = {"float32": 2, "float16": 8}
"""Of 255, alone, in a batch and beside the CPU in float32: not measured yet."""


def apart(a: np.ndarray, b: np.ndarray) -> int:
    """Return the largest difference of two uint8 images."""
    return int(np.abs(a.astype(int) - b.astype(int)).max())
