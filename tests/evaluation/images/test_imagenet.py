"""Classes of ImageNet's test sets, and the ReaL labels of validation images."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm

from evaluation.images.class_names import matching_labels
from evaluation.images.imagenet import IMAGENET_SETS, SOME_CLASSES, classes_of_set, map_labels, reassessed_labels
from generation.recipes.labels import load_label_space

REAL = Path(timm.__file__).parent / "data" / "_info" / "imagenet_real_labels.json"


def name_of(number: int) -> str:
    return f"/val/n01440764/ILSVRC2012_val_{number:08}_n01440764.JPEG"


@pytest.mark.parametrize(("name", "num_shared"), [("imagenet_r", 19), ("imagenet_a", 15)])
def test_number_of_classes_shared_with_imagenet100(name: str, num_shared: int):
    classes = classes_of_set(name).classes
    wnids = [entry.wnid for entry in classes]
    assert len(wnids) == 200
    assert wnids == sorted(wnids)
    assert set(classes) < set(load_label_space("imagenet1k").classes)
    assert len(set(classes) & set(load_label_space("imagenet100").classes)) == num_shared


def test_first_classes_are_goldfish_and_stingray():
    assert [classes_of_set(name).class_names[0] for name in SOME_CLASSES] == ["goldfish", "stingray"]


def test_all_other_sets_have_all_classes():
    others = [name for name in IMAGENET_SETS if name not in SOME_CLASSES]
    assert len(others) == 6
    assert all(classes_of_set(name) is load_label_space("imagenet1k") for name in others)


def test_real_labels_are_by_the_number_in_the_name():
    assert reassessed_labels([name_of(3), name_of(2), name_of(1)]) == [[230, 231], [970, 795], []]
    for name in ("ILSVRC2012_val_00000002.JPEG", "/x/val.parquet/ILSVRC2012_val_00000002_n04228054.JPEG"):
        assert reassessed_labels([name]) == [[970, 795]]
    whole = json.loads(REAL.read_text())
    assert reassessed_labels([name_of(number) for number in range(1, 50_001)]) == whole


@pytest.mark.parametrize("name", ["/val/tench/cat.JPEG", name_of(0), name_of(50_001), "ILSVRC2012_val_123.JPEG"])
def test_name_without_a_number_is_refused(name: str):
    message = rf"^'{name}' is not named like .* ILSVRC2012_val_00000001 to _00050000, and ReaL labels[^\n]*\.$"
    with pytest.raises(ValueError, match=message):
        reassessed_labels([name_of(1), name])


def test_unknown_labels_are_dropped():
    ours = np.array([-1, 0, -1, 1])
    found = map_labels([[3, 1], [2], [], [0, 3]], ours)
    assert [labels.tolist() for labels in found] == [[1, 0], [], [], [1]]
    assert {labels.dtype.name for labels in found} == {"int64"}


def test_only_labels_of_imagenet100_are_kept():
    # For the 26th image 619, 526 and 846 are correct, and only 619, a lampshade, is in ImageNet-100.
    thousand, hundred = load_label_space("imagenet1k"), load_label_space("imagenet100")
    labels = reassessed_labels([name_of(26)])
    assert labels == [[619, 526, 846]]
    (ours,) = map_labels(labels, matching_labels(thousand, hundred))
    assert [hundred.class_names[label] for label in ours] == [thousand.class_names[619]] == ["lampshade"]
