"""Real images in a folder that has one folder per class: which there are, and each as pixels.

Knows neither turns nor their order, and no Ray.
"""

import os
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import ExifTags, Image, ImageOps

from generation.labels import LabelSpace
from generation.storage import StorageError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""What names of images end with, in any case, as for torchvision's ImageFolder."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What puts an image upright, by its EXIF orientation."""

DAMAGED_EXIF = (struct.error, KeyError, SyntaxError, TypeError, ValueError, ZeroDivisionError)
"""What PIL ends with, as it says itself, where EXIF is not what it should be."""


class LabelledImages(Protocol):
    """Images by their position in a list that stays; cheap to send."""

    @property
    def num_images(self) -> int:
        """How many there are."""
        ...

    @property
    def names_hash(self) -> int:
        """Return a number that others have if images were added, removed or renamed."""
        ...

    def labels(self) -> np.ndarray:
        """Return the label of each, int64 [num_images]."""
        ...

    def opener(self, image_size: int) -> Callable[[int], np.ndarray]:
        """Return what gives the image at a position, uint8 [image_size, image_size, 3]."""
        ...


@dataclass(frozen=True, eq=False)
class FolderImages:
    """The images of a folder of class folders, sorted by folder, then by name."""

    folder: str
    """Absolute; the same on every node."""

    class_folders: tuple[str, ...]

    class_labels: np.ndarray
    """int64 [number of class folders]."""

    class_counts: np.ndarray
    """int64 [number of class folders]: how many images each has."""

    packed_names: bytes
    """All files' names, compressed: ImageNet's are sent as 5 MB."""

    @property
    def num_images(self) -> int:
        """How many files there are."""
        return int(self.class_counts.sum())

    @property
    def names_hash(self) -> int:
        """Return 32 bits of the names of files, and of the label and number of files of each folder."""
        names = zlib.decompress(self.packed_names)
        return zlib.crc32(names + self.class_labels.tobytes() + self.class_counts.tobytes())

    def labels(self) -> np.ndarray:
        """Return the label of each file, int64 [num_images]."""
        return np.repeat(self.class_labels, self.class_counts)

    def opener(self, image_size: int) -> Callable[[int], np.ndarray]:
        """Return what decodes the file at a position."""
        names = zlib.decompress(self.packed_names).split(b"\0")
        ends = np.cumsum(self.class_counts)

        def read(position: int) -> np.ndarray:
            class_folder = self.class_folders[np.searchsorted(ends, position, side="right")]
            return read_image(os.path.join(self.folder, class_folder, os.fsdecode(names[position])), image_size)

        return read


def list_images(place: str, label_space: LabelSpace) -> FolderImages:
    """Return the images of a folder, none of them opened; ValueError where there are none, or of unknown classes.

    A class folder is called by its wnid or class name; what begins with a dot is left out.
    """
    folder = os.path.abspath(os.path.expanduser(place))
    class_folders = [entry.name for entry in _entries(folder) if not entry.is_file()]
    labels = labels_of_folders(class_folders, folder, label_space)
    names = [_image_names(os.path.join(folder, class_folder)) for class_folder in class_folders]
    counts = [len(names_of_class) for names_of_class in names]
    if not sum(counts):
        raise ValueError(
            f"'{folder}' has no images in folders of classes. Give a folder with one folder per class, named by its "
            f"wnid or class name, of images that end with one of {', '.join(EXTENSIONS)}."
        )
    packed = zlib.compress(b"\0".join(os.fsencode(name) for names_of_class in names for name in names_of_class))
    return FolderImages(folder, tuple(class_folders), np.array(labels, np.int64), np.array(counts, np.int64), packed)


def labels_of_folders(names: Sequence[str], folder: str, label_space: LabelSpace) -> list[int]:
    """Return the label of each class folder; ValueError for those that are called like no class, or like several."""
    exact, folded = _labels_by_name(label_space, str), _labels_by_name(label_space, _folded)
    found = [exact.get(name) or folded.get(_folded(name), []) for name in names]
    if unknown := [name for name, labels in zip(names, found, strict=True) if not labels]:
        raise ValueError(
            f"{len(unknown)} of {len(names)} folders in '{folder}' are called like no class of {label_space.name}: "
            f"{', '.join(unknown[:3])}{', ...' if len(unknown) > 3 else '.'} Name them by wnid or class name, take "
            "them out, or choose the label space that has them."
        )
    for name, labels in zip(names, found, strict=True):
        if len(labels) > 1:
            entries = [label_space.classes[label] for label in labels]
            raise ValueError(
                f"The folder '{name}' in '{folder}' is called like {len(labels)} classes of {label_space.name}. Name "
                f"it by its wnid: {' or '.join(entry.wnid or entry.class_name for entry in entries)}."
            )
    return [labels[0] for labels in found]


def read_image(path: str, image_size: int) -> np.ndarray:
    """Return a file's image, upright, uint8 [image_size, image_size, 3]; StorageError that names a damaged file."""
    try:
        with Image.open(path) as image:
            return square(_rgb(_upright(image)), image_size)
    except Exception as error:  # PIL's decoders end with errors of any kind
        raise StorageError(
            f"The image '{path}' cannot be decoded: {error}. Put a whole one in its place, or take it out and start a "
            "new run."
        ) from error


def square(image: Image.Image, image_size: int) -> np.ndarray:
    """Return the centre of an RGB image, its shorter side made `image_size`, as uint8 [image_size, image_size, 3]."""
    return np.asarray(ImageOps.fit(image, (image_size, image_size), Image.Resampling.BICUBIC))


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """Return what a folder has, in the order of the names' bytes."""
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise ValueError(
            f"'{folder}' cannot be listed: {error.strerror}. Give a folder that has one folder of images per class."
        ) from error
    return sorted(shown, key=lambda entry: os.fsencode(entry.name))


def _image_names(folder: str) -> list[str]:
    """Return the names of a folder's images; a link that leads nowhere is one, so that it is told of, not left out."""
    return [entry.name for entry in _entries(folder) if entry.name.lower().endswith(EXTENSIONS) and not entry.is_dir()]


def _labels_by_name(label_space: LabelSpace, spelling: Callable[[str], str]) -> dict[str, list[int]]:
    """Return which labels a wnid or class name, spelled so, is that of."""
    labels: dict[str, list[int]] = {}
    for label, entry in enumerate(label_space.classes):
        for name in {spelling(entry.wnid), spelling(entry.class_name)} - {""}:
            labels.setdefault(name, []).append(label)
    return labels


def _folded(name: str) -> str:
    return name.replace("_", " ").casefold()


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # some formats have EXIF behind the image
    turn = TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1, upright, where EXIF is damaged, which is no damage of the image."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except DAMAGED_EXIF:
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    """Return it as RGB; of 16 bits the upper 8, where PIL would make white of nearly all."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")
