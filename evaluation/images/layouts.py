"""Detect and open the layout of a real image set on disk: class folders, flat folders, Parquet, tars, arrays.

Leaves class names uninterpreted, and uses no Ray.
"""

import os
from collections.abc import Callable

from evaluation.images.array_files import array_images, has_arrays
from evaluation.images.flat_folders import LAYOUTS, TINY_LIST, flat_images, is_flat
from evaluation.images.folders import entries_of, image_names, is_folder, list_images
from evaluation.images.image_list import ImageList
from evaluation.images.parquet import parquet_images
from evaluation.images.splits import SPLITS, folder_with, wanted_split
from evaluation.images.tar import tar_images

INNER = (
    os.path.join("ILSVRC", "Data", "CLS-LOC"),
    os.path.join("Data", "CLS-LOC"),
    "CLS-LOC",
    "tiny-imagenet-200",
    "raw",
    os.path.join("MNIST", "raw"),
    os.path.join("FashionMNIST", "raw"),
    os.path.join("KMNIST", "raw"),
    "cifar-10-batches-bin",
    "cifar-100-binary",
    "plain_text",
    "cifar100",
)
"""Subfolders in which archives, torchvision and Hugging Face's CIFAR store images."""


def open_layout(path: str, split: str = "", devkit: str = "") -> ImageList:
    """Return the images of a folder, or of one Parquet file or tar, in the layout detected there.

    A split is searched for among its subfolders, then in the names of Parquet files and tars; if nothing is named like
    a split, all images are used. By default it is validation, else test, if there are several. ValueError if there are
    no images with classes, or several splits without the requested one.
    """
    path = os.path.abspath(os.path.expanduser(path))
    inside = _folder_of_split(path, split)
    if inside:
        return open_layout(inside, "", devkit)
    layout = _layout_of(path)
    if not layout and (inner := _inner_folder(path)):
        return open_layout(inner, split, devkit)
    if layout not in READERS:
        raise ValueError(_why_none(path, split))
    return READERS[layout](path, split, devkit)


def _folder_of_split(path: str, split: str) -> str:
    """Return the subfolder with images, in any layout, that is named like the split; empty if there is none.

    Also empty if at least as many folders with images have other names: then all of them are classes.
    """
    folders = _folders_in(path)
    called = [folder for folder in folders if folder.name in {*SPLITS, split}]
    splits = [folder.path for folder in called if _layout_of(folder.path)]
    found = _first_of_split(splits, split)
    if found and sum(bool(image_names(folder.path)) for folder in folders if folder not in called) >= len(splits):
        return ""
    return found


def _inner_folder(path: str) -> str:
    """Return the subfolder of `INNER` in a folder, empty if there is none; ValueError if there are several."""
    folders = [os.path.join(path, name) for name in INNER]
    found = [folder for folder in folders if os.path.isdir(folder) and _folders_with_layout(folder)]
    if len(found) > 1:
        names = " and ".join(os.path.relpath(folder, path) for folder in found)
        raise ValueError(f"'{path}' has several sets: {names}. Use one of these folders, such as '{found[0]}'.")
    return found[0] if found else ""


def _folders_in(path: str) -> list[os.DirEntry[str]]:
    return [entry for entry in entries_of(path) if is_folder(entry)] if os.path.isdir(path) else []


def _first_of_split(paths: list[str], split: str) -> str:
    """Return the first path named like a split, by default the preferred one for evaluation; empty if there is none."""
    names = [SPLITS.get(os.path.basename(path), os.path.basename(path)) for path in paths]
    wanted = wanted_split(split, names)
    return paths[names.index(wanted)] if wanted is not None else ""


def _why_none(path: str, split: str) -> str:
    """Return an error message for a path without a known layout, with the folders in it that have one."""
    if not os.path.exists(path):
        return f"'{path}' does not exist. Use {LAYOUTS}."
    inside = [found for folder in _folders_in(path) for found in _folders_with_layout(folder.path)]
    if not inside and _has_images_inside(path):
        return (
            f"'{path}' has all images in one folder, images, and no {TINY_LIST} with their classes: "
            f"Tiny-ImageNet's test split has no labels. Use {LAYOUTS}."
        )
    if not inside:
        return f"'{path}' has no images with known classes. Use {LAYOUTS}."
    names = ", ".join(os.path.relpath(folder, path) for folder in inside[:5])
    return (
        f"'{path}' has no images with known classes, and no folder {split or 'validation or test'} that has. Other "
        f"folders in it have some: {names}{', ...' if len(inside) > 5 else '.'} Use one of these, such as "
        f"'{_first_of_split(inside, split) or inside[0]}'."
    )


def _folders_with_layout(folder: str) -> list[str]:
    """Return a folder if it has a known layout, else its subfolders that have one."""
    return [folder] if _layout_of(folder) else [inner.path for inner in _folders_in(folder) if _layout_of(inner.path)]


def _layout_of(path: str) -> str:
    """Return the name of the layout at a path; empty if it is unknown."""
    if os.path.isfile(path):
        return {".parquet": "parquet", ".tar": "tar"}.get(os.path.splitext(path)[1], "")
    if not os.path.isdir(path):
        return ""
    has_flat = is_flat(path)
    has_classes = any(_is_class(folder) for folder in _folders_in(path))
    if has_flat and has_classes:
        raise ValueError(f"'{path}' has images both in class folders and next to them. Move one kind elsewhere.")
    found = {
        "arrays": has_arrays(path),
        "classes": has_classes,
        "parquet": bool(folder_with(path, ".parquet")),
        "flat": has_flat,  # a tar next to them is what they came in
        "tar": bool(folder_with(path, ".tar")),
    }
    return next((name for name, is_there in found.items() if is_there), "")


def _is_class(folder: os.DirEntry[str]) -> bool:
    """Return whether it is a class folder; folders named like a split, or `images`, hold many classes."""
    if folder.name in {*SPLITS, "images"}:
        return False
    return bool(image_names(folder.path)) or _has_images_inside(folder.path)


def _has_images_inside(folder: str) -> bool:
    """Return whether a folder has images in a subfolder `images`, as in Tiny-ImageNet."""
    return any(inner.name == "images" and image_names(inner.path) for inner in _folders_in(folder))


READERS: dict[str, Callable[[str, str, str], ImageList]] = {
    "classes": lambda path, _split, _devkit: list_images(path),
    "arrays": lambda path, split, _devkit: array_images(path, split),
    "parquet": lambda path, split, _devkit: parquet_images(path, split),
    "tar": lambda path, split, _devkit: tar_images(path, split),
    "flat": lambda path, _split, devkit: flat_images(path, devkit),
}
"""Readers by layout, called with path, split and devkit."""
