"""Reading of sets, and crops of images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.config import EvaluationConfig
from evaluation.images.folders import list_images
from evaluation.inference import reading
from evaluation.inference.output_cache import Columns
from evaluation.inference.reading import Crop, ImageReader, ReadRequest, crop_for
from evaluation.inference.trained_model import crop_of


def test_damaged_image_does_not_move_other_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for place, greys in (("first", (10,)), ("second", (0, 40, 80, 120, 160))):
        (tmp_path / place / "auk").mkdir(parents=True)
        for grey in greys:
            Image.new("L", (8, 12), grey).save(tmp_path / place / "auk" / f"{grey:03}.jpg")
    damaged = tmp_path / "second" / "auk" / "080.jpg"
    damaged.write_bytes(damaged.read_bytes()[:200])

    def to_read(folder: str, positions: list[int], rows: list[int], crop: Crop) -> ReadRequest:
        return ReadRequest(list_images(str(tmp_path / folder)), np.array(positions), np.array(rows), crop)

    sets = [
        to_read("first", [0], [0], Crop(8, 8, "bilinear")),
        # Images 0, 40, 80 and 160 belong to the set; the first row is already cached.
        to_read("second", [1, 2, 4], [1, 2, 3], Crop(4, 4, "bicubic")),
    ]
    monkeypatch.setattr(reading.ray, "get", lambda reference: reference)
    reader = ImageReader([sets])  # pyright: ignore[reportArgumentType]

    def read(number: int, start: int, stop: int) -> Columns:
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
        (540, 32, 16, 64),  # four units for each of two readers: 67 images, in whole batches
        (540, 32, 128, 128),
        (10_000, 4096, 8, 8),
        (0, 224, 128, 128),
    ],
)
def test_images_are_read_in_whole_batches(num_images: int, crop_size: int, batch_size: int, expected: int):
    config = EvaluationConfig(batch_size=batch_size, num_readers=2)
    assert reading._unit_size(num_images, crop_size**2 * 3, config) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, Crop(256, 224, "bilinear")),
        ({"crop_size": 288}, Crop(329, 288, "bilinear")),  # 329.1
        ({"resize_size": 232, "interpolation": "bicubic"}, Crop(232, 224, "bicubic")),
        ({"resize_size": 256, "crop_size": 256}, Crop(256, 256, "bilinear")),
    ],
)
def test_default_crop_is_224_of_256(settings: dict, expected: Crop):
    config = EvaluationConfig(**settings)
    assert crop_for(crop_of(224), config, center_crop=True) == expected


def test_external_models_keep_their_own_crop_by_default():
    own = Crop(232, 224, "bicubic")
    assert crop_for(own, EvaluationConfig(), center_crop=True) == own
    assert crop_for(own, EvaluationConfig(crop_size=112, interpolation="bilinear"), True) == Crop(116, 112, "bilinear")


def test_without_center_crop_the_whole_square_is_used():
    config = EvaluationConfig(resize_size=64)
    assert crop_for(crop_of(32), config, center_crop=False) == Crop(32, 32, "bicubic")
    assert crop_for(crop_of(32), config, center_crop=True) == Crop(64, 32, "bilinear")
