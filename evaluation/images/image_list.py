"""Immutable list of labeled images: the name and class of each, and how to open it.

Leaves class names uninterpreted, and uses neither Ray nor a particular layout on disk.
"""

import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from evaluation.images.decoding import printable_name, read_image

Opener = Callable[[int], Image.Image]
"""Function that returns the image at a position, like `read_image`; UnreadableImageError if it is damaged."""


@dataclass(frozen=True)
class PathsBelow(Sequence[str]):
    """Paths of names below a folder, joined on access: full paths of ImageNet would take 70 MB more."""

    folder: str
    names: list[bytes]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, position: Any) -> Any:
        return os.path.join(self.folder, os.fsdecode(self.names[position]))


def open_files(paths: Sequence[str]) -> Opener:
    """Return a function that decodes the file at a position."""
    return lambda position: read_image(paths[position])


@dataclass(frozen=True, eq=False)
class ImageList:
    """Labeled images, not opened yet; cheap to send to processes with access to the same files."""

    folder: str
    """Absolute path, the same on every node; empty for images that ship with Figment."""

    classes: tuple[str, ...]
    """The set's names for its classes: wnids, names, or numbers in its own order."""

    numbers: np.ndarray
    """int32 [num_images]: index in `classes` of each image."""

    packed_names: bytes
    """Image names relative to the folder, compressed: 3 MB for ImageNet."""

    names_hash: int
    """32-bit hash that changes when images are added, removed or renamed, but not when the folder is moved."""

    titles: tuple[str, ...] = ()
    """Class names from the set's own table for its class numbers, by number; empty without such a table."""

    opener_of: Callable[[Sequence[str]], Opener] = open_files
    """Returns an opener for the images with the given names."""

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self.numbers)

    def class_numbers(self) -> np.ndarray:
        """Return the index in `classes` of each image, int64 [num_images]."""
        return self.numbers.astype(np.int64)

    def names(self) -> list[str]:
        """Return each image's name for users: its path, or its file and its name inside that file."""
        return list(self._paths())

    def _paths(self) -> PathsBelow:
        return PathsBelow(self.folder, zlib.decompress(self.packed_names).split(b"\0"))

    def opener(self) -> Opener:
        """Return a function that opens the image at a position."""
        return self.opener_of(self._paths())


def build_list(
    folder: str,
    names: Iterable[str],
    labels: Sequence[str],
    classes: Iterable[str] | None = None,
    titles: tuple[str, ...] = (),
    opener_of: Callable[[Sequence[str]], Opener] = open_files,
) -> ImageList:
    """Return a list of images by their names below a folder and their classes, in the order of `classes`.

    By default, classes are all that occur, sorted numerically if all are numbers.
    """
    if classes is None:
        are_numbers = all(label.isdecimal() for label in set(labels))
        classes = sorted(set(labels), key=(lambda label: (int(label), label)) if are_numbers else None)
    names, classes = list(names), tuple(classes)
    number_of = {label: number for number, label in enumerate(classes)}
    numbers = np.array([number_of[label] for label in labels], np.int32)
    names_hash = hash_of_names((*names, *classes, *titles), numbers)
    return ImageList(folder, classes, numbers, pack_names(names), names_hash, titles, opener_of)


def open_array(read: Callable[[], np.ndarray], _names: Sequence[str]) -> Opener:
    """Return an opener for images of an array, uint8 [N, H, W] or [N, H, W, 3], which is read on first use."""
    kept: list[np.ndarray] = []

    def read_one(position: int) -> Image.Image:
        if not kept:
            kept.append(read())
        return Image.fromarray(kept[0][position]).convert("RGB")

    return read_one


def pack_names(names: Iterable[str]) -> bytes:
    """Return names compressed for `ImageList`."""
    return zlib.compress(_joined(names))


def hash_of_names(names: Iterable[str], numbers: np.ndarray) -> int:
    """Return a 32-bit hash of image and class names and of the numbers that relate them."""
    return zlib.crc32(_joined(names) + numbers.tobytes())


def _joined(names: Iterable[str]) -> bytes:
    return b"\0".join(map(_as_bytes, names))


def _as_bytes(name: str) -> bytes:
    """Return a name as bytes, as in file systems; ValueError for a name that no file can have."""
    try:
        if "\0" not in name:
            return os.fsencode(name)
    except UnicodeEncodeError:
        pass
    raise ValueError(f"{name!r} cannot name a file or a class. Rename it in the list, tar or Parquet file.")


@contextmanager
def errors_as(error_type: type[Exception], path: str, kind: str, *errors: type[Exception]) -> Iterator[None]:
    """Convert a library's errors for a damaged file to one line that names the file."""
    try:
        yield
    except (OSError, *errors) as error:
        message = " ".join(str(error).split())[:200]
        raise error_type(
            f"'{printable_name(path)}' cannot be read as {kind}: {message}. Replace it, or use another path."
        ) from error
