"""What a classifier says of each image: of all of them, once, and as one process alone would say it."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torchvision import transforms

from evaluation import kept_outputs, outputs
from evaluation.config import EvaluationConfig
from evaluation.model import EvaluationError, Model
from evaluation.outputs import Crop, ImageReader, Kinds, Network, Outputs, Reading, best_guesses, crop_for, outputs_of
from evaluation.real_files import list_images
from evaluation.real_sets import RealSet, open_set
from generation.labels import ClassEntry, LabelSpace
from generation.storage import StorageError
from training.classifier import Classifier, load_classifier
from training.config import TrainingConfig

BIRDS = LabelSpace("birds", (ClassEntry("auk"), ClassEntry("puffin"), ClassEntry("owl")))
IN_ODD_PARTS = EvaluationConfig(batch_size=7, num_readers=3, num_actors=2, allow_missing_classes=True)
ALONE = EvaluationConfig(batch_size=16, num_readers=1)
BOTH: Kinds = ("guesses", "features")


def untrained(image_size: int = 32, crop_size: int = 0) -> Model:
    """Return a classifier that nothing has trained, the same each time, and not of one opinion."""
    torch.manual_seed(0)
    config = TrainingConfig(architecture="resnet18", crop_size=crop_size, gpus_per_worker=0)
    classifier = Classifier(config, num_classes=3, image_size=image_size).eval()
    checkpoint: dict[str, Any] = {"state_dict": classifier.state_dict()}
    classifier.on_save_checkpoint(checkpoint)
    return Model(Path("checkpoint.ckpt"), "0" * 64, checkpoint)


def write_photos(folder: Path, **counts: int) -> Path:
    """Make so many small JPEGs of each class, no two alike."""
    random = np.random.default_rng(0)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            colours = Image.fromarray(random.integers(0, 255, (3, 4, 3), dtype=np.uint8))
            colours.resize((48, 40), Image.Resampling.BICUBIC).save(folder / name / f"{i:02}.JPEG")
    return folder


def birds(folder: Path, name: str = "birds") -> RealSet:
    return open_set(name, replace(IN_ODD_PARTS, paths={name: str(folder)}), BIRDS)


def ask(
    sets: Sequence[RealSet], folder: Path, config: EvaluationConfig, kinds: Kinds = BOTH
) -> tuple[list[Outputs], list[str]]:
    """Return what is said of sets, and what the user was told meanwhile."""
    told: list[str] = []
    return outputs_of(sets, untrained(), kinds, config, folder, told.append), told


def said_alone(images: RealSet, among: list[int]) -> dict[str, np.ndarray]:
    """Return what the classifier says of a set's images, one after another in this process."""
    network = load_classifier(untrained().checkpoint)
    to_square = transforms.Compose([transforms.Resize(37), transforms.CenterCrop(32)])
    pixels = [torch.tensor(np.asarray(to_square(Image.open(name)))) for name in images.source.names()]
    with torch.inference_mode():
        features, logits = zip(*(network.features_and_logits(each[None]) for each in pixels), strict=True)
    best = torch.cat(logits)[:, among].softmax(dim=1).sort(dim=1, descending=True)
    return {
        "row": np.arange(images.num_images),
        "prediction": np.array(among)[best.indices.numpy()],
        "confidence": best.values[:, 0].numpy(),
        "feature": torch.cat(features).numpy(),
    }


def all_of(said: Outputs) -> dict[str, np.ndarray]:
    return {"row": said.rows} | {name: said.read(name) for name in ("prediction", "confidence", "feature")}


def check(said: Outputs, expected: dict[str, np.ndarray], atol: float = 1e-5) -> None:
    """Compare; batches of other sizes may add up in another order."""
    np.testing.assert_array_equal(said.rows, expected["row"])
    for name in expected.keys() - {"row"}:
        column = expected[name]
        np.testing.assert_allclose(said.read(name), column, rtol=1e-4, atol=atol if column.dtype.kind == "f" else 0)


# What needs no cluster


def test_guesses_are_the_best_five_of_all_with_the_chance_of_the_first():
    logits = torch.log(torch.tensor([[1.0, 2.0, 3.0, 4.0, 10.0, 0.5], [10.0, 4.0, 3.0, 2.0, 0.5, 1.0]]))
    said = best_guesses(logits, [])
    assert said["prediction"].tolist() == [[4, 3, 2, 1, 0], [0, 1, 2, 3, 5]]
    np.testing.assert_allclose(said["confidence"], [10 / 20.5, 10 / 20.5], rtol=1e-6)
    assert (said["prediction"].dtype, said["confidence"].dtype) == (np.int32, np.float32)


