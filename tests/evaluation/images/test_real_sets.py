"""Real sets for a classifier: images, labels, shared labels and errors.

Files are empty: a set is listed, and none of its images opened.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from evaluation.config import EvaluationConfig
from evaluation.images.digits import digit_images
from evaluation.images.imagenet import classes_of_set
from evaluation.images.layouts import open_layout
from evaluation.images.real_sets import RealSet, open_set, whole_set
from generation.digits.real_digits import evaluation_digits, training_digits
from generation.recipes.labels import ClassEntry, LabelSpace, load_label_space

THOUSAND, HUNDRED, DIGITS = (load_label_space(name) for name in ("imagenet1k", "imagenet100", "digits"))
TO_FOUR = LabelSpace("to four", DIGITS.classes[:5])
BIRDS = LabelSpace("birds", (ClassEntry("snowy owl", wnid="n01621127"), ClassEntry("puffin"), ClassEntry("auk")))


def touch(folder: Path, names: Iterable[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def opened(name: str, folder: Path, space: LabelSpace, allow_missing_classes: bool = False) -> RealSet:
    config = EvaluationConfig(paths={name: str(folder)}, allow_missing_classes=allow_missing_classes)
    return open_set(name, config, space)


def names_of(images: RealSet) -> list[str]:
    """Return the class folder and file of each selected image."""
    names = images.source.names()
    return ["/".join(Path(names[position]).parts[-2:]) for position in images.positions.tolist()]


@pytest.fixture(scope="module")
def val(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One image per class, numbered like the classes, with the 620th and the 26th swapped."""
    number_of = {label: label + 1 for label in range(1000)} | {619: 26, 25: 620}
    names = [f"{e.wnid}/ILSVRC2012_val_{number_of[label]:08}.JPEG" for label, e in enumerate(THOUSAND.classes)]
    return touch(tmp_path_factory.mktemp("val"), names)


@pytest.fixture(scope="module")
def v2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `0` to `999` with one image each, named by the number."""
    return touch(tmp_path_factory.mktemp("v2"), [f"{label}/{label}.jpeg" for label in range(1000)])


@pytest.fixture(scope="module", params=["imagenet_r", "imagenet_a"])
def some_classes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A set of 200 classes, two images each."""
    wnids = [entry.wnid for entry in classes_of_set(request.param).classes]
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, touch(folder, [f"{wnid}/{name}.jpg" for wnid in wnids for name in "ab"])


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """All of ImageNet-100 except robin and Gila monster, plus a tench, which is not in ImageNet-100."""
    wnids = [entry.wnid for entry in HUNDRED.classes if entry.class_name not in ("robin", "Gila monster")]
    return touch(tmp_path, [f"{wnid}/a.JPEG" for wnid in ["n01440764", *wnids]])


def test_validation_images_of_all_classes(val: Path):
    images = opened("imagenet_val", val, THOUSAND)
    assert (images.name, images.num_images, images.center_crop, images.accepted_labels) == (
        "imagenet_val",
        1000,
        True,
        None,
    )
    for column in (images.positions, images.labels, images.shared_labels):
        np.testing.assert_array_equal(column, np.arange(1000))
        assert column.dtype == np.int64


def test_imagenet100_classifier_sees_its_validation_images(val: Path):
    images = opened("imagenet_val", val, HUNDRED)
    assert [name[:9] for name in names_of(images)] == [entry.wnid for entry in HUNDRED.classes]
    np.testing.assert_array_equal(images.labels, np.arange(100))
    np.testing.assert_array_equal(images.shared_labels, np.arange(100))


def test_numbered_folders_are_classes_by_number_though_10_comes_before_2(v2: Path):
    images = opened("imagenet_v2_matched_frequency", v2, THOUSAND)
    assert images.source.classes[:4] == ("0", "1", "10", "100")
    assert names_of(images) == [f"{label}/{label}.jpeg" for label in images.labels.tolist()]
    np.testing.assert_array_equal(images.shared_labels, np.arange(1000))


