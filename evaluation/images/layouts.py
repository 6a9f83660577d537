"""Real image sets as they lie on disk: folders of classes, flat ones, Parquet, tars, arrays.

Knows neither what classes mean, nor Ray.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from evaluation.images.array_files import array_images, has_arrays
from evaluation.images.flat_folders import KAGGLE_LIST, TINY_LIST, is_listed_flat, listed_flat
from evaluation.images.listed_images import (
    PREFERRED_SPLITS,
    SPLITS,
    ListedImages,
    entries_of,
    folder_with,
    is_folder,
    packed,
)
from evaluation.images.parquet import parquet_images
from evaluation.images.sources import ImageSource, image_names, list_images
from evaluation.images.tar import tar_images

DEVKIT = "ILSVRC2012_devkit_t12"
GROUND_TRUTH = os.path.join("data", "ILSVRC2012_validation_ground_truth.txt")
META = os.path.join("data", "meta.mat")

VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d+)[._]")
"""How ImageNet's validation images are called: by their line of the ground truth, counted from 1."""

LAYOUTS = (
    "a folder that has one folder of images per class; *.parquet with columns image and label; WebDataset's *.tar; "
    f"ILSVRC2012_val_*.JPEG with {DEVKIT} or {KAGGLE_LIST} beside them, or with wnids in their names; MNIST's idx "
    "files; or CIFAR's binary version"
)

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
"""Where archives, torchvision and Hugging Face's CIFAR put images, below the folder that people give."""


def open_layout(place: str, split: str = "", devkit: str = "") -> ImageSource:
    """Return the images of a folder, or of one Parquet file or tar, in the layout that is found there.

    A split is looked for among the folders in it, then in the names of Parquet files and tars; where nothing is called
    by a split, all images are taken. Without one it is validation, or else test, where there are several. ValueError if
    there are no images with classes, or several splits and not the one that is asked for.
    """
    path = os.path.abspath(os.path.expanduser(place))
    inside = _folder_of_split(path, split)
    if inside:
        return open_layout(inside, "", devkit)
    layout = _layout_of(path)
    if not layout and (inner := _inner_place(path)):
        return open_layout(inner, split, devkit)
    if layout not in READERS:
        raise ValueError(_why_none(path, split))
    return READERS[layout](path, split, devkit)


def flat_images(folder: str, devkit: str = "") -> ListedImages:
    """Return ImageNet's validation images as shipped, all in one folder; the devkit says which class each is of.

    Classes are all its wnids, sorted. Where none is given, it is looked for in the folder and beside it. ValueError if
    it is not found, is damaged, or does not know a file.
    """
    folder = os.path.abspath(os.path.expanduser(folder))
    names = image_names(folder)
    lines = [_line_of(folder, name) for name in names]
    if not lines:
        raise ValueError(f"'{folder}' has no images. Give the folder that has ILSVRC2012_val_00000001.JPEG.")
    devkit = _find_devkit(folder, devkit)
    wnids = _wnids_by_id(devkit)
    ids = _ids_of_lines(devkit, wnids)
    unknown = next((name for name, line in zip(names, lines, strict=True) if not 1 <= line <= len(ids)), None)
    if unknown:
        raise ValueError(
            f"'{unknown}' in '{folder}' is not among the {len(ids)} lines of '{os.path.join(devkit, GROUND_TRUTH)}'. "
            "Give the whole devkit, or take the image out."
        )
    classes = sorted(wnids.values())
    class_of_id = {class_id: classes.index(wnid) for class_id, wnid in wnids.items()}
    numbers = np.array([class_of_id[ids[line - 1]] for line in lines], np.int32)
    return ListedImages(folder, tuple(classes), numbers, packed(names))


def _folder_of_split(path: str, split: str) -> str:
    """Return the folder with images, in any layout, that is called by a split; empty if there is none.

    Nor is there one where at least as many folders are called otherwise and have images: then all are classes.
    """
    folders = _folders_in(path)
    called = [folder for folder in folders if folder.name in {*SPLITS, split}]
    splits = [folder.path for folder in called if _layout_of(folder.path)]
    found = _first_of_split(splits, split)
    if found and sum(bool(image_names(folder.path)) for folder in folders if folder not in called) >= len(splits):
        return ""
    return found


def _inner_place(path: str) -> str:
    """Return the place of `INNER` that a folder has, empty if there is none; ValueError if there are several."""
    found = [os.path.join(path, name) for name in INNER if _is_place(path, name)]
    if len(found) > 1:
        names = " and ".join(os.path.relpath(place, path) for place in found)
        raise ValueError(f"'{path}' has several sets: {names}. Give the folder of one, as '{found[0]}'.")
    return found[0] if found else ""


def _is_place(path: str, name: str) -> bool:
    """Return whether a folder below a place has images in any layout, or folders of splits that have."""
    inner = os.path.join(path, name)
    return os.path.isdir(inner) and bool(_places_in(inner))


def _folders_in(path: str) -> list[os.DirEntry[str]]:
    return [entry for entry in entries_of(path) if is_folder(entry)] if os.path.isdir(path) else []


def _first_of_split(paths: list[str], split: str) -> str:
    """Return the first that is called by a split, or without one by the best to evaluate on; empty if none is."""
    names = [SPLITS.get(os.path.basename(path), os.path.basename(path)) for path in paths]
    wanted = [SPLITS.get(split, split)] if split else PREFERRED_SPLITS
    return next((paths[names.index(name)] for name in wanted if name in names), "")


