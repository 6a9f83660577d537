"""List images in folders, such as one folder per class; hidden files and link loops are skipped.

Leaves class names uninterpreted, and uses no Ray.
"""

import os
from pathlib import Path

import numpy as np

from evaluation.images.decoding import printable_name
from evaluation.images.image_list import ImageList, hash_of_names, pack_names

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Image file extensions, in any case, as for torchvision's ImageFolder."""

HIDDEN_NAMES = (
    "lost+found",
    "__MACOSX",
    "$RECYCLE.BIN",
    "System Volume Information",
    "@eaDir",
    "#recycle",
    "#snapshot",
)
"""Folders created by file systems, archives and network disks, ignored like names that begin with a dot."""


def list_images(path: str) -> ImageList:
    """Return the images of a folder of class folders, sorted by folder, then by name; ValueError if there are none.

    Skips hidden entries, and anything that is neither a folder nor a regular file.
    """
    folder = os.path.abspath(os.path.expanduser(path))
    names = {entry.name: class_images(entry.path) for entry in class_folders(folder)}
    if not names.get("images", True):
        del names["images"]  # left over when Tiny-ImageNet's images were sorted into class folders
    counts = np.array([len(names_of_class) for names_of_class in names.values()], np.int64)
    if not counts.sum():
        raise ValueError(
            f"'{folder}' has no images in class folders. Use a folder with one folder of images per class, named by "
            f"wnid or class name; file names end in {', '.join(EXTENSIONS)}."
        )
    return ImageList(
        folder,
        tuple(names),
        np.repeat(np.arange(len(names), dtype=np.int32), counts),
        pack_names(f"{class_name}/{name}" for class_name in names for name in names[class_name]),
        hash_of_names([*(name for of_class in names.values() for name in of_class), *names], counts),
    )


def image_names(folder: str) -> list[str]:
    """Return the names of a folder's images; broken links are included so that they are reported, not skipped."""
    return _names_of_images(entries_of(folder))


def class_images(folder: str) -> list[str]:
    """Return the paths of all images below a class's folder, in the order of torchvision's ImageFolder."""
    names: dict[str, list[str]] = {}
    left = [folder]
    while left:
        current = left.pop()
        entries = entries_of(current)
        names[current] = _names_of_images(entries)
        left += [entry.path for entry in entries if is_folder(entry)]
    start = len(folder) + 1
    return [f"{below}/{name}"[start:] for below in sorted(names, key=os.fsencode) for name in names[below]]


def _names_of_images(entries: list[os.DirEntry[str]]) -> list[str]:
    return [entry.name for entry in entries if entry.name.lower().endswith(EXTENSIONS) and is_file(entry)]


def class_folders(folder: str) -> list[os.DirEntry[str]]:
    """Return the folders in a folder, and broken links, so that they are reported."""
    return [entry for entry in entries_of(folder) if is_folder(entry) or _leads_nowhere(entry)]


def is_hidden(name: str) -> bool:
    """Return whether file systems and desktops hide a file or folder of this name."""
    return name.startswith(".") or name in HIDDEN_NAMES


def is_file(entry: os.DirEntry[str]) -> bool:
    """Return whether it is a regular file, or a broken link, which is then reported instead of skipped."""
    return _leads_nowhere(entry) or entry.is_file()


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether it is a folder; links to a parent folder, or to a folder in its path, do not count."""
    if _leads_nowhere(entry) or not entry.is_dir():
        return False
    if not entry.is_symlink():
        return True
    target, above = os.path.realpath(entry.path), Path(entry.path).parents
    is_above = os.path.commonpath([os.path.realpath(above[0]), target]) == target
    return not is_above and all(os.path.realpath(folder) != target for folder in above)


def _leads_nowhere(entry: os.DirEntry[str]) -> bool:
    """Return whether it is a broken link, or a link to itself."""
    return entry.is_symlink() and not os.path.exists(entry.path)


def entries_of(folder: str) -> list[os.DirEntry[str]]:
    """Return a folder's entries that are not hidden, sorted by the bytes of their names."""
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not is_hidden(entry.name)]
    except OSError as error:
        raise ValueError(
            f"'{printable_name(folder)}' cannot be listed: {error.strerror}. Use a folder with one folder of images "
            "per class."
        ) from error
    return sorted(shown, key=lambda entry: os.fsencode(entry.name))
