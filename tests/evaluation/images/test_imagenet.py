"""Classes of ImageNet's test sets, and all labels that are right for a validation image."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm

from evaluation.images.class_names import matching_labels
from evaluation.images.imagenet import IMAGENET_SETS, SOME_CLASSES, classes_of_set, our_labels, real_labels
from generation.recipes.labels import load_label_space

REAL = Path(timm.__file__).parent / "data" / "_info" / "imagenet_real_labels.json"


def name_of(number: int) -> str:
    return f"/val/n01440764/ILSVRC2012_val_{number:08}_n01440764.JPEG"


@pytest.mark.parametrize(("name", "num_shared"), [("imagenet_r", 19), ("imagenet_a", 15)])
def test_sets_of_200_classes_share_with_imagenet100_as_many_as_the_paper_says(name: str, num_shared: int):
    classes = classes_of_set(name).classes
    wnids = [entry.wnid for entry in classes]
    assert len(wnids) == 200
    assert wnids == sorted(wnids)
    assert set(classes) < set(load_label_space("imagenet1k").classes)
    assert len(set(classes) & set(load_label_space("imagenet100").classes)) == num_shared


def test_the_first_classes_of_both_are_goldfish_and_stingray():
    assert [classes_of_set(name).class_names[0] for name in SOME_CLASSES] == ["goldfish", "stingray"]


def test_all_other_sets_have_the_thousand():
    others = [name for name in IMAGENET_SETS if name not in SOME_CLASSES]
    assert len(others) == 6
    assert all(classes_of_set(name) is load_label_space("imagenet1k") for name in others)


def test_real_labels_go_by_the_number_in_a_name_however_the_images_are_sorted():
    assert real_labels([name_of(3), name_of(2), name_of(1)]) == [[230, 231], [970, 795], []]
    for name in ("ILSVRC2012_val_00000002.JPEG", "/x/val.parquet/ILSVRC2012_val_00000002_n04228054.JPEG"):
        assert real_labels([name]) == [[970, 795]]
    whole = json.loads(REAL.read_text())
    assert real_labels([name_of(number) for number in range(1, 50_001)]) == whole


@pytest.mark.parametrize("name", ["/val/tench/cat.JPEG", name_of(0), name_of(50_001), "ILSVRC2012_val_123.JPEG"])
def test_a_name_without_an_images_number_is_told_in_one_line(name: str):
    told = rf"^'{name}' is not named like .* ILSVRC2012_val_00000001 to _00050000, and ReaL labels[^\n]*\.$"
    with pytest.raises(ValueError, match=told):
        real_labels([name_of(1), name])


def test_labels_that_we_lack_are_dropped():
    ours = np.array([-1, 0, -1, 1])
    found = our_labels([[3, 1], [2], [], [0, 3]], ours)
    assert [labels.tolist() for labels in found] == [[1, 0], [], [], [1]]
    assert {labels.dtype.name for labels in found} == {"int64"}


def test_of_an_image_that_is_several_classes_imagenet100_keeps_its_own():
    # The 26th image is right as 619, 526 or 846, of which 619 alone, a lampshade, is one of the hundred.
    thousand, hundred = load_label_space("imagenet1k"), load_label_space("imagenet100")
    labels = real_labels([name_of(26)])
    assert labels == [[619, 526, 846]]
    (ours,) = our_labels(labels, matching_labels(thousand, hundred))
    assert [hundred.class_names[label] for label in ours] == [thousand.class_names[619]] == ["lampshade"]
