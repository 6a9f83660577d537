"""What image sets have in common, however they lie on disk: names, class numbers, what a folder has, files of a split.

Knows neither what is in a file but an image, nor what classes mean, nor Ray.
"""

import itertools
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from evaluation.images.decoding import read_image, shown_name

HIDDEN_NAMES = (
    "lost+found",
    "__MACOSX",
    "$RECYCLE.BIN",
    "System Volume Information",
    "@eaDir",
    "#recycle",
    "#snapshot",
)
"""Folders that file systems, archives and network disks put among a user's, beside those that begin with a dot."""

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
"""Words in names of files, and the splits that they mean."""

PREFERRED_SPLITS = ("validation", "test")
"""Those to evaluate on, the better one first: labels of a test split are often kept secret."""

PART_OF_SPLIT = re.compile(r"(.+?)-(\d+)-of-(\d+)")
"""How Hugging Face calls a file of a split: `validation-00000-of-00014.parquet`, once with a hash before the dot."""


@dataclass(frozen=True, eq=False)
class ListedImages:
    """Files anywhere below a folder, in a list that also has the class of each."""

    folder: str
    """Absolute; the same on every node."""

    classes: tuple[str, ...]
    """What the set calls them: wnids, names, or numbers."""

    numbers: np.ndarray
    """int32 [num_images]: which of `classes` each image is of."""

    packed_names: bytes
    """What each image is called below the folder, compressed."""

    titles: tuple[str, ...] = field(default=(), kw_only=True)
    """As in `evaluation.images.sources.ImageSource`."""

    @property
    def num_images(self) -> int:
        """How many there are."""
        return len(self.numbers)

    @property
    def names_hash(self) -> int:
        """Return 32 bits of the images' names and classes, wherever the folder lies."""
        return hash_of_names(self.packed_names, (*self.classes, *self.titles), self.numbers)

    def class_numbers(self) -> np.ndarray:
        """Return which of `classes` each image is of, int64 [num_images]."""
        return self.numbers.astype(np.int64)

    def names(self) -> list[str]:
        """Return all files' paths; of a file that has many images, each with what it is called in there."""
        return [os.path.join(self.folder, name) for name in unpacked(self.packed_names)]

    def opener(self) -> Callable[[int], Image.Image]:
        """Return what decodes the file at a position."""
        paths = self.names()
        return lambda position: read_image(paths[position])


def packed(names: Iterable[str]) -> bytes:
    """Return names as `ListedImages` has them."""
    return zlib.compress(b"\0".join(map(_as_bytes, names)))


def unpacked(packed_names: bytes) -> list[str]:
    """Return what `packed` had."""
    return [os.fsdecode(name) for name in zlib.decompress(packed_names).split(b"\0")]


def hash_of_names(packed_names: bytes, classes: Iterable[str], numbers: np.ndarray) -> int:
    """Return 32 bits of names of images, names of classes, and what numbers say of which is of which."""
    names = b"\0".join([zlib.decompress(packed_names), *map(_as_bytes, classes)])
    return zlib.crc32(names + numbers.tobytes())


def _as_bytes(name: str) -> bytes:
    """Return a name as files have it; ValueError for one that no file can have."""
    try:
        if "\0" not in name:
            return os.fsencode(name)
    except UnicodeEncodeError:
        pass
    raise ValueError(f"{name!r} is no name of a file or a class. Rename it where the images are listed.")


def is_hidden(name: str) -> bool:
    """Return whether a name is that of what file systems and desktops hide from their users."""
    return name.startswith(".") or name in HIDDEN_NAMES


def leads_nowhere(entry: os.DirEntry[str]) -> bool:
    """Return whether it is a link to nothing, or to itself."""
    return entry.is_symlink() and not os.path.exists(entry.path)


def is_file(entry: os.DirEntry[str]) -> bool:
    """Return whether it is a regular file, or a link that leads nowhere, so that it is told of, not left out."""
    return leads_nowhere(entry) or entry.is_file()


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether it is a folder; a link to where it lies, or above, or to a folder in its path, is none."""
    if leads_nowhere(entry) or not entry.is_dir():
        return False
    if not entry.is_symlink():
        return True
    target, above = os.path.realpath(entry.path), Path(entry.path).parents
    is_above = os.path.commonpath([os.path.realpath(above[0]), target]) == target
    return not is_above and all(os.path.realpath(folder) != target for folder in above)


def class_folders(folder: str) -> list[os.DirEntry[str]]:
    """Return the folders in a folder, and links that lead nowhere, so that these are told of."""
    return [entry for entry in entries_of(folder) if is_folder(entry) or leads_nowhere(entry)]


def entries_of(folder: str) -> list[os.DirEntry[str]]:
    """Return what a folder has that is not hidden, in the order of the names' bytes."""
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not is_hidden(entry.name)]
    except OSError as error:
        raise ValueError(
            f"'{shown_name(folder)}' cannot be listed: {error.strerror}. Give a folder that has one folder of images "
            "per class."
        ) from error
    return sorted(shown, key=lambda entry: os.fsencode(entry.name))


