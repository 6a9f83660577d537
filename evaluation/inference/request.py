"""What a network is to compute, and from which images. Crosses processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evaluation.images.decoding import Crop
from evaluation.images.image_list import ImageList

Kinds = tuple[Literal["guesses", "features"], ...]
"""`guesses`: `prediction` int32 [N, up to 5], the best first, and `confidence` float32 [N] of the first; `features`:
`feature` float32 [N, D], what the last layer is given.
"""

KINDS: Kinds = ("guesses", "features")


@dataclass(frozen=True, eq=False)
class Request:
    """What is computed from images."""

    kinds: Kinds
    among: Sequence[int] = ()
    """Labels that guesses are among; empty for all."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SetRequest(Request):
    """What is computed from images of a real set."""

    source: ImageList
    positions: np.ndarray
    """int64 [number of the set's images]: where in the source they are."""

    rows: np.ndarray
    """int64: which of them it is computed from."""

    crop: Crop
