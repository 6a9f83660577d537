"""The real handwritten digits (scikit-learn's `load_digits`), with a fixed split.

The embedded generator is trained on `training_digits` alone; nothing is trained on `evaluation_digits`.
"""

from functools import cache
from typing import cast

import numpy as np
from PIL import Image

IMAGE_SIZE = 32
"""Height and width in pixels, enlarged from the data set's 8 by bicubic interpolation."""

NUM_TEST = 540


@cache
def split_positions() -> tuple[np.ndarray, np.ndarray]:
    """Return the data set's row numbers of the training split [1257] and the test split [540], disjoint."""
    from sklearn.model_selection import train_test_split

    labels = _data_set()["target"]
    train, test = train_test_split(np.arange(len(labels)), test_size=NUM_TEST, stratify=labels, random_state=0)
    return np.asarray(train), np.asarray(test)


def training_positions() -> np.ndarray:
    """Return the data set's row numbers of the training split, int64 [1257]."""
    return split_positions()[0]


def training_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8 [1257, 32, 32, 3], white ink on black, and labels int64 [1257]."""
    return _digits_at(training_positions())


def evaluation_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8 [540, 32, 32, 3], white ink on black, and labels int64 [540]."""
    return _digits_at(split_positions()[1])


def _digits_at(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    data = _data_set()
    images = np.stack([_enlarge(data["images"][position]) for position in positions])
    return images, data["target"][positions].astype(np.int64)


@cache
def _data_set() -> dict[str, np.ndarray]:
    from sklearn.datasets import load_digits

    return cast(dict[str, np.ndarray], load_digits())


def _enlarge(ink: np.ndarray) -> np.ndarray:
    """Return uint8 [32, 32, 3] for ink [8, 8] in 0..16."""
    grey = Image.fromarray(np.round(ink * (255 / 16)).astype(np.uint8))
    return np.asarray(grey.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC).convert("RGB"))
