"""Passes over a set that is read again and again: which of its samples come in each, and in what order."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from generation.indices import IndexSet, SampleRequest
from generation.random_streams import Purpose, stream


@dataclass(frozen=True)
class Passes:
    """What one consumer wants of a set, pass by pass.

    The order of a pass is that of the whole set, a function of seed and pass, from which what is not wanted is left
    out: a run that goes on amid a pass goes on in the same order.
    """

    num_images: int
    """Of the set: a sample's serial is `pass * num_images + position`."""

    wanted: SampleRequest
    purpose: Purpose
    """What random numbers the order is drawn from."""

    seed: int

    def sections(self) -> Iterator[tuple[int, IndexSet]]:
        """Yield each pass of which something is wanted, with the wanted positions in the set."""
        return self.wanted.serials.sections(self.num_images)

    def order(self, num_items: int, *place: int) -> np.ndarray:
        """Return the order in which items of a pass come, int64 [num_items]: shuffled, by number if one is wanted.

        `place` is the pass, and what tells several orders in it apart.
        """
        if self.wanted.in_order:
            return np.arange(num_items)
        return stream(self.purpose, self.seed, *place).permutation(num_items)

    def choose(self, pass_number: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return those of some positions that are wanted in a pass, in their order, and their serials, int64 both."""
        serials = pass_number * self.num_images + positions
        is_wanted = self.wanted.serials.contains(serials)
        return positions[is_wanted], serials[is_wanted]
