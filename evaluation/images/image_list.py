"""Labelled images by their position in a list that stays: what each is called, of which class it is, what opens it.

Knows neither how sets lie on disk, nor what classes mean, nor Ray.
"""

import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from evaluation.images.decoding import read_image, shown_name

Opener = Callable[[int], Image.Image]
"""Gives the image at a position, as `read_image` does; UnreadableImageError where it is damaged."""


@dataclass(frozen=True)
class PathsBelow(Sequence[str]):
    """Names below a folder as paths, each joined when it is read: whole ones of ImageNet take 70 MB more."""

    folder: str
    names: list[bytes]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, position: Any) -> Any:
        return os.path.join(self.folder, os.fsdecode(self.names[position]))


def open_files(paths: Sequence[str]) -> Opener:
    """Return what decodes the file at a position."""
    return lambda position: read_image(paths[position])


@dataclass(frozen=True, eq=False)
class ImageList:
    """Labelled images, none of them opened; cheap to send to processes that have the same files."""

    folder: str
    """Absolute, the same on every node; empty for what ships."""

    classes: tuple[str, ...]
    """What the set calls them: by wnid, by name, or by a number in its own order."""

    numbers: np.ndarray
    """int32 [num_images]: which of `classes` each image is of."""

    packed_names: bytes
    """What each image is called below the folder, compressed: 3 MB of ImageNet's."""

    names_hash: int
    """32 bits that others have if images were added, removed or renamed, wherever the folder lies."""

    titles: tuple[str, ...] = ()
    """What the set's own table calls the classes that it numbers, by number; empty where it has none."""

    opener_of: Callable[[Sequence[str]], Opener] = open_files
    """Makes what opens images of their `names`."""

    @property
    def num_images(self) -> int:
        """How many there are."""
        return len(self.numbers)

    def class_numbers(self) -> np.ndarray:
        """Return which of `classes` each image is of, int64 [num_images]."""
        return self.numbers.astype(np.int64)

    def names(self) -> list[str]:
        """Return what a user calls each image: its path, or its file and what it is called in there."""
        return list(self._paths())

    def _paths(self) -> PathsBelow:
        return PathsBelow(self.folder, zlib.decompress(self.packed_names).split(b"\0"))

    def opener(self) -> Opener:
        """Return what opens the image at a position."""
        return self.opener_of(self._paths())


def listed(
    folder: str,
    names: Iterable[str],
    labels: Sequence[str],
    classes: Iterable[str] | None = None,
    titles: tuple[str, ...] = (),
    opener_of: Callable[[Sequence[str]], Opener] = open_files,
) -> ImageList:
    """Return images by their names below a folder, and the class of each, in the order of `classes`.

    By default these are all that have images, by number if they are numbers.
    """
    if classes is None:
        are_numbers = all(label.isdecimal() for label in set(labels))
        classes = sorted(set(labels), key=(lambda label: (int(label), label)) if are_numbers else None)
    names, classes = list(names), tuple(classes)
    number_of = {label: number for number, label in enumerate(classes)}
    numbers = np.array([number_of[label] for label in labels], np.int32)
    names_hash = hash_of_names((*names, *classes, *titles), numbers)
    return ImageList(folder, classes, numbers, packed(names), names_hash, titles, opener_of)


def open_array(read: Callable[[], np.ndarray], _names: Sequence[str]) -> Opener:
    """Return what opens images of an array, uint8 [N, H, W] or [N, H, W, 3], read when the first one is asked for."""
    kept: list[np.ndarray] = []

    def read_one(position: int) -> Image.Image:
        if not kept:
            kept.append(read())
        return Image.fromarray(kept[0][position]).convert("RGB")

    return read_one


def packed(names: Iterable[str]) -> bytes:
    """Return names as `ImageList` has them."""
    return zlib.compress(_joined(names))


def hash_of_names(names: Iterable[str], numbers: np.ndarray) -> int:
    """Return 32 bits of names of images and of classes, and of numbers that say which is of which."""
    return zlib.crc32(_joined(names) + numbers.tobytes())


def _joined(names: Iterable[str]) -> bytes:
    return b"\0".join(map(_as_bytes, names))


def _as_bytes(name: str) -> bytes:
    """Return a name as files have it; ValueError for one that no file can have."""
    try:
        if "\0" not in name:
            return os.fsencode(name)
    except UnicodeEncodeError:
        pass
    raise ValueError(f"{name!r} cannot name a file or a class. Rename it where the images are listed.")


@contextmanager
def told_as(error_type: type[Exception], path: str, kind: str, *errors: type[Exception]) -> Iterator[None]:
    """Make what a library ends with at a damaged file one line that names the file."""
    try:
        yield
    except (OSError, *errors) as error:
        message = " ".join(str(error).split())[:200]
        raise error_type(
            f"'{shown_name(path)}' cannot be read as {kind}: {message}. Replace it, or use another path."
        ) from error
