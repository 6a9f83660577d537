"""Labelled images by their position in a list that stays; here those of a folder that has one folder per class.

Knows neither what classes mean, nor turns and their order, nor Ray.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from evaluation.images.decoding import read_image
from evaluation.images.listed_images import (
    class_folders,
    entries_of,
    hash_of_names,
    is_file,
    is_folder,
    packed,
    unpacked,
)

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""What names of images end with, in any case, as for torchvision's ImageFolder."""


class ImageSource(Protocol):
    """Labelled images, none of them opened; cheap to send to processes that have the same files."""

    @property
    def num_images(self) -> int:
        """How many there are."""
        ...

    @property
    def names_hash(self) -> int:
        """Return 32 bits that others have if images were added, removed or renamed."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """What the classes are called here: by wnid, by name, or by a number in the set's own order."""
        ...

    @property
    def titles(self) -> tuple[str, ...]:
        """What the set's own table calls the classes that it numbers, by number; empty where it has none."""
        ...

    def class_numbers(self) -> np.ndarray:
        """Return which of `classes` each image is of, int64 [num_images]."""
        ...

    def names(self) -> list[str]:
        """Return what a user calls each image: its path, or its file and its place in there."""
        ...

    def opener(self) -> Callable[[int], Image.Image]:
        """Return what gives the image at a position, as `read_image` does; UnreadableImageError where it is damaged."""
        ...


@dataclass(frozen=True, eq=False)
class FolderImages:
    """The images of a folder of class folders, sorted by folder, then by name."""

    folder: str
    """Absolute; the same on every node."""

    classes: tuple[str, ...]
    """The class folders."""

    class_counts: np.ndarray
    """int64 [number of class folders]: how many images each has."""

    packed_names: bytes
    """All files' paths below their class folders, compressed: ImageNet's are sent as 5 MB."""

    @property
    def titles(self) -> tuple[str, ...]:
        """None: folders have no table."""
        return ()

    @property
    def num_images(self) -> int:
        """How many files there are."""
        return int(self.class_counts.sum())

    @property
    def names_hash(self) -> int:
        """Return 32 bits of the names of files and folders, and of the number of files in each."""
        return hash_of_names(self.packed_names, self.classes, self.class_counts)

    def class_numbers(self) -> np.ndarray:
        """Return the class folder of each file, int64 [num_images]."""
        return np.repeat(np.arange(len(self.classes)), self.class_counts)

    def names(self) -> list[str]:
        """Return all files' paths."""
        path_of = self._paths()
        return [path_of(position) for position in range(self.num_images)]

    def opener(self) -> Callable[[int], Image.Image]:
        """Return what decodes the file at a position."""
        path_of = self._paths()
        return lambda position: read_image(path_of(position))

    def _paths(self) -> Callable[[int], str]:
        names = unpacked(self.packed_names)
        ends = np.cumsum(self.class_counts)

        def path_of(position: int) -> str:
            class_folder = self.classes[np.searchsorted(ends, position, side="right")]
            return os.path.join(self.folder, class_folder, names[position])

        return path_of


def list_images(place: str) -> FolderImages:
    """Return the images of a folder of class folders, none of them opened; ValueError where there are none.

    What is hidden is left out, and so is what is neither a folder nor a regular file.
    """
    folder = os.path.abspath(os.path.expanduser(place))
    names = {entry.name: class_images(entry.path) for entry in class_folders(folder)}
    if not names.get("images", True):
        del names["images"]  # what is left of Tiny-ImageNet's when its images were sorted into class folders
    counts = [len(names_of_class) for names_of_class in names.values()]
    if not sum(counts):
        raise ValueError(
            f"'{folder}' has no images in folders of classes. Give a folder with one folder per class, named by its "
            f"wnid or class name, of images that end with one of {', '.join(EXTENSIONS)}."
        )
    packed_names = packed(name for names_of_class in names.values() for name in names_of_class)
    return FolderImages(folder, tuple(names), np.array(counts, np.int64), packed_names)


def image_names(folder: str) -> list[str]:
    """Return the names of a folder's images; a link that leads nowhere is one, so that it is told of, not left out."""
    return _names_of_images(entries_of(folder))


def class_images(folder: str) -> list[str]:
    """Return the paths of all images below a class's folder, in the order of torchvision's ImageFolder."""
    names: dict[str, list[str]] = {}
    left = [folder]
    while left:
        place = left.pop()
        entries = entries_of(place)
        names[place] = _names_of_images(entries)
        left += [entry.path for entry in entries if is_folder(entry)]
    start = len(folder) + 1
    return [f"{place}/{name}"[start:] for place in sorted(names, key=os.fsencode) for name in names[place]]


def _names_of_images(entries: list[os.DirEntry[str]]) -> list[str]:
    return [entry.name for entry in entries if entry.name.lower().endswith(EXTENSIONS) and is_file(entry)]
