"""Map the class names of an image set to the labels of a classifier. Reads no files and no images."""

from collections.abc import Callable, Sequence

import numpy as np

from generation.recipes.labels import ClassEntry, LabelSpace, normalized_name

NOT_SHARED = -1
"""Label of a class that the classifier lacks."""


def labels_of_classes(names: Sequence[str], path: str, space: LabelSpace) -> np.ndarray:
    """Return the label of each class of the set at `path`, int64 [len(names)].

    `names` are wnids and class names, or numbers only. ValueError for a name that does not match exactly one class, and
    for a number that is too high.
    """
    exact = _labels_by_name(space, str)
    if all(name.isdecimal() and name not in exact for name in names):
        return _labels_of_numbers([int(name) for name in names], path, space)
    folded_labels = _labels_by_name(space, normalized_name)
    found = [exact.get(name) or folded_labels.get(normalized_name(name), []) for name in names]
    if unknown := [name for name, labels in zip(names, found, strict=True) if not labels]:
        raise ValueError(
            f"{len(unknown)} of {len(names)} classes in '{path}' match no class of {space.name}: "
            f"{', '.join(unknown[:3])}{', ...' if len(unknown) > 3 else '.'} Name these by wnid or class name, "
            "remove them, or use a label space that has them."
        )
    for name, labels in zip(names, found, strict=True):
        if len(labels) > 1:
            entries = [space.classes[label] for label in labels]
            raise ValueError(
                f"The class '{name}' in '{path}' matches {len(labels)} classes of {space.name}. Use the wnid or exact "
                f"name of one class: {' or '.join(entry.wnid or entry.class_name for entry in entries)}."
            )
    return np.array([labels[0] for labels in found], dtype=np.int64)


def labels_of_titles(
    names: Sequence[str], titles: Sequence[str], path: str, space: LabelSpace, is_order_known: bool
) -> np.ndarray:
    """Return labels like `labels_of_classes` for a set that numbers its classes; `titles[number]` is a class's title.

    The titles determine the labels. The numbers determine them only if a title does not match exactly one class and the
    set is known to have the label space's order. Other names, and sets without titles, go to `labels_of_classes`.
    """
    if not titles or not all(name.isdecimal() and int(name) < len(titles) for name in names):
        return labels_of_classes(names, path, space)
    try:
        return labels_of_classes([titles[int(name)] for name in names], path, space)
    except ValueError:
        if not is_order_known:
            raise
        return labels_of_classes(names, path, space)


def matching_labels(theirs: LabelSpace, ours: LabelSpace) -> np.ndarray:
    """Return the label in `ours` of each class of `theirs`, int64 [num_classes]; `NOT_SHARED` if `ours` lacks it.

    Two classes match by wnid. If one of the two has no wnid, they match by a name that is unique in each label space.
    """
    if theirs == ours:
        return np.arange(ours.num_classes)
    by_wnid = {entry.wnid: label for label, entry in enumerate(ours.classes) if entry.wnid}
    by_name, their_names = (
        _labels_by(space, lambda entry: {normalized_name(entry.class_name)}) for space in (ours, theirs)
    )

    def label_of(entry: ClassEntry) -> int:
        if entry.wnid in by_wnid:
            return by_wnid[entry.wnid]
        name = normalized_name(entry.class_name)
        found = by_name.get(name, [])
        if len(found) != 1 or len(their_names[name]) != 1 or (entry.wnid and ours.classes[found[0]].wnid):
            return NOT_SHARED
        return found[0]

    return np.array([label_of(entry) for entry in theirs.classes], dtype=np.int64)


def _labels_of_numbers(numbers: Sequence[int], path: str, space: LabelSpace) -> np.ndarray:
    """Return the numbers as labels; ValueError for a number that is too high.

    Sets with numbered classes sort their classes by wnid, and so do the shipped label spaces.
    """
    if (highest := max(numbers, default=0)) >= space.num_classes:
        raise ValueError(
            f"'{path}' has the class number {highest}, but {space.name} has {space.num_classes} classes, from 0. "
            "Check that the set and the label space belong together."
        )
    return np.array(numbers, dtype=np.int64)


def _labels_by_name(space: LabelSpace, spelling: Callable[[str], str]) -> dict[str, list[int]]:
    """Return labels by name: each wnid, class name and list of all lemmas (`tench, Tinca tinca`), in one spelling."""
    return _labels_by(
        space,
        lambda entry: {spelling(entry.wnid), spelling(entry.class_name), spelling(", ".join(entry.lemmas))} - {""},
    )


def _labels_by(space: LabelSpace, names_of: Callable[[ClassEntry], set[str]]) -> dict[str, list[int]]:
    labels: dict[str, list[int]] = {}
    for label, entry in enumerate(space.classes):
        for name in names_of(entry):
            labels.setdefault(name, []).append(label)
    return labels
