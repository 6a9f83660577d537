"""Transfer sets as lists of images: the eight small sets and seven large sets of arXiv 2212.08420.

Opens no image and downloads nothing. For sets that torchvision supports, `path` is torchvision's `root`, so that the
files that torchvision downloads are found.
"""

import difflib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from evaluation.images.folders import class_folders, image_names
from evaluation.images.image_list import ImageList, build_list, errors_as
from evaluation.images.real_sets import RealSet, whole_set

if TYPE_CHECKING:
    from evaluation.metrics.transfer import Solver

SPLIT_SEED = 0
"""Seed of the split of sets without a published one."""

TEST_FRACTION = 0.2
"""Fraction of each class in the test split of sets without a published one."""

EUROSAT_TEST_IMAGES = 810
"""Test images per class: 8,100 of 27,000, as in t-ReX (arXiv 2206.15369), which cites Feng et al. (ICLR 2022)."""


@dataclass(frozen=True)
class TransferSet:
    """A set of other classes to classify by a network's features; both splits use the same class numbers."""

    name: str
    trainval: RealSet
    test: RealSet
    solver: "Solver"
    """Solver for this number of images, see `evaluation.metrics.transfer`."""

    split: Literal["published", "drawn"]
    """Origin of the test split: the set's authors, or drawn here with `SPLIT_SEED`."""


Item = tuple[str, str]
"""A file's path relative to the set's folder, and its class."""


@dataclass(frozen=True)
class Listing:
    """Classes and splits from a set's own files."""

    classes: Sequence[str]
    trainval: list[Item]
    test: list[Item]
    split: Literal["published", "drawn"] = "published"


@dataclass(frozen=True)
class Layout:
    """Layout of a set in its folder."""

    read: Callable[[str, str], Listing]
    """Function from the set's name and folder to its listing."""

    needs: str
    """Required paths below the folder, separated by spaces."""

    solver: "Solver" = "lbfgs"


def open_transfer_set(name: str, path: str) -> TransferSet:
    """Return a set's images, not opened; ValueError with the nearest names, or with what is missing in the folder.

    Splits are as published: for dtd and flowers, train and val together are for training; dtd uses its first partition,
    and so does sun397 if Training_01.txt and Testing_01.txt are in the path or in SUN397. inat2018 and inat2019 are
    tested on val, because their test images have no labels. eurosat has no published split: 810 images of each class,
    drawn with a fixed seed, are for testing, and so is a fifth of each class of sun397 without its partition.
    """
    if name not in LAYOUTS:
        near = difflib.get_close_matches(name, LAYOUTS, n=3) or list(LAYOUTS)
        raise ValueError(f"There is no transfer set '{name}'. Did you mean {' or '.join(near)}?")
    layout, folder = LAYOUTS[name], os.path.abspath(os.path.expanduser(path))
    needs = {need: Path(folder, need) for need in layout.needs.split()}
    if missing := [need for need, path in needs.items() if not (path.is_file() or path.is_dir())]:
        raise ValueError(
            f"'{folder}' is not a folder of {name}: {missing[0]} is missing. Use the folder that contains "
            f"{', '.join(needs)}."
        )
    with errors_as(ValueError, folder, name, Exception):  # readers of damaged files raise errors of any kind
        listing = layout.read(name, folder)
    trainval, test = (
        whole_set(f"{name}/{part}", path, _source(name, folder, listing.classes, items))
        for part, items in (("trainval", listing.trainval), ("test", listing.test))
    )
    return TransferSet(name, trainval, test, layout.solver, listing.split)


def _source(name: str, folder: str, classes: Sequence[str], items: list[Item]) -> ImageList:
    """Return the images of one split; ValueError if there are none, or if some are of an unknown class."""
    if not items:
        raise ValueError(f"{name} in '{folder}' has no training images, or no test images. Add the missing files.")
    names, labels = zip(*items, strict=True)
    if unknown := sorted(set(labels) - set(classes)):
        raise ValueError(
            f"{name} in '{folder}' has test images of {len(unknown)} classes without training images, first "
            f"'{unknown[0]}'. Add the missing files."
        )
    return build_list(folder, names, labels, classes)


def _by_torchvision(name: str, folder: str) -> Listing:
    """Read a set with torchvision, with a loader that returns the image's path."""
    from torchvision import datasets

    make, parts_of_trainval = {
        "aircraft": (datasets.FGVCAircraft, ["trainval"]),
        "cars": (datasets.StanfordCars, ["train"]),
        "dtd": (datasets.DTD, ["train", "val"]),
        "flowers": (datasets.Flowers102, ["train", "val"]),
        "food101": (datasets.Food101, ["train"]),
    }[name]
    parts = {part: make(folder, split=part, loader=str) for part in [*parts_of_trainval, "test"]}

    def items(part: str) -> list[Item]:
        pairs = (parts[part][position] for position in range(len(parts[part])))
        return [(os.path.relpath(file, folder), parts[part].classes[number]) for file, number in pairs]

    trainval = [item for part in parts_of_trainval for item in items(part)]
    return Listing(parts[parts_of_trainval[0]].classes, trainval, items("test"))


def _pets(_name: str, folder: str) -> Listing:
    """Read the files of torchvision's OxfordIIITPet, which accepts no loader; file names are breed and number."""

    def items(split: str) -> list[Item]:
        lines = Path(folder, "oxford-iiit-pet/annotations", f"{split}.txt").read_text().splitlines()
        files = [line.split()[0] for line in lines if line.strip()]
        return [(f"oxford-iiit-pet/images/{file}.jpg", file.rpartition("_")[0]) for file in files]

    trainval = items("trainval")
    return Listing(sorted({breed for _, breed in trainval}, key=str.lower), trainval, items("test"))