def test_numbers_are_imagenet1k_labels_for_imagenet100_too(v2: Path):
    images = opened("imagenet_v2_matched_frequency", v2, HUNDRED)
    numbers = [int(name.split("/")[0]) for name in names_of(images)]
    assert [THOUSAND.classes[n] for n in numbers] == [HUNDRED.classes[label] for label in images.labels.tolist()]
    assert sorted(images.labels.tolist()) == images.shared_labels.tolist() == list(range(100))


def test_images_of_shared_classes_are_kept(some_classes: tuple[str, Path]):
    name, folder = some_classes
    images = opened(name, folder, HUNDRED)
    assert len(images.shared_labels) == {"imagenet_r": 19, "imagenet_a": 15}[name]
    shared = [HUNDRED.classes[label].wnid for label in images.shared_labels.tolist()]
    assert set(shared) < {entry.wnid for entry in classes_of_set(name).classes}
    assert names_of(images) == [f"{wnid}/{letter}.jpg" for wnid in shared for letter in "ab"]
    assert images.labels.tolist() == [label for label in images.shared_labels.tolist() for _ in "ab"]


def test_imagenet1k_classifier_knows_all_200_classes(some_classes: tuple[str, Path]):
    name, folder = some_classes
    images = opened(name, folder, THOUSAND)
    assert (images.num_images, len(images.shared_labels)) == (400, 200)
    assert [THOUSAND.classes[label] for label in images.shared_labels.tolist()] == list(classes_of_set(name).classes)


def test_real_labels_use_the_validation_images(val: Path):
    config = EvaluationConfig(sets=("imagenet_val", "imagenet_real"), paths={"imagenet_val": str(val)})
    plain, real = (open_set(name, config, THOUSAND) for name in config.sets)
    assert (plain.name, real.name, plain.accepted_labels) == ("imagenet_val", "imagenet_real", None)
    assert names_of(real) == names_of(plain)
    np.testing.assert_array_equal(real.labels, plain.labels)
    assert real.accepted_labels is not None
    assert len(real.accepted_labels) == 1000
    assert [labels.tolist() for labels in real.accepted_labels[:3]] == [[], [970, 795], [230, 231]]
    assert real.accepted_labels[619].tolist() == [619, 526, 846]  # the 26th image


def test_real_labels_may_have_their_own_path(val: Path, tmp_path: Path):
    config = EvaluationConfig(paths={"imagenet_val": str(tmp_path / "gone"), "imagenet_real": str(val)})
    assert open_set("imagenet_real", config, THOUSAND).num_images == 1000


def test_imagenet100_accepts_only_its_real_labels(val: Path):
    images = opened("imagenet_real", val, HUNDRED)
    assert images.accepted_labels is not None
    lampshade = HUNDRED.label_of("lampshade")  # 619 of the thousand
    assert names_of(images)[lampshade].endswith("ILSVRC2012_val_00000026.JPEG")
    assert images.labels[lampshade] == lampshade
    assert images.accepted_labels[lampshade].tolist() == [lampshade]
    assert {label for labels in images.accepted_labels for label in labels.tolist()} <= set(range(100))


def test_real_labels_without_the_images_numbers_are_refused(few: Path):
    with pytest.raises(ValueError, match=r"^'.*a\.JPEG' is not named like a validation image[^\n]*$"):
        opened("imagenet_real", few, HUNDRED, allow_missing_classes=True)


def test_folder_of_the_classifiers_own_classes(tmp_path: Path):
    touch(tmp_path, ["Puffin/a.png", "Puffin/b.png", "auk/a.png", "n01621127/c.png"])
    images = opened("mine", tmp_path, BIRDS)
    assert names_of(images) == ["Puffin/a.png", "Puffin/b.png", "auk/a.png", "n01621127/c.png"]
    assert images.labels.tolist() == [1, 1, 2, 0]
    assert images.shared_labels.tolist() == [0, 1, 2]
    assert images.center_crop


def test_own_classes_may_differ_only_in_case(tmp_path: Path):
    cars = LabelSpace("cars", (ClassEntry("Polo"), ClassEntry("polo")))
    assert opened("mine", touch(tmp_path, ["Polo/a.png", "polo/b.png"]), cars).labels.tolist() == [0, 1]


