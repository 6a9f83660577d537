"""Random numbers for augmentation: the k-th use of a sample draws the same ones in whatever batch or worker it comes.

Knows neither images nor what the numbers decide.
"""

import numpy as np

from generation.random_streams import Purpose, bits


def draws(seed: int, serials: np.ndarray, uses: np.ndarray, count: int, domains: np.ndarray | int = 0) -> np.ndarray:
    """Return float64 `[N, count]` in [0, 1); row i is a function of `seed` and of row i of the arguments alone.

    Samples of different domains, real and generated ones, may have the same serials.
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