def _why_none(path: str, split: str) -> str:
    """Return why a place has no layout, with the folders in it, or in these, that have one."""
    if not os.path.exists(path):
        return f"'{path}' is not there. Give {LAYOUTS}."
    inside = [place for folder in _folders_in(path) for place in _places_in(folder.path)]
    if not inside and _has_images_inside(path):
        return (
            f"'{path}' has its images in one folder, images, and no {TINY_LIST} that tells their classes: "
            f"Tiny-ImageNet's test has none. Give {LAYOUTS}."
        )
    if not inside:
        return f"'{path}' has no images whose classes are known. Give {LAYOUTS}."
    names = ", ".join(os.path.relpath(place, path) for place in inside[:5])
    return (
        f"'{path}' has no images whose classes are known, and no folder {split or 'validation or test'} of such. Other "
        f"folders in it have some: {names}{', ...' if len(inside) > 5 else '.'} Give the one that you mean, as "
        f"'{_first_of_split(inside, split) or inside[0]}'."
    )


def _places_in(folder: str) -> list[str]:
    """Return a folder if it has a layout, else those of its folders that have one."""
    return [folder] if _layout_of(folder) else [inner.path for inner in _folders_in(folder) if _layout_of(inner.path)]


def _layout_of(path: str) -> str:
    """Return the name of a place's layout, empty if there is none."""
    if os.path.isfile(path):
        return {".parquet": "parquet", ".tar": "tar"}.get(os.path.splitext(path)[1], "")
    if not os.path.isdir(path):
        return ""
    is_flat = is_listed_flat(path) or any(VALIDATION_NAME.match(name) for name in image_names(path))
    has_classes = any(_is_class(folder) for folder in _folders_in(path))
    if is_flat and has_classes:
        raise ValueError(
            f"'{path}' has images both in folders of classes and beside them. Move one of these elsewhere."
        )
    found = {
        "arrays": has_arrays(path),
        "classes": has_classes,
        "parquet": bool(folder_with(path, ".parquet")),
        "flat": is_flat,  # a tar beside them is what they came in
        "tar": bool(folder_with(path, ".tar")),
    }
    return next((name for name, is_there in found.items() if is_there), "")


def _is_class(folder: os.DirEntry[str]) -> bool:
    """Return whether it is a class's folder: what is called by a split, or `images`, has images of many classes."""
    if folder.name in {*SPLITS, "images"}:
        return False
    return bool(image_names(folder.path)) or _has_images_inside(folder.path)


def _has_images_inside(folder: str) -> bool:
    """Return whether a folder has images in a folder `images`, as those of Tiny-ImageNet have."""
    return any(inner.name == "images" and image_names(inner.path) for inner in _folders_in(folder))


def _line_of(folder: str, name: str) -> int:
    """Return the line that a file's name has, counted from 1."""
    match = VALIDATION_NAME.match(name)
    if match is None:
        raise ValueError(
            f"'{name}' in '{folder}' is not called like ILSVRC2012_val_00000001.JPEG, so that nothing says its class. "
            f"Take it out, or give {LAYOUTS}."
        )
    return int(match[1])


def _find_devkit(folder: str, devkit: str) -> str:
    """Return the devkit's folder."""
    beside = [os.path.join(folder, DEVKIT), os.path.join(os.path.dirname(folder), DEVKIT)]
    for place in [os.path.abspath(os.path.expanduser(devkit))] if devkit else beside:
        if os.path.isfile(os.path.join(place, GROUND_TRUTH)):
            return place
    raise ValueError(
        f"The classes of the images in '{folder}' are in ImageNet's devkit, but '{devkit or beside[0]}' has no "
        f"{GROUND_TRUTH}. Unpack {DEVKIT}.tar.gz beside the images, or give the devkit's folder."
    )


def _wnids_by_id(devkit: str) -> dict[int, str]:
    """Return the wnids of the classes that images are of: of all synsets those that have no others below them."""
    from scipy.io import loadmat

    path = os.path.join(devkit, META)
    try:
        synsets = np.atleast_1d(loadmat(path, squeeze_me=True)["synsets"])
        leaves = synsets[synsets["num_children"] == 0]
        return {int(leaf["ILSVRC2012_ID"]): str(leaf["WNID"]) for leaf in leaves}
    except Exception as error:  # scipy's reader ends with errors of any kind
        raise ValueError(f"'{path}' cannot be read: {error}. Unpack {DEVKIT}.tar.gz again.") from error


def _ids_of_lines(devkit: str, wnids: dict[int, str]) -> list[int]:
    """Return the ILSVRC2012_ID of each line of the ground truth."""
    path = os.path.join(devkit, GROUND_TRUTH)
    lines = Path(path).read_text(errors="replace").rstrip().split("\n")
    for number, line in enumerate(lines, start=1):
        if not (line.strip().isdecimal() and int(line) in wnids):
            raise ValueError(
                f"Line {number} of '{path}' is {line[:40]!r}, which is no ILSVRC2012_ID of the {len(wnids)} classes in "
                f"{META}. Unpack {DEVKIT}.tar.gz again."
            )
    return [int(line) for line in lines]


def _flat(path: str, _split: str, devkit: str) -> ListedImages:
    return (None if devkit else listed_flat(path)) or flat_images(path, devkit)


READERS: dict[str, Callable[[str, str, str], ImageSource]] = {
    "classes": lambda path, _split, _devkit: list_images(path),
    "arrays": lambda path, split, _devkit: array_images(path, split),
    "parquet": lambda path, split, _devkit: parquet_images(path, split),
    "tar": lambda path, split, _devkit: tar_images(path, split),
    "flat": _flat,
}
"""What lists a place by its layout, from place, split and devkit."""