def test_digits_need_no_path():
    images = open_set("digits", EvaluationConfig(), DIGITS)
    digits, labels = evaluation_digits()
    assert (images.num_images, images.center_crop) == (540, False)
    np.testing.assert_array_equal(images.labels, labels)
    assert images.shared_labels.tolist() == list(range(10))
    np.testing.assert_array_equal(np.asarray(images.source.opener()(7)), digits[7])


def test_shifted_digits_have_the_labels_of_the_digits_and_other_pixels():
    plain, inverted = (open_set(name, EvaluationConfig(), DIGITS) for name in ("digits", "digits/inverted"))
    assert inverted.name == "digits/inverted"
    np.testing.assert_array_equal(inverted.labels, plain.labels)
    shown, seen = (np.asarray(images.source.opener()(7)) for images in (plain, inverted))
    np.testing.assert_array_equal(seen, 255 - shown)


@pytest.mark.parametrize("name", ["digits", "digits/noisy"])
def test_classifier_of_five_digits_sees_only_those(name: str):
    images = open_set(name, EvaluationConfig(), TO_FOUR)
    labels = evaluation_digits()[1]
    assert images.shared_labels.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(images.positions, np.flatnonzero(labels <= 4))
    np.testing.assert_array_equal(images.labels, labels[labels <= 4])


def test_digits_match_by_name_in_any_order():
    ours = LabelSpace("ours", (ClassEntry("NINE"), ClassEntry("two")))
    images = open_set("digits", EvaluationConfig(), ours)
    labels = evaluation_digits()[1]
    np.testing.assert_array_equal(images.labels, np.where(labels == 9, 0, 1)[(labels == 9) | (labels == 2)])


def test_training_digits_differ_from_evaluation_digits():
    digits = digit_images(for_training=True)
    assert (digits.num_images, len(digits.names())) == (1257, 1257)
    np.testing.assert_array_equal(np.asarray(digits.opener()(3)), training_digits()[0][3])
    np.testing.assert_array_equal(digits.class_numbers(), training_digits()[1])
    assert (
        open_set("digits", EvaluationConfig(), DIGITS).source.names_hash
        == digit_images().names_hash
        != digits.names_hash
    )


def test_whole_set_keeps_its_own_classes(tmp_path: Path):
    source = open_layout(str(touch(tmp_path, ["cat/a.png", "dog/b.png", "dog/c.png", "eel/d.png"])))
    images = whole_set("pets", "", source)
    assert (images.positions.tolist(), images.labels.tolist()) == ([0, 1, 2, 3], [0, 1, 1, 2])
    assert (images.shared_labels.tolist(), images.center_crop) == ([0, 1, 2], False)
    some = whole_set("pets", "", source, np.array([False, False, True, True]))
    assert (some.positions.tolist(), some.labels.tolist(), some.shared_labels.tolist()) == ([2, 3], [1, 2], [1, 2])


def test_unknown_shift_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"^There is no shift 'rotate'\. Did you mean rotated\?$"):
        open_set("digits/rotate", EvaluationConfig(), DIGITS)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("imagenet_val", r"Add evaluation\.paths\.imagenet_val=FOLDER\."),
        ("imagenet_real", r"Add evaluation\.paths\.imagenet_real=FOLDER\."),
        ("imagenet_rr", r"Add evaluation\.paths\.imagenet_rr=FOLDER\. Did you mean imagenet_r(\b.*)?\?"),
        ("digit", r"Add evaluation\.paths\.digit=FOLDER\. Did you mean digits(\b.*)?\?"),
        ("mine", r"Add evaluation\.paths\.mine=FOLDER\."),
    ],
)
def test_set_without_a_path_is_refused_with_the_setting(name: str, remedy: str):
    with pytest.raises(ValueError, match=rf"^evaluation\.sets lists '{name}', which has no path\. {remedy}$"):
        open_set(name, EvaluationConfig(), THOUSAND)


def test_missing_classes_are_named_and_may_be_allowed(few: Path):
    message = r"^'imagenet_val' has no images of 2 of the 100 classes .*: n01558993, n01692333\. Add them, or set "
    with pytest.raises(ValueError, match=message + r"evaluation\.allow_missing_classes=true to predict[^\n]*\.$"):
        opened("imagenet_val", few, HUNDRED)
    images = opened("imagenet_val", few, HUNDRED, allow_missing_classes=True)
    assert images.labels.tolist() == images.shared_labels.tolist() == list(range(2, 100))
    assert images.positions.tolist() == list(range(1, 99))  # the tench comes first


