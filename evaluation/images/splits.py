"""Find the Parquet files or tars of a split by their names; either all parts of it or none."""

import os
import re

from evaluation.images.folders import entries_of, is_file

SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
"""Words in file names, and their splits."""

PREFERRED_SPLITS = ("validation", "test")
"""Splits to evaluate on, in order of preference: the labels of a test split are often secret."""

PART_OF_SPLIT = re.compile(r"(.+?)-(\d+)-of-(\d+)")
"""Hugging Face's names for the files of a split: `validation-00000-of-00014.parquet`, formerly with a hash."""


def files_of(path: str, extension: str, split: str) -> tuple[str, list[str]]:
    """Return a folder and the names of a split's files in it, sorted; ValueError if some or all are missing.

    `path` is a single file, whatever its split, or a folder as for `folder_with`. By default, the split is validation,
    else test, else the only one.
    """
    path = os.path.abspath(os.path.expanduser(path))
    if os.path.isfile(path):
        folder, name = os.path.split(path)
        return folder, [name]
    if not (folder := folder_with(path, extension)):
        raise ValueError(
            f"'{path}' has no *{extension} files, and neither has its subfolder 'data'. Use a folder that has them."
        )
    names = _of_split(folder, _names_ending(folder, extension), split)
    _check_parts(folder, names)
    return folder, names


def folder_with(path: str, extension: str) -> str:
    """Return a folder, or its `data` folder, if it has files with the extension; empty if neither has."""
    folders = [folder for folder in (path, os.path.join(path, "data")) if os.path.isdir(folder)]
    return next((folder for folder in folders if _names_ending(folder, extension)), "")


def _names_ending(folder: str, extension: str) -> list[str]:
    return [entry.name for entry in entries_of(folder) if entry.name.endswith(extension) and is_file(entry)]


def wanted_split(split: str, available: list[str]) -> str | None:
    """Return the requested split, by default the preferred one for evaluation; None if `available` does not have it."""
    choices = [SPLITS.get(split, split)] if split else PREFERRED_SPLITS
    return next((choice for choice in choices if choice in available), None)


def split_of(name: str) -> str:
    """Return the split in a file's name; empty if there is none.

    Of several words for splits, the last before the part number counts: the first words name the set.
    """
    part = PART_OF_SPLIT.match(name)
    words = re.split(r"[^a-z]+", (part[1] if part else name).lower())
    known = [SPLITS[word] for word in words if word in SPLITS]
    return known[-1] if known else (part[1] if part else "")


def _of_split(folder: str, names: list[str], split: str) -> list[str]:
    """Return the names of a split's files; all of them if no name contains a split."""
    splits = [split_of(name) for name in names]
    if set(splits) == {""} or (not split and len(set(splits)) == 1):
        return names
    wanted = wanted_split(split, splits)
    if wanted is None:
        available = " and ".join(name or "no split" for name in sorted(set(splits)))
        raise ValueError(
            f"'{folder}' has files of {available}, but not of {split or 'validation or test'}. Use another folder, or "
            "a single file."
        )
    return [name for name, its_split in zip(names, splits, strict=True) if its_split == wanted]


def _check_parts(folder: str, names: list[str]) -> None:
    """Raise ValueError if files are parts of a split, but not exactly one of each part."""
    parts = [PART_OF_SPLIT.match(name) for name in names]
    if not any(parts):
        return
    num_parts = [int(part[3]) if part else 0 for part in parts]
    if other := next((name for name, num in zip(names, num_parts, strict=True) if num != num_parts[0]), None):
        raise ValueError(
            f"'{folder}' has '{names[0]}' and '{other}', which are of one split, but in different "
            "numbers of parts. Remove one of them, or use a single file."
        )
    name_of: dict[int, str] = {}
    for name, number in [(name, int(part[2])) for name, part in zip(names, parts, strict=True) if part]:
        if number in name_of:
            raise ValueError(
                f"'{folder}' has part {number} twice: '{name_of[number]}' and '{name}'. Remove one of them, or use "
                "a single file."
            )
        name_of[number] = name
    if (last := max(name_of)) >= num_parts[0]:
        raise ValueError(
            f"'{name_of[last]}' in '{folder}' has a part number above {num_parts[0] - 1}, the last of {num_parts[0]} "
            "parts. Remove it, or use a single file."
        )
    missing = next((number for number in range(num_parts[0]) if number not in name_of), None)
    if missing is not None:
        raise ValueError(
            f"'{folder}' has {len(names)} of the {num_parts[0]} parts of the split of '{names[0]}': part {missing} "
            "is missing. Add it, or use a single file."
        )
