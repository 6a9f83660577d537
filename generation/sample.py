"""The rows that travel from generators to training: columns, types and shapes.

Prompts and all else about a sample are recomputed from its plan, so they never travel.
"""

from typing import NotRequired, TypedDict, cast

import numpy as np

NO_LABEL = -1
"""Of a sample that was left out: its row stays, black, so that no other sample moves, and nothing is learnt from it."""


class SampleBatch(TypedDict):
    """`N` samples as columns."""

    index: np.ndarray
    """int64 [N]."""

    label: np.ndarray
    """int64 [N]; `NO_LABEL` where the sample was left out."""

    image: np.ndarray
    """uint8 [N, H, W, 3]."""

    attempt: np.ndarray
    """int8 [N]: how many attempts were refused before the image, or before the sample was left out."""


class PassBatch(SampleBatch):
    """Samples that come again and again, as training takes them."""

    serial: np.ndarray
    """int64 [N]: `pass * number of samples in the set + position in the set`."""

    extent: NotRequired[np.ndarray]
    """int64 [N, 2]: height and width of what an image has in its corner, where it does not fill its array."""


def selected(batch: SampleBatch, which: np.ndarray) -> SampleBatch:
    """Return the samples at these places, given as bool [N] or as int64; all of them are not copied."""
    if which.dtype == np.bool_ and which.all():
        return batch
    return cast(SampleBatch, {name: batch[name][which] for name in SampleBatch.__annotations__})


def without_left_out(batch: SampleBatch) -> SampleBatch:
    """Return the samples that there are."""
    return selected(batch, batch["label"] != NO_LABEL)