def test_three_of_many_missing_classes_are_named(few: Path):
    with pytest.raises(ValueError, match=r"of 901 of the 1000 classes .*: n01443537, n01484850, n01491361, \.\.\. Add"):
        opened("imagenet_val", few, THOUSAND)


def test_missing_class_without_a_wnid_is_named_by_its_name(tmp_path: Path):
    touch(tmp_path, ["n01621127/a.png"])
    with pytest.raises(ValueError, match=r"^'mine' has no images of 2 of the 3 classes .*: puffin, auk\. Add"):
        opened("mine", tmp_path, BIRDS)


def test_class_folder_without_images_is_a_missing_class(tmp_path: Path):
    touch(tmp_path, ["n01621127/a.png", "auk/a.png"])
    (tmp_path / "puffin").mkdir()
    with pytest.raises(ValueError, match=r"^'mine' has no images of 1 of the 3 classes .*: puffin\. Add"):
        opened("mine", tmp_path, BIRDS)
    images = opened("mine", tmp_path, BIRDS, allow_missing_classes=True)
    assert (images.labels.tolist(), images.shared_labels.tolist()) == ([2, 0], [0, 2])


@pytest.mark.parametrize("allow", [False, True])
def test_set_without_any_shared_class_is_always_refused(tmp_path: Path, allow: bool):
    touch(tmp_path, ["n01440764/a.JPEG"])
    with pytest.raises(ValueError, match=r"^'imagenet_val' has no images of 100 of the 100 classes [^\n]*$"):
        opened("imagenet_val", tmp_path, HUNDRED, allow_missing_classes=allow)


@pytest.mark.parametrize("allow", [False, True])
def test_classifier_that_shares_no_class_is_refused(v2: Path, allow: bool):
    message = r"^evaluation\.sets lists '{}', whose .* of {}, have none .* checkpoint's, those of {}\. Use[^\n]*$"
    with pytest.raises(ValueError, match=message.format("digits", "digits", "imagenet1k")):
        open_set("digits", EvaluationConfig(allow_missing_classes=allow), THOUSAND)
    with pytest.raises(ValueError, match=message.format("imagenet_v2_top_images", "imagenet1k", "digits")):
        opened("imagenet_v2_top_images", v2, DIGITS, allow_missing_classes=allow)


def test_folders_of_unknown_classes_are_named(tmp_path: Path):
    touch(tmp_path, ["puffin/a.png", "dodo/a.png"])
    with pytest.raises(ValueError, match=rf"^1 of 2 classes in '{tmp_path}' .* no class of birds: dodo\. Name[^\n]*$"):
        opened("mine", tmp_path, BIRDS)
    with pytest.raises(ValueError, match=r"^2 of 2 classes in .* no class of imagenet_r: dodo, puffin\. Name"):
        opened("imagenet_r", tmp_path, HUNDRED)


def test_class_numbers_of_another_set_are_refused(v2: Path):
    with pytest.raises(
        ValueError, match=rf"^'{v2}' has the class number 999, but imagenet_a has 200 classes, from 0\."
    ):
        opened("imagenet_a", v2, THOUSAND)


def test_empty_folder_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=rf"^'{tmp_path}' has no images with known classes\. Use a folder"):
        opened("imagenet_val", tmp_path, THOUSAND)
    shutil.rmtree(tmp_path)
    with pytest.raises(ValueError, match=rf"^'{tmp_path}' does not exist\. Use a folder[^\n]*$"):
        opened("imagenet_val", tmp_path, THOUSAND)


def test_devkit_path_is_used_for_original_validation_images(tmp_path: Path):
    touch(tmp_path, ["ILSVRC2012_val_00000001.JPEG"])
    paths = {"imagenet_val": str(tmp_path), "imagenet_devkit": "/no/devkit"}
    with pytest.raises(ValueError, match="'/no/devkit' has no data/ILSVRC2012_validation_ground_truth"):
        open_set("imagenet_val", EvaluationConfig(paths=paths), THOUSAND)
