"""Images in one folder, with their classes in their names or in a list next to them.

Tiny-ImageNet's validation images, ImageNet's as shipped with its devkit or by Kaggle (`LOC_val_solution.csv`), and
any with wnids in their names, as in Hugging Face's archives.
"""

import os
import re
from pathlib import Path

import numpy as np

from evaluation.images.folders import image_names
from evaluation.images.image_list import ImageList, build_list

WNID = re.compile(r"(?:^|_)(n\d{8})(?=[_.])")
"""A wnid in an image's name: `n01440764_10026.JPEG`, `ILSVRC2012_val_00000001_n01751748.JPEG`."""

TINY_LIST = "val_annotations.txt"
"""Tiny-ImageNet's list: lines of name, wnid and a box, separated by tabs."""

KAGGLE_LIST = "LOC_val_solution.csv"
"""Kaggle's list: lines of a name without extension, a comma, and boxes that each begin with a wnid."""

MAX_FOLDERS_UP = 5
"""Number of parent folders searched for Kaggle's list, which lies next to the top of ILSVRC/Data/CLS-LOC/val."""


DEVKIT = "ILSVRC2012_devkit_t12"
GROUND_TRUTH = os.path.join("data", "ILSVRC2012_validation_ground_truth.txt")
META = os.path.join("data", "meta.mat")

VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d+)[._]")
"""Names of ImageNet's validation images; the number is the image's line in the ground truth, counted from 1."""

LAYOUTS = (
    "a folder with one folder of images per class; *.parquet with columns image and label; WebDataset's *.tar; "
    f"ILSVRC2012_val_*.JPEG with {DEVKIT} or {KAGGLE_LIST} next to them, or with wnids in their names; MNIST's idx "
    "files; or CIFAR's binary version"
)
"""The supported layouts, for error messages; see `evaluation.images.layouts`."""


def is_flat(folder: str) -> bool:
    """Return whether a folder has Tiny-ImageNet's list, or images with wnids or validation numbers in their names."""
    names = image_names(folder)
    return bool(_tiny_images(folder)) or any(WNID.search(name) or VALIDATION_NAME.match(name) for name in names)


def flat_images(folder: str, devkit: str = "") -> ImageList:
    """Return a folder's images, with classes from their names or a list, or else from ImageNet's devkit.

    An explicit `devkit` takes precedence; otherwise it is searched for in the folder and next to it. With the devkit,
    classes are all its wnids, sorted. ValueError if it is missing or damaged, or if it or a list lacks an image.
    """
    folder = os.path.abspath(os.path.expanduser(folder))
    if not devkit and (found := _listed_flat(folder)):
        return found
    names = image_names(folder)
    lines = [_line_of(folder, name) for name in names]
    if not lines:
        raise ValueError(f"'{folder}' has no images. Use the folder that contains ILSVRC2012_val_00000001.JPEG.")
    devkit = _find_devkit(folder, devkit)
    wnids = _wnids_by_id(devkit)
    ids = _ids_of_lines(devkit, wnids)
    unknown = next((name for name, line in zip(names, lines, strict=True) if not 1 <= line <= len(ids)), None)
    if unknown:
        raise ValueError(
            f"'{unknown}' in '{folder}' is not among the {len(ids)} lines of '{os.path.join(devkit, GROUND_TRUTH)}'. "
            "Use the complete devkit, or remove the image."
        )
    return build_list(folder, names, [wnids[ids[line - 1]] for line in lines], sorted(wnids.values()))


def _listed_flat(folder: str) -> ImageList | None:
    """Return a folder's images with classes from their names or a list; None if there are neither."""
    names = image_names(folder)
    wnids = [WNID.findall(name) for name in names]
    above = [folder, *map(str, Path(folder).parents)][: MAX_FOLDERS_UP + 1]
    if images := _tiny_images(folder):
        names, path = images, _tiny_list(folder)
        class_of = _tiny_classes(path)
    elif names and all(wnids):
        class_of, path = {name: found[-1] for name, found in zip(names, wnids, strict=True)}, ""
    elif names and (path := _file_in(above, KAGGLE_LIST)):
        class_of = _kaggle_classes(path, names)
    else:
        return None
    if unknown := [name for name in names if name not in class_of]:
        raise ValueError(
            f"{len(unknown)} of {len(names)} images in '{folder}' are not in '{path}', first '{unknown[0]}'. Download "
            "the list again, or remove these images."
        )
    return build_list(folder, names, [class_of[name] for name in names])