def numbered(labels: list[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the classes that labels name, by number if all are numbers, and the place of each label among them, int32.

    Numbers that no image has are left out.
    """
    seen = set(labels)
    are_numbers = all(label.isdecimal() for label in seen)
    classes = sorted(seen, key=(lambda label: (int(label), label)) if are_numbers else None)
    place = {label: i for i, label in enumerate(classes)}
    return tuple(classes), np.array([place[label] for label in labels], np.int32)


def files_of(place: str, extension: str, split: str) -> tuple[str, list[str]]:
    """Return a folder and the names of its files that have a split, sorted; ValueError if there are none, or not all.

    A place is one file, whatever its split, or as for `folder_with`. No split asked for is validation, or else test, or
    else the only one.
    """
    place = os.path.abspath(os.path.expanduser(place))
    if os.path.isfile(place):
        folder, name = os.path.split(place)
        return folder, [name]
    if not (folder := folder_with(place, extension)):
        raise ValueError(f"'{place}' has no *{extension}, and none in a folder data. Give a place that has some.")
    names = _of_split(folder, _names_ending(folder, extension), split)
    _check_parts(folder, names)
    return folder, names


def folder_with(place: str, extension: str) -> str:
    """Return a folder, or its `data`, if files in it end so; empty if there are none."""
    folders = [folder for folder in (place, os.path.join(place, "data")) if os.path.isdir(folder)]
    return next((folder for folder in folders if _names_ending(folder, extension)), "")


def _names_ending(folder: str, extension: str) -> list[str]:
    return [entry.name for entry in entries_of(folder) if entry.name.endswith(extension) and is_file(entry)]


def split_of(name: str) -> str:
    """Return which split a file's name says that it has; empty if it says nothing.

    Of several words that mean splits, the last before a part's number says it: what comes first names the set.
    """
    part = PART_OF_SPLIT.match(name)
    words = re.split(r"[^a-z]+", (part[1] if part else name).lower())
    known = [SPLITS[word] for word in words if word in SPLITS]
    return known[-1] if known else (part[1] if part else "")


def _of_split(folder: str, names: list[str], split: str) -> list[str]:
    """Return the names that have a split, all if none says which it has."""
    splits = [split_of(name) for name in names]
    if set(splits) == {""} or (not split and len(set(splits)) == 1):
        return names
    choices = [SPLITS.get(split, split)] if split else PREFERRED_SPLITS
    wanted = next((choice for choice in choices if choice in splits), None)
    if wanted is None:
        there = " and ".join(name or "files of no split" for name in sorted(set(splits)))
        raise ValueError(
            f"'{folder}' has {there}, and not {split or 'validation or test'}. Ask for one that it has, or give a file."
        )
    return [name for name, its_split in zip(names, splits, strict=True) if its_split == wanted]


def _check_parts(folder: str, names: list[str]) -> None:
    """Raise ValueError if files are parts of a split, and not each part of one whole once."""
    parts = [PART_OF_SPLIT.match(name) for name in names]
    if not any(parts):
        return
    num_parts = [int(part[3]) if part else 0 for part in parts]
    if other := next((name for name, num in zip(names, num_parts, strict=True) if num != num_parts[0]), None):
        raise ValueError(
            f"'{folder}' has of one split '{names[0]}' and '{other}', which are not parts of one whole. Take one of "
            "them out, or give one file."
        )
    _check_each_once(folder, names, [int(part[2]) for part in parts if part], num_parts[0])


def _check_each_once(folder: str, names: list[str], numbers: list[int], num_parts: int) -> None:
    """Raise ValueError unless the numbers are those from 0 to one less than that of the parts, each once."""
    name_of: dict[int, str] = {}
    for number, name in zip(numbers, names, strict=True):
        if number in name_of:
            raise ValueError(
                f"'{folder}' has part {number} twice: '{name_of[number]}' and '{name}'. Take one of them out, or give "
                "one file."
            )
        name_of[number] = name
    if max(numbers) >= num_parts:
        raise ValueError(
            f"'{name_of[max(numbers)]}' in '{folder}' is no part of {num_parts}, which are counted from 0. Take it "
            "out, or give one file."
        )
    missing = next(number for number in itertools.count() if number not in name_of)
    if missing < num_parts:
        raise ValueError(
            f"'{folder}' has {len(names)} of the {num_parts} parts that '{names[0]}' tells of: part {missing} is "
            "missing. Put all of them there, or give one file."
        )


@contextmanager
def told_as(error_type: type[Exception], path: str, kind: str, *errors: type[Exception]) -> Iterator[None]:
    """Make what a library ends with at a damaged file one line that names the file."""
    try:
        yield
    except (OSError, *errors) as error:
        message = " ".join(str(error).split())[:200]
        raise error_type(
            f"'{shown_name(path)}' cannot be read as {kind}: {message}. Put a whole one in its place, or give another "
            "place."
        ) from error