def _eurosat(_name: str, folder: str) -> Listing:
    items = _in_class_folders(folder, "eurosat/2750")
    labels = np.array([class_name for _, class_name in items])
    held_out = np.zeros(len(items), np.bool_)
    random = np.random.default_rng(SPLIT_SEED)
    for class_name in np.unique(labels):
        rows = np.flatnonzero(labels == class_name)
        if len(rows) <= EUROSAT_TEST_IMAGES:
            raise ValueError(f"{class_name} has {len(rows)} images, too few for {EUROSAT_TEST_IMAGES} test images")
        held_out[random.permutation(rows)[:EUROSAT_TEST_IMAGES]] = True
    return _split(items, held_out)


def _sun397(_name: str, folder: str) -> Listing:
    """Read the first partition if there is one, with lines such as /a/abbey/sun_aaa.jpg, and classes such as /a/abbey.

    Without it, a fraction of each class is for testing; the split depends only on the names.
    """

    def lines(file: Path) -> list[str]:
        return [line.strip("/") for line in file.read_text().split()]

    def item(line: str) -> Item:
        return f"SUN397/{line}", line.rpartition("/")[0][len("a/") :]

    listed = lines(Path(folder, "SUN397/ClassName.txt"))
    for parent in (Path(folder), Path(folder, "SUN397")):
        training, testing = parent / "Training_01.txt", parent / "Testing_01.txt"
        if training.is_file() and testing.is_file():
            classes = [class_folder[len("a/") :] for class_folder in listed]
            return Listing(classes, [item(line) for line in lines(training)], [item(line) for line in lines(testing)])
    from evaluation.metrics.transfer import held_out_rows  # workers that open images do not need it

    folders = {class_folder: image_names(os.path.join(folder, "SUN397", class_folder)) for class_folder in listed}
    items = [item(f"{class_folder}/{name}") for class_folder, names in folders.items() for name in names]
    labels = np.array([class_name for _, class_name in items])
    return _split(items, held_out_rows(labels, TEST_FRACTION, SPLIT_SEED))


def _inat(name: str, folder: str) -> Listing:
    """Read iNaturalist's own annotations; classes are named by their numbers there."""
    year = name.removeprefix("inat")
    trainval, test = (_annotated(Path(folder, f"{split}{year}.json")) for split in ("train", "val"))
    return Listing(sorted({number for _, number in trainval}, key=int), trainval, test)


def _annotated(file: Path) -> list[Item]:
    """Return the images of an annotation file in COCO's format; ValueError with the file's name."""
    try:
        content = json.loads(file.read_bytes())
        file_of = {image["id"]: os.fsdecode(image["file_name"]) for image in content["images"]}
        return [(file_of[entry["image_id"]], str(int(entry["category_id"]))) for entry in content["annotations"]]
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{file.name}: {error!r}") from error


def _cog(_name: str, folder: str) -> Listing:
    """Read one level of ImageNet-CoG (arXiv 2012.05649) from folders named by wnid."""
    trainval = _in_class_folders(folder, "train")
    return Listing(sorted({wnid for _, wnid in trainval}), trainval, _in_class_folders(folder, "test"))


def _in_class_folders(folder: str, below: str) -> list[Item]:
    """Return the images of the folders in `below`, sorted by folder, then by name."""
    folders = class_folders(os.path.join(folder, below))
    return [(f"{below}/{entry.name}/{name}", entry.name) for entry in folders for name in image_names(entry.path)]


def _split(items: list[Item], held_out: np.ndarray) -> Listing:
    """Return a listing in which the items of `held_out`, bool [N], are for testing."""
    trainval, test = (
        [item for item, is_held_out in zip(items, held_out, strict=True) if is_held_out == wanted]
        for wanted in (False, True)
    )
    return Listing(list(dict.fromkeys(class_name for _, class_name in items)), trainval, test, "drawn")


LAYOUTS: dict[str, Layout] = {
    "aircraft": Layout(
        _by_torchvision,
        "fgvc-aircraft-2013b/data/variants.txt fgvc-aircraft-2013b/data/images_variant_trainval.txt "
        "fgvc-aircraft-2013b/data/images_variant_test.txt fgvc-aircraft-2013b/data/images",
    ),
    "cars": Layout(
        _by_torchvision,
        "stanford_cars/devkit/cars_meta.mat stanford_cars/devkit/cars_train_annos.mat "
        "stanford_cars/cars_test_annos_withlabels.mat stanford_cars/cars_train stanford_cars/cars_test",
    ),
    "dtd": Layout(
        _by_torchvision,
        "dtd/dtd/labels/train1.txt dtd/dtd/labels/val1.txt dtd/dtd/labels/test1.txt dtd/dtd/images",
    ),
    "eurosat": Layout(_eurosat, "eurosat/2750"),
    "flowers": Layout(_by_torchvision, "flowers-102/imagelabels.mat flowers-102/setid.mat flowers-102/jpg"),
    "pets": Layout(
        _pets,
        "oxford-iiit-pet/annotations/trainval.txt oxford-iiit-pet/annotations/test.txt oxford-iiit-pet/images",
    ),
    "food101": Layout(_by_torchvision, "food-101/meta/train.json food-101/meta/test.json food-101/images"),
    "sun397": Layout(_sun397, "SUN397/ClassName.txt"),
    "inat2018": Layout(_inat, "train2018.json val2018.json", "sgd"),
    "inat2019": Layout(_inat, "train2019.json val2019.json", "sgd"),
    **{f"cog_l{level}": Layout(_cog, "train test", "sgd") for level in range(1, 6)},
}
"""Layouts by set name."""