def test_guesses_and_their_chances_are_among_shared_labels_alone():
    logits = torch.log(torch.tensor([[1.0, 2.0, 3.0, 4.0, 10.0], [6.0, 2.0, 1.0, 1.0, 90.0]]))
    said = best_guesses(logits, [0, 2, 3])  # of 1 + 3 + 4, and of 6 + 1 + 1
    assert said["prediction"][0].tolist() == [3, 2, 0]
    assert said["prediction"][1, 0] == 0
    np.testing.assert_allclose(said["confidence"], [4 / 8, 6 / 8], rtol=1e-6)


def test_of_one_shared_label_a_guess_is_certain():
    said = best_guesses(torch.tensor([[5.0, -5.0], [-5.0, 5.0]]), [1])
    assert said["prediction"].tolist() == [[1], [1]]
    assert said["confidence"].tolist() == [1.0, 1.0]


def test_a_network_says_the_same_guesses_with_its_features_and_without():
    images = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
    network = Network(untrained().checkpoint, ALONE, BOTH, [[], [0, 2]])
    both = network.load()(1, images)
    assert both.keys() == {"prediction", "confidence", "feature"}
    assert set(both["prediction"].ravel()) == {0, 2}
    assert (both["feature"].shape, both["feature"].dtype) == ((4, 512), np.float32)
    for kinds in (("guesses",), ("features",)):
        alone = replace(network, kinds=kinds).load()(1, images)
        assert len(alone) == {"guesses": 2, "features": 1}[kinds[0]]
        for name, column in alone.items():
            np.testing.assert_allclose(column, both[name], rtol=1e-5)


@pytest.mark.parametrize("kinds", [("guesses",), ("features",), BOTH])
def test_outputs_that_are_no_numbers_are_refused(kinds: Kinds):
    checkpoint = untrained().checkpoint
    checkpoint["state_dict"]["network.conv1.weight"].fill_(torch.nan)
    answer = Network(checkpoint, ALONE, kinds, [[]]).load()
    with pytest.raises(EvaluationError, match="NaN or infinite"):
        answer(0, np.zeros((1, 32, 32, 3), dtype=np.uint8))


def test_a_damaged_image_amid_others_leaves_them_in_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for place, greys in (("first", (10,)), ("second", (0, 40, 80, 120, 160))):
        (tmp_path / place / "auk").mkdir(parents=True)
        for grey in greys:
            Image.new("L", (8, 12), grey).save(tmp_path / place / "auk" / f"{grey:03}.jpg")
    damaged = tmp_path / "second" / "auk" / "080.jpg"
    damaged.write_bytes(damaged.read_bytes()[:200])
    readings = [
        Reading(list_images(str(tmp_path / "first")), np.array([0]), np.array([0]), Crop(8, 8, "bilinear")),
        # Images 0, 40, 80 and 160 are of the set, of which the first row is there already.
        Reading(
            list_images(str(tmp_path / "second")), np.array([0, 1, 2, 4]), np.array([1, 2, 3]), Crop(4, 4, "bicubic")
        ),
    ]
    monkeypatch.setattr(outputs.ray, "get", lambda reference: reference)
    reader = ImageReader([readings])  # pyright: ignore[reportArgumentType]

    def read(number: int, start: int, stop: int) -> outputs.Columns:
        unit = {"set": np.array([number]), "start": np.array([start]), "stop": np.array([stop])}
        (columns,) = reader(unit)
        return columns

    whole, last, other = read(1, 0, 3), read(1, 2, 3), read(0, 0, 1)
    assert whole["row"].tolist() == [1, 2, 3]
    assert whole["is_read"].tolist() == [True, False, True]
    assert (whole["image"].shape, whole["image"].dtype) == ((3, 4, 4, 3), np.uint8)
    for image, grey in zip(whole["image"], (40, 0, 160), strict=True):
        np.testing.assert_allclose(image.astype(int), grey, atol=1)
    assert (last["row"].tolist(), last["set"].tolist(), last["image"][0, 0, 0, 0]) == ([3], [1], 160)
    assert (other["row"].tolist(), other["set"].tolist(), other["image"].shape) == ([0], [0], (1, 8, 8, 3))