def _file_in(folders: list[str], name: str) -> str:
    """Return the path of a file in the first folder that has it; empty if none has."""
    return next((path for folder in folders if os.path.isfile(path := os.path.join(folder, name))), "")


def _tiny_list(folder: str) -> str:
    """Return the path of Tiny-ImageNet's list, which lies next to the folder `images`; empty if there is none."""
    folders = [folder, os.path.dirname(folder)] if os.path.basename(folder) == "images" else [folder]
    return _file_in(folders, TINY_LIST)


def _tiny_images(folder: str) -> list[str]:
    if not _tiny_list(folder):
        return []
    inside = os.path.join(folder, "images")
    return [f"images/{name}" for name in image_names(inside)] if os.path.isdir(inside) else image_names(folder)


def _tiny_classes(path: str) -> dict[str, str]:
    lines = Path(path).read_text(errors="replace").splitlines()
    columns = [line.split("\t") for line in lines if line.strip()]
    return {name: row[1] for row in columns if len(row) > 1 for name in (row[0], f"images/{row[0]}")}


def _kaggle_classes(path: str, names: list[str]) -> dict[str, str]:
    """Return the wnid of each name in Kaggle's list: that of its first box, since an image's boxes share one class."""
    lines = Path(path).read_text(errors="replace").splitlines()[1:]
    wnids = dict(line.split(" ")[0].split(",") for line in lines if re.match(r"[^,]+,n\d{8} ", line))
    return {name: wnids[stem] for name in names if (stem := name.split(".")[0]) in wnids}


def _line_of(folder: str, name: str) -> int:
    """Return the image's line in the ground truth, counted from 1: the number in its name."""
    match = VALIDATION_NAME.match(name)
    if match is None:
        raise ValueError(
            f"'{name}' in '{folder}' is not named like ILSVRC2012_val_00000001.JPEG, so its class is unknown. "
            f"Remove it, or use {LAYOUTS}."
        )
    return int(match[1])


def _find_devkit(folder: str, devkit: str) -> str:
    """Return the devkit's folder."""
    beside = [os.path.join(folder, DEVKIT), os.path.join(os.path.dirname(folder), DEVKIT)]
    for candidate in [os.path.abspath(os.path.expanduser(devkit))] if devkit else beside:
        if os.path.isfile(os.path.join(candidate, GROUND_TRUTH)):
            return candidate
    raise ValueError(
        f"The classes of the images in '{folder}' are in ImageNet's devkit, but '{devkit or beside[0]}' has no "
        f"{GROUND_TRUTH}. Unpack {DEVKIT}.tar.gz next to the images, or set evaluation.paths.imagenet_devkit."
    )


def _wnids_by_id(devkit: str) -> dict[int, str]:
    """Return the wnids of the image classes by ID: the synsets without children."""
    from scipy.io import loadmat

    path = os.path.join(devkit, META)
    try:
        synsets = np.atleast_1d(loadmat(path, squeeze_me=True)["synsets"])
        leaves = synsets[synsets["num_children"] == 0]
        return {int(leaf["ILSVRC2012_ID"]): str(leaf["WNID"]) for leaf in leaves}
    except Exception as error:  # scipy's reader raises errors of any kind
        raise ValueError(f"'{path}' cannot be read: {error}. Unpack {DEVKIT}.tar.gz again.") from error


def _ids_of_lines(devkit: str, wnids: dict[int, str]) -> list[int]:
    """Return the ILSVRC2012_ID of each line of the ground truth."""
    path = os.path.join(devkit, GROUND_TRUTH)
    lines = Path(path).read_text(errors="replace").rstrip().split("\n")
    for number, line in enumerate(lines, start=1):
        if not (line.strip().isdecimal() and int(line) in wnids):
            raise ValueError(
                f"Line {number} of '{path}' is {line[:40]!r}, which is not an ILSVRC2012_ID of the {len(wnids)} "
                f"classes in {META}. Unpack {DEVKIT}.tar.gz again."
            )
    return [int(line) for line in lines]
