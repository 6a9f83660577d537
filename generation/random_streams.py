"""Random numbers as a function of purpose, seed and position; no process keeps a state.

numpy's Philox4x64 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): the key is seed and purpose,
the counter is the position. Streams that differ in purpose, seed or position are independent.
"""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What random numbers are used for. Recipes and running jobs depend on the values: never change one."""

    LABELS = 0
    NOISE_SEEDS = 1
    PROMPTS = 2
    SHARD_ORDER = 3
    AUGMENTATION = 4
    RESERVOIR = 5
    REAL_IMAGE_ORDER = 6
    SHIFTS = 7


def bits(purpose: Purpose, seed: int, *position: int) -> np.random.Philox:
    """Return the bit generator at a position of up to three numbers; Philox increments the first counter word."""
    counter = np.array([0, *position, *[0] * (3 - len(position))], dtype=np.uint64)
    return np.random.Philox(key=np.array([seed, purpose], dtype=np.uint64), counter=counter)


def stream(purpose: Purpose, seed: int, *position: int) -> np.random.Generator:
    """Return a numpy generator at a position of up to three numbers."""
    return np.random.Generator(bits(purpose, seed, *position))


def draws(seed: int, serials: np.ndarray, uses: np.ndarray, count: int, domains: np.ndarray | int = 0) -> np.ndarray:
    """Return random numbers for augmentation, float64 `[N, count]` in [0, 1); each row depends on its arguments alone.

    The k-th use of a sample draws the same numbers in every batch and on every worker. `domains` separates real from
    generated samples, which may have equal serials.
    """
    counters = np.zeros((len(serials), 4), dtype=np.uint64)
    counters[:, 1], counters[:, 2], counters[:, 3] = serials, uses, domains
    generator = bits(Purpose.AUGMENTATION, seed)
    random, state = np.random.Generator(generator), generator.state
    numbers = np.empty((len(serials), count))
    for counter, row in zip(counters, numbers, strict=True):
        state["state"]["counter"] = counter
        generator.state = state  # four times as fast as a new generator per row
        random.random(out=row)
    return numbers