@pytest.mark.parametrize(
    ("num_images", "crop_size", "batch_size", "expected"),
    [
        (50_000, 224, 32, 96),  # 16 MB are 106 images
        (50_000, 224, 128, 128),  # no less than a batch
        (50_000, 32, 128, 512),  # no more than 512
        (540, 32, 16, 64),  # two readers have four units each: 67 images, in whole batches
        (540, 32, 128, 128),
        (10_000, 4096, 8, 8),
        (0, 224, 128, 128),
    ],
)
def test_images_are_read_in_whole_batches(num_images: int, crop_size: int, batch_size: int, expected: int):
    config = EvaluationConfig(batch_size=batch_size, num_readers=2)
    assert outputs._unit_size(num_images, crop_size**2 * 3, config) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, Crop(256, 224, "bilinear")),
        ({"crop_size": 288}, Crop(329, 288, "bilinear")),  # 329.1
        ({"resize_size": 232, "interpolation": "bicubic"}, Crop(232, 224, "bicubic")),
        ({"resize_size": 256, "crop_size": 256}, Crop(256, 256, "bilinear")),
    ],
)
def test_the_centre_that_is_shown_is_224_of_256_unless_told(settings: dict, expected: Crop):
    config = EvaluationConfig(**settings)
    assert crop_for(untrained(image_size=224).crop_size, config, has_border=True) == expected
    assert crop_for(untrained(image_size=256, crop_size=224).crop_size, config, has_border=True) == expected


def test_an_image_without_a_border_is_shown_as_a_whole():
    config = EvaluationConfig(resize_size=64)
    assert crop_for(untrained().crop_size, config, has_border=False) == Crop(32, 32, "bicubic")
    assert crop_for(untrained().crop_size, config, has_border=True) == Crop(64, 32, "bilinear")


# What needs one


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images, of which 7 is no divisor, and no class has as many as another."""
    return write_photos(tmp_path_factory.mktemp("birds"), auk=25, owl=18, puffin=17)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_all_images_of_all_sets_are_asked_as_one_process_would(photos: Path, tmp_path: Path):
    sets = [birds(photos), birds(write_photos(tmp_path / "two", auk=5, owl=6), "auks and owls")]
    (of_all, of_two), told = ask(sets, tmp_path / "outputs", IN_ODD_PARTS)
    check(of_all, said_alone(sets[0], [0, 1, 2]))
    check(of_two, said_alone(sets[1], [0, 2]))
    assert len(set(of_all.read("prediction")[:, 0])) > 1
    assert (of_all.unreadable, of_two.unreadable, told) == ((), (), [])


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_what_is_kept_is_not_asked_again_and_of_half_the_parts_the_rest_is(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(kept_outputs, "PART_BYTES", 1)  # a file for each unit
    folder = Path(shutil.copytree(photos, tmp_path / "birds"))
    images, kept = birds(folder), tmp_path / "outputs"
    (first,), _ = ask([images], kept, ALONE)
    parts = sorted(kept.glob("birds-*/part-*.parquet"))
    assert len(parts) == 4  # of 16, 16, 16 and 12
    for part in parts[:2]:
        part.unlink()
    still_kept = [row for part in parts[2:] for row in pq.read_table(part)["row"].to_pylist()]
    for row in still_kept:
        Path(images.source.names()[row]).unlink()
    (again,), told = ask([images], kept, replace(ALONE, batch_size=5))
    check(again, all_of(first))
    assert told == [f"birds: {len(still_kept)} of 60 images are kept already"]
    shutil.rmtree(folder)
    (once_more,), told = ask([images], kept, ALONE)
    check(once_more, all_of(again), atol=0)
    assert told == []


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_damaged_images_are_named_may_be_left_out_and_are_asked_when_repaired(photos: Path, tmp_path: Path):
    folder = Path(shutil.copytree(photos, tmp_path / "birds"))
    damaged = [folder / "auk" / "03.JPEG", folder / "puffin" / "16.JPEG"]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:300])
    images, kept = birds(folder), tmp_path / "outputs"
    named = re.escape(", ".join(map(str, damaged)))
    with pytest.raises(StorageError, match=rf"^2 of the 60 images of 'birds' .* {named}\. .*allow_unreadable=2\. What"):
        ask([images], kept, ALONE, ("guesses",))
    (without,), told = ask([images], kept, replace(ALONE, allow_unreadable=2), ("guesses",))
    assert told == ["birds: 58 of 60 images are kept already"]
    assert without.unreadable == tuple(map(str, damaged))
    assert without.rows.tolist() == [row for row in range(60) if row not in (3, 59)]
    for path in damaged:
        shutil.copy(photos / path.relative_to(folder), path)
    shutil.rmtree(folder / "owl")  # what is kept is not read
    (whole,), _ = ask([images], kept, ALONE, ("guesses",))
    expected = said_alone(birds(photos), [0, 1, 2])
    del expected["feature"]
    check(whole, expected)
    assert whole.unreadable == ()
