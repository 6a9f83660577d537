"""The rows sent from generators to training: columns, types and shapes.

Prompts and all other metadata are recomputed from the plan and never sent.
"""

from typing import NotRequired, TypedDict, cast

import numpy as np

NO_LABEL = -1
"""Label of a sample that was left out: a black image that keeps its row, and that training ignores."""

SCORE_DECIMALS = 3
"""Scores are rounded, since their last bits depend on batch size and kind of device. Rarely, a rounded score does too.

It may then fall on the other side of `recipe.keep_above`, and the index gets its next attempt: another image.
"""


class SampleBatch(TypedDict):
    """`N` samples as columns."""

    index: np.ndarray
    """int64 [N]."""

    label: np.ndarray
    """int64 [N]; `NO_LABEL` where the sample was left out."""

    image: np.ndarray
    """uint8 [N, H, W, 3]."""

    attempt: np.ndarray
    """int8 [N]: number of refused attempts before the image was accepted or the sample left out."""

    score: NotRequired[np.ndarray]
    """float32 [N]: probability that `recipe.check` gives the image's class, 0 where the sample was left out; absent
    without a check.
    """

    soft_label: NotRequired[np.ndarray]
    """float16 [N, num_classes]: probabilities that `recipe.check` gives the recipe's classes, summing to 1; only in
    streams to a trainer that asks for them.
    """


class PassBatch(SampleBatch):
    """Samples as training receives them, possibly in several passes."""

    serial: np.ndarray
    """int64 [N]: `pass * number of samples in the set + position in the set`."""

    extent: NotRequired[np.ndarray]
    """int64 [N, 2]: height and width of the image in the corner of its padded array; absent if nothing is padded."""


def select_samples(batch: SampleBatch, which: np.ndarray) -> SampleBatch:
    """Return the samples selected by a bool [N] mask or int64 positions; no copy if the mask selects all."""
    if which.dtype == np.bool_ and which.all():
        return batch
    return cast(SampleBatch, {name: column[which] for name, column in cast(dict[str, np.ndarray], batch).items()})


def drop_left_out(batch: SampleBatch) -> SampleBatch:
    """Return the batch without samples that were left out."""
    return select_samples(batch, batch["label"] != NO_LABEL)
