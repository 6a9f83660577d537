"""Random numbers that are a function of what they are for, a seed and a place: no process keeps a state.

Philox4x64 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) by numpy. Its key is seed and purpose,
its counter the place: streams of other purposes, seeds or places share nothing.
"""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What numbers are for. Recipes and runs that are under way depend on each number."""

    LABELS = 0
    NOISE_SEEDS = 1
    PROMPTS = 2
    SHARD_ORDER = 3
    AUGMENTATION = 4
    RESERVOIR = 5
    REAL_IMAGE_ORDER = 6
    SHIFTS = 7


def bits(purpose: Purpose, seed: int, *place: int) -> np.random.Philox:
    """Return the bits at a place of up to three numbers; the first word of the counter is the generator's own."""
    counter = np.array([0, *place, *[0] * (3 - len(place))], dtype=np.uint64)
    return np.random.Philox(key=np.array([seed, purpose], dtype=np.uint64), counter=counter)


def stream(purpose: Purpose, seed: int, *place: int) -> np.random.Generator:
    """Return a generator at a place."""
    return np.random.Generator(bits(purpose, seed, *place))


def draws(seed: int, serials: np.ndarray, uses: np.ndarray, count: int, domains: np.ndarray | int = 0) -> np.ndarray:
    """Return numbers for augmentation, float64 `[N, count]` in [0, 1), which a row's own arguments decide with `seed`.

    The k-th use of a sample draws the same ones in whatever batch or worker it comes. Samples of different domains,
    real and generated ones, may have the same serials.
    """
    counters = np.zeros((len(serials), 4), dtype=np.uint64)
    counters[:, 1], counters[:, 2], counters[:, 3] = serials, uses, domains
    generator = bits(Purpose.AUGMENTATION, seed)
    random, state = np.random.Generator(generator), generator.state
    numbers = np.empty((len(serials), count))
    for counter, row in zip(counters, numbers, strict=True):
        state["state"]["counter"] = counter
        generator.state = state  # a quarter of the time of a new generator for each row
        random.random(out=row)
    return numbers
