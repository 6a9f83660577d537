"""Classes of the test sets for ImageNet classifiers, and ReaL labels, from the lists that timm ships."""

import json
import re
from collections.abc import Sequence
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import numpy as np

from generation.recipes.labels import LabelSpace, load_label_space

ALL_CLASSES = (
    "imagenet_val",
    "imagenet_real",
    "imagenet_v2_matched_frequency",
    "imagenet_v2_threshold",
    "imagenet_v2_top_images",
    "imagenet_sketch",
)
"""Sets with all 1,000 classes; `imagenet_real` is the validation images with the labels of arXiv 2006.07159."""

SOME_CLASSES = ("imagenet_r", "imagenet_a")
"""Sets with 200 classes each (arXiv 2006.16241, arXiv 1907.07174)."""

IMAGENET_SETS = (*ALL_CLASSES, *SOME_CLASSES)

VALIDATION_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})")
"""Number in the names of validation images, whatever folders they are in."""


def classes_of_set(name: str) -> LabelSpace:
    """Return the classes of one of `IMAGENET_SETS`, in the order of its class numbers."""
    imagenet1k = load_label_space("imagenet1k")
    if name in ALL_CLASSES:
        return imagenet1k
    wnids = set(_timm_file(f"{name}_synsets.txt").read_text().split())
    return LabelSpace(name, tuple(entry for entry in imagenet1k.classes if entry.wnid in wnids))


def reassessed_labels(names: Sequence[str]) -> list[list[int]]:
    """Return the ReaL labels of validation images: all correct labels of each, 0..999, possibly none.

    ValueError for a name without the image's number.
    """
    by_number = _all_reassessed_labels()
    found = [VALIDATION_NUMBER.search(name) for name in names]
    for name, match in zip(names, found, strict=True):
        if not match or not 1 <= int(match[1]) <= len(by_number):
            raise ValueError(
                f"'{name}' is not named like a validation image, ILSVRC2012_val_00000001 to _000{len(by_number)}, and "
                "ReaL labels are looked up by that number. Use the original file names."
            )
    return [by_number[int(cast(re.Match[str], match)[1]) - 1] for match in found]


def map_labels(lists: Sequence[Sequence[int]], labels: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return lists of labels mapped by `labels` int64 [1000], which is -1 for classes that are dropped."""
    mapped = (labels[np.array(each, dtype=np.int64)] for each in lists)
    return tuple(each[each >= 0] for each in mapped)


@cache
def _all_reassessed_labels() -> list[list[int]]:
    return json.loads(_timm_file("imagenet_real_labels.json").read_text())


def _timm_file(name: str) -> Path:
    """Return the path of a file in timm, without importing timm."""
    spec = cast(ModuleSpec, find_spec("timm"))
    return Path(cast(list[str], spec.submodule_search_locations)[0]) / "data" / "_info" / name
