"""Real image sets by name, for a classifier: images, their labels, and the labels that predictions are restricted to.

ImageNet's test sets, the digits and their shifts, and any folder of classes. Images are listed, not opened.
"""

import difflib
from dataclasses import dataclass

import numpy as np

from evaluation.config import EvaluationConfig
from evaluation.images.class_names import NOT_SHARED, labels_of_titles, matching_labels
from evaluation.images.digits import DIGITS, digit_images, is_digits
from evaluation.images.image_list import ImageList
from evaluation.images.imagenet import IMAGENET_SETS, classes_of_set, map_labels, reassessed_labels
from evaluation.images.layouts import open_layout
from evaluation.images.shifts import SHIFTS
from generation.recipes.labels import LabelSpace, load_label_space

KNOWN = (*IMAGENET_SETS, DIGITS, *(f"{DIGITS}/{shift}" for shift in SHIFTS))
"""Names of known sets; any other name is a folder of the classifier's own classes."""


@dataclass(frozen=True, eq=False)
class RealSet:
    """Images of a set, limited to the classes that a classifier knows."""

    name: str
    path: str
    """Path of the set, empty for sets that ship with Figment."""

    source: ImageList
    positions: np.ndarray
    """int64 [N]: positions of the images in `source`, ascending."""

    labels: np.ndarray
    """int64 [N]: the classifier's label of each image."""

    shared_labels: np.ndarray
    """int64 [S]: the classifier's labels that occur in the set, ascending; predictions are restricted to these."""

    accepted_labels: tuple[np.ndarray, ...] | None = None
    """With ReaL labels, all correct labels of each image; None if only `labels` count."""

    center_crop: bool = True
    """Whether images are center-cropped after resizing; otherwise the network sees the largest center square."""

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self.positions)


def open_set(name: str, config: EvaluationConfig, label_space: LabelSpace) -> RealSet:
    """Return a set for a classifier with these classes; ValueError with a one-line reason if it cannot be used."""
    path = _path(name, config)
    if is_digits(name):
        source = digit_images(shift=name.removeprefix(DIGITS).removeprefix("/"))
    else:
        source = open_layout(path, devkit=config.paths.get("imagenet_devkit", ""))
    set_space = _classes_of(name, label_space)
    in_set = labels_of_titles(source.classes, source.titles, path or name, set_space, name in IMAGENET_SETS)
    ours = matching_labels(set_space, label_space)
    labels = ours[in_set[source.class_numbers()]]
    positions = np.flatnonzero(labels != NOT_SHARED)
    _check_classes(name, set_space, ours, labels, label_space, config)
    accepted = None
    if name == "imagenet_real":
        names = source.names()
        accepted = map_labels(reassessed_labels([names[position] for position in positions.tolist()]), ours)
    return RealSet(
        name, path, source, positions, labels[positions], np.unique(labels[positions]), accepted, not is_digits(name)
    )


def whole_set(name: str, path: str, source: ImageList, is_wanted: np.ndarray | None = None) -> RealSet:
    """Return a set with its own class numbers as labels, independent of a classifier's classes.

    `is_wanted` bool [num_images] selects images; None selects all.
    """
    numbers = source.class_numbers()
    positions = np.flatnonzero(np.ones(len(numbers), dtype=bool) if is_wanted is None else is_wanted)
    return RealSet(name, path, source, positions, numbers[positions], np.unique(numbers[positions]), center_crop=False)


def _path(name: str, config: EvaluationConfig) -> str:
    """Return the path of a set, empty for digits; ValueError if none is configured."""
    if is_digits(name):
        return ""
    path = config.paths.get(name, "")
    if not path and name == "imagenet_real":
        path = config.paths.get("imagenet_val", "")
    if not path:
        near = difflib.get_close_matches(name, KNOWN, n=2)
        hint = f". Did you mean {' or '.join(near)}?" if near and name not in KNOWN else "."
        raise ValueError(f"evaluation.sets lists '{name}', which has no path. Add evaluation.paths.{name}=FOLDER{hint}")
    return path


def _classes_of(name: str, label_space: LabelSpace) -> LabelSpace:
    if name in IMAGENET_SETS:
        return classes_of_set(name)
    return load_label_space(DIGITS) if is_digits(name) else label_space


def _check_classes(
    name: str,
    set_space: LabelSpace,
    ours: np.ndarray,
    labels: np.ndarray,
    label_space: LabelSpace,
    config: EvaluationConfig,
) -> None:
    """Raise ValueError if set and classifier share no class, or the set has no images of a shared one."""
    shared = ours[ours != NOT_SHARED]
    if not len(shared):
        raise ValueError(
            f"evaluation.sets lists '{name}', whose classes, those of {set_space.name}, have none in common with the "
            f"checkpoint's, those of {label_space.name}. Use a set with its classes."
        )
    missing = np.setdiff1d(shared, labels)
    if len(missing) and (not config.allow_missing_classes or len(missing) == len(shared)):
        named = [label_space.classes[label].wnid or label_space.class_names[label] for label in missing.tolist()]
        way_out = ", or set evaluation.allow_missing_classes=true to predict among the others"
        raise ValueError(
            f"'{name}' has no images of {len(missing)} of the {len(shared)} classes that it shares with the "
            f"checkpoint: {', '.join(named[:3])}{', ...' if len(named) > 3 else '.'} Add them"
            f"{way_out if len(missing) < len(shared) else ''}."
        )
