"""Images all in one folder whose classes their names tell, or a list beside them.

Tiny-ImageNet's validation images, ImageNet's as Kaggle has them (`LOC_val_solution.csv`), and any whose names have
their wnid, as Hugging Face's archives have. ImageNet's own devkit: `evaluation.images.layouts`.
"""

import os
import re
from pathlib import Path

from evaluation.images.listed_images import ListedImages, numbered, packed
from evaluation.images.sources import image_names

WNID = re.compile(r"(?:^|_)(n\d{8})(?=[_.])")
"""A wnid in an image's name: `n01440764_10026.JPEG`, `ILSVRC2012_val_00000001_n01751748.JPEG`."""

TINY_LIST = "val_annotations.txt"
"""Tiny-ImageNet's: lines of name, wnid and a box, with tabs between."""

KAGGLE_LIST = "LOC_val_solution.csv"
"""Kaggle's: lines of a name without its ending, a comma, and boxes that each begin with a wnid."""

MAX_FOLDERS_UP = 5
"""How far above the images Kaggle's list may lie: it is beside ILSVRC/Data/CLS-LOC/val."""


def listed_flat(folder: str) -> ListedImages | None:
    """Return a folder's images with the class of each, if their names or a list tell it; None if neither does.

    ValueError where a list lacks one of them.
    """
    if images := _images_of_tiny(folder):
        return _listed(folder, images, _tiny_classes(_tiny_list(folder)), _tiny_list(folder))
    names = image_names(folder)
    wnids = [WNID.findall(name) for name in names]
    if names and all(wnids):
        return _listed(folder, names, {name: found[-1] for name, found in zip(names, wnids, strict=True)}, "")
    above = [folder, *map(str, Path(folder).parents)][: MAX_FOLDERS_UP + 1]
    place = next((path for up in above if os.path.isfile(path := os.path.join(up, KAGGLE_LIST))), "")
    return _listed(folder, names, _kaggles_classes(place, names), place) if names and place else None


def is_listed_flat(folder: str) -> bool:
    """Return whether there are images whose classes names tell, or Tiny-ImageNet's list."""
    return bool(_images_of_tiny(folder)) or any(WNID.search(name) for name in image_names(folder))


def _tiny_list(folder: str) -> str:
    """Return the path of Tiny-ImageNet's list, which lies beside the folder `images`; empty if there is none."""
    places = [folder, os.path.dirname(folder)] if os.path.basename(folder) == "images" else [folder]
    return next((path for place in places if os.path.isfile(path := os.path.join(place, TINY_LIST))), "")


def _images_of_tiny(folder: str) -> list[str]:
    if not _tiny_list(folder):
        return []
    inside = os.path.join(folder, "images")
    return [f"images/{name}" for name in image_names(inside)] if os.path.isdir(inside) else image_names(folder)


def _tiny_classes(place: str) -> dict[str, str]:
    lines = Path(place).read_text(errors="replace").splitlines()
    columns = [line.split("\t") for line in lines if line.strip()]
    return {name: row[1] for row in columns if len(row) > 1 for name in (row[0], f"images/{row[0]}")}


def _kaggles_classes(place: str, names: list[str]) -> dict[str, str]:
    """Return the class of each name that the list has; boxes of one image are all of its class."""
    lines = Path(place).read_text(errors="replace").splitlines()[1:]
    wnids = dict(line.split(" ")[0].split(",") for line in lines if re.match(r"[^,]+,n\d{8} ", line))
    return {name: wnids[stem] for name in names if (stem := name.split(".")[0]) in wnids}


def _listed(folder: str, names: list[str], class_of: dict[str, str], place: str) -> ListedImages:
    if unknown := [name for name in names if name not in class_of]:
        raise ValueError(
            f"{len(unknown)} of {len(names)} images in '{folder}' are not in '{place}', first '{unknown[0]}'. Fetch "
            "the list again, or take them out."
        )
    classes, numbers = numbered([class_of[name] for name in names])
    return ListedImages(folder, classes, numbers, packed(names))
