"""Passes over a data set: which samples each pass delivers, and in what order."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from generation.indices import IndexSet, SampleRequest
from generation.random_streams import Purpose, stream


@dataclass(frozen=True)
class Passes:
    """One consumer's request, pass by pass.

    A pass orders the whole set by seed and pass, then drops samples that were not requested. A run resumed in the
    middle of a pass therefore continues in the same order.
    """

    num_images: int
    """Size of the set; a sample's serial is `pass * num_images + position`."""

    request: SampleRequest
    purpose: Purpose
    """The random stream that the order is drawn from."""

    seed: int

    def sections(self) -> Iterator[tuple[int, IndexSet]]:
        """Yield each requested pass with the requested positions in the set."""
        return self.request.serials.sections(self.num_images)

    def order(self, num_items: int, *position: int) -> np.ndarray:
        """Return a permutation of a pass's items, int64 [num_items]; the identity if the request is in order.

        `position` is the pass, then numbers that tell apart several orders within it.
        """
        if self.request.in_order:
            return np.arange(num_items)
        return stream(self.purpose, self.seed, *position).permutation(num_items)

    def choose(self, pass_number: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return those of `positions` that are requested, in the same order, and their serials; both int64."""
        serials = pass_number * self.num_images + positions
        is_requested = self.request.serials.contains(serials)
        return positions[is_requested], serials[is_requested]
