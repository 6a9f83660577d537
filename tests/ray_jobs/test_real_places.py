"""Real images of the commands: where they are found, and how many may be unreadable."""

import shutil
from pathlib import Path
from types import MethodType
from typing import cast

import pytest

from evaluation.config import EvaluationConfig
from evaluation.images.decoding import Crop
from evaluation.images.training_images import RealTrainingImages
from evaluation.images.unreadable import Unreadable
from evaluation.inference.reading import crop_for
from generation.recipes.labels import load_label_space
from ray_jobs import compare, train
from ray_jobs.cli.config import JobConfig
from ray_jobs.experiments.run import Prepared
from ray_jobs.job.evaluation import plan
from ray_jobs.job.source import StoredSource, real_path, unreadable_in
from tests.support.birds import BIRDS, write
from tests.support.commands import prepared, settings
from tests.support.settings import CONFIGS, PAINTED
from training.job import TrainingSamples

REAL = ["data.source=real", "data.real=digits", "training.num_held_out=100"]
MIXED = ["training.real_images=digits", "training.real_fraction=0.25"]


def behind(samples: TrainingSamples) -> RealTrainingImages:
    return cast(RealTrainingImages, cast(MethodType, samples.open).__self__)


def trained_on_and_held_out(job: Prepared) -> tuple[RealTrainingImages, RealTrainingImages]:
    source = cast(StoredSource, job.source)
    return behind(source.images), behind(source.held_out_images)


def test_real_images_are_found_from_the_working_and_the_home_folder(tmp_path: Path, monkeypatch):
    names = [f"{entry.wnid or entry.class_name}/a.png" for entry in BIRDS.classes]
    write(tmp_path / "birds", *names)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for place in ("birds", "~/birds", str(tmp_path / "birds")):
        (images,) = plan(EvaluationConfig(sets=("mine",), paths={"mine": place}), BIRDS).sets
        assert images.path == real_path(place) == str(tmp_path / "birds")


def test_run_on_real_images_may_leave_unreadable_ones_out(tmp_path: Path):
    job = prepared(train, PAINTED, f"output={tmp_path}/run", *REAL, "training.allow_unreadable=3")
    expected = Unreadable(3, tmp_path / "run" / "unreadable.txt")
    assert [images.unreadable for images in trained_on_and_held_out(job)] == [expected, expected]
    assert job.unreadable == expected


def test_random_crops_use_whole_photographs_and_held_out_images_are_squares(tmp_path: Path):
    sizes = ["training.augmentation=crop_flip", "training.real_image_size=48"]
    job = prepared(train, PAINTED, f"output={tmp_path}/run", *REAL, *sizes)
    assert [(images.is_whole, images.image_size) for images in trained_on_and_held_out(job)] == [
        (True, 48),
        (False, 32),
    ]
    assert job.source.samples().image_size == 48


def test_paper_config_trains_on_imagenets_photographs(tmp_path: Path):
    wnids = [entry.wnid for entry in load_label_space("imagenet100").classes]
    names = [f"train/{wnid}/{i}.JPEG" for wnid in wnids for i in range(12)]
    write(tmp_path / "imagenet", *names, "train/n01440764/1001.JPEG")  # tench, not among the hundred
    real = ["data.tee=", "data.replays=0", "data.source=real", f"data.real={tmp_path / 'imagenet'}"]
    job = prepared(train, str(CONFIGS / "paper.yaml"), f"output={tmp_path}/run", *real)
    images, _ = trained_on_and_held_out(job)
    assert (images.num_images, images.is_whole, images.image_size) == (200, True, 512)
    assert job.config.training.num_steps == 50_700
    shutil.rmtree(tmp_path / "imagenet" / "train" / wnids[3])
    with pytest.raises(ValueError, match=f"has no images of 1 of the 100 classes of imagenet100: {wnids[3]}. Add them"):
        prepared(train, str(CONFIGS / "paper.yaml"), f"output={tmp_path}/run", *real)


@pytest.mark.parametrize("is_upright", [False, True])
def test_upright_setting_rotates_real_images(is_upright: bool, tmp_path: Path):
    job = prepared(train, PAINTED, f"output={tmp_path}/run", *REAL, f"training.upright={is_upright}")
    assert [images.is_upright for images in trained_on_and_held_out(job)] == [is_upright] * 2
    config = EvaluationConfig(upright=is_upright)
    assert [crop_for(Crop(8, 8, "bilinear"), config, center_crop).is_upright for center_crop in (False, True)] == [
        is_upright
    ] * 2


def test_images_without_random_crops_are_squares(tmp_path: Path):
    job = prepared(train, PAINTED, f"output={tmp_path}/run", *REAL, "training.augmentation=affine")
    images, _ = trained_on_and_held_out(job)
    assert (images.is_whole, job.source.samples().image_size) == (False, 32)


def test_mixed_in_real_images_may_be_unreadable_too(tmp_path: Path):
    job = prepared(train, PAINTED, f"output={tmp_path}/run", *MIXED, "training.allow_unreadable=3")
    assert job.real is not None
    assert behind(job.real).unreadable == job.unreadable == Unreadable(3, tmp_path / "run" / "unreadable.txt")


def test_resumed_run_lists_unreadable_images_in_a_new_file(tmp_path: Path):
    (tmp_path / "unreadable.txt").write_text("repaired.png\n")
    assert unreadable_in(tmp_path, JobConfig().training).file == tmp_path / "unreadable-2.txt"


@pytest.mark.parametrize("arm", ["stream", "real"])
def test_each_arm_of_a_comparison_has_its_own_list_of_unreadable_images(arm: str, tmp_path: Path):
    arguments = [str(CONFIGS / "compare.yaml"), f"output={tmp_path}/run", "training.allow_unreadable=3"]
    config = settings(compare, *arguments)
    recipe, run_dir = compare.prepare(config)
    found = compare.Comparison(config, recipe, run_dir).unreadable(compare.Arm(arm, 7))
    assert found == Unreadable(3, tmp_path / "run" / f"{arm}-7" / "unreadable.txt")
