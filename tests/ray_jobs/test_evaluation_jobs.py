"""The commands that evaluate classifiers and generated images, called as a user would."""

import csv
import json
import re
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.inference.reading import Crop, crop_for
from generation.recipes.config import RecipeConfig
from generation.recipes.labels import load_label_space
from generation.recipes.model_files import PROJECT_ROOT
from generation.recipes.plan import plan_sample
from generation.recipes.recipe import build_recipe, recipe_file_text
from ray_jobs import evaluate, judge, miniature, report, train
from ray_jobs.cli.config import MiniatureConfig
from ray_jobs.miniature import check_training, choose_indices, rows_by_class
from tests.support.commands import call, forbid_cluster, prepared, settings
from training.config import TrainingConfig
from training.data.consumption import EMPTY_CONSUMPTION
from training.job import SET_SIZE
from training.model.classifier import Classifier

PAINTED = str(PROJECT_ROOT / "ray_jobs" / "configs" / "painted.yaml")
MINIATURE = str(PROJECT_ROOT / "ray_jobs" / "configs" / "miniature.yaml")
SMALL = ["training.num_images=128", "training.num_epochs=1", "training.num_held_out=20", "recipe.image_size=32"]
FIVE = "".join(
    f"- {{class_name: {entry.class_name}, definition: a digit}}\n" for entry in load_label_space("digits").classes[:5]
)
"""A class file that needs no WordNet, because each class has a name and a definition."""


def read(path: Path):
    return json.loads(path.read_text())


@pytest.mark.ray
@pytest.mark.nightly
@pytest.mark.usefixtures("ray_cluster")
def test_classifier_of_five_digits_is_evaluated_in_every_way(tmp_path: Path, monkeypatch):
    classes = tmp_path / "five.yaml"
    classes.write_text(FIVE)
    real = ["data.source=real", "data.real=digits", f"recipe.label_space={classes}", "recipe.templates=class_name"]
    sets = [
        "evaluation.sets=[digits,digits/rotated]",
        "evaluation.transfer=digits",
        "evaluation.representation=true",
    ]
    call(train, PAINTED, *SMALL, *real, *sets, "evaluation.every_images=64", f"output={tmp_path / 'real'}")
    assert not (tmp_path / "real" / "samples.png").exists()  # there are no prompts to show
    result = read(tmp_path / "real" / "evaluation" / "evaluation.json")
    assert result["model"]["trained_on"] == "real"
    assert {name: each["num_images"] for name, each in result["sets"].items()} == {"digits": 271, "digits/rotated": 271}
    names = [row["class_name"] for row in result["sets"]["digits"]["per_class"]]
    assert names == ["zero", "one", "two", "three", "four"]
    assert result["representation"]["num_images"] == 271
    transfer = result["transfer"]["sets"]["digits"]
    assert (transfer["num_classes"], transfer["num_test"]) == (5, 540 - 271)  # five to nine
    assert transfer["top1"] > 0.5

    call(evaluate, PAINTED, f"checkpoint={tmp_path / 'real' / 'checkpoint.ckpt'}", "evaluation.sets=[digits/noisy]")
    places = [str(tmp_path / "real" / "evaluation"), str(tmp_path / "real")]  # the latter's newest
    call(report, *places, "--out", str(tmp_path / "both"))
    with (tmp_path / "both" / "evaluations.csv").open() as file:
        rows = [(row["set"], row["num_images"]) for row in csv.DictReader(file)]
    assert rows == [("digits", "271"), ("digits/rotated", "271"), ("digits/noisy", "271")]
    assert "<svg" in (tmp_path / "both" / "report.html").read_text()

    call(evaluate, PAINTED, f"checkpoint={tmp_path / 'real'}", "evaluation.sets=digits")
    with (tmp_path / "real" / "curve" / "accuracy.csv").open() as file:
        points = list(csv.DictReader(file))
    assert [float(point["num_trained"]) for point in points] == [64, 128]
    assert float(points[1]["top1"]) == result["sets"]["digits"]["top1"]
    assert 0 < float(points[0]["training_device_seconds"]) < float(points[1]["training_device_seconds"])


@pytest.mark.ray
@pytest.mark.nightly
@pytest.mark.usefixtures("ray_cluster")
def test_judge_compares_generated_with_real_images(tmp_path: Path):
    call(train, PAINTED, *SMALL, "data.source=real", "data.real=digits", f"output={tmp_path / 'judge'}")
    checkpoint = f"checkpoint={tmp_path / 'judge' / 'checkpoint.ckpt'}"
    call(judge, PAINTED, checkpoint, "recipe.image_size=32", "num_generated=100", f"output={tmp_path / 'judged'}")
    result = read(tmp_path / "judged" / "judgement.json")
    overall = result["judgement"]["overall"]
    assert (overall["num_generated"], overall["num_real"]) == (100, 100)  # equal numbers per class, of 540
    assert [row["num_generated"] for row in result["judgement"]["per_class"]] == [10] * 10
    assert overall["coverage"] < 0.5  # painted images are far from handwriting


@pytest.mark.ray
@pytest.mark.nightly
@pytest.mark.usefixtures("ray_cluster")
def test_small_miniature_trains_the_grid_and_writes_its_findings(tmp_path: Path):
    small = ["training.num_images=64", "images_per_class=2", "multiples=[1,2]", "recipe.generator=painted"]
    sets = ["evaluation.sets=[digits,digits/noisy]", "recipe.num_inference_steps=1", "recipe.model=''"]
    call(miniature, MINIATURE, *small, *sets, f"output={tmp_path / 'out'}")
    cells = read(tmp_path / "out" / "results.json")["cells"]
    assert len(cells) == 3 * 3 * 2 * 2 + 2 * 2
    assert {(cell["data"], cell["size"]): cell["num_images"] for cell in cells} == {
        ("generated", "1x"): 20,
        ("generated", "2x"): 40,
        ("real", "1x"): 20,
        ("real", "all"): 1257,
    }
    page = (tmp_path / "out" / "README.md").read_text()
    assert page.count("- **") == 8
    assert (tmp_path / "out" / "clean.svg").exists()


def test_committed_miniature_can_be_prepared(tmp_path: Path):
    config = settings(miniature, MINIATURE, f"output={tmp_path / 'out'}")
    recipe, run_dir, sets = miniature.prepare(config)
    assert (config.multiples, len(recipe.templates), len(sets)) == ((1, 3, 10), 3, 7)
    assert not run_dir.exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["recipe.guidance_scale=[2,2]"], r"guidance_scale is 2, 2 and .*use two or more different scales"),
        (["recipe.guidance_scale=2"], r"guidance_scale is 2 and .*use two or more different scales"),
        (["recipe.guidance_scale=[1,2]", "recipe.guidance_draw=between"], r"guidance_draw between; use .* one_of"),
        (["recipe.templates=[class_name,definition]"], r"the findings also need background"),
        (
            ["recipe.templates=[class_name,definition,background,class_name]"],
            r"recipe\.templates has '\{lemmas\}' twice",
        ),
        (
            ["recipe.templates=[class_name,definition,background,'{lemmas}']"],
            r"recipe\.templates has '\{lemmas\}' twice",
        ),
        (["recipe.template_weights=[0.5,0.5,0]"], r"template_weights is 0\.5, 0\.5, 0, but .* Leave it out"),
        (["recipe.class_weights.zero=0"], r"class_weights is 0, 1, .* Leave it out"),
        (["recipe.label_space=imagenet100"], r"label_space is imagenet100, but .* Use digits"),
        (["recipe.image_size=64"], r"image_size is 64, but .* Use 32"),
        (["images_per_class=123"], r"images_per_class is 123, but a class has only 122 real digits"),
        (["multiples=1"], r"multiples is 1; use two or more different"),
        (["multiples=[1,3,3]"], r"multiples is 1, 3, 3; use two or more different"),
        (["strong_augmentation=none"], r"strong_augmentation is none, the same as training\.augmentation"),
        (["strong_augmentation=strong"], r"strong_augmentation: .*'strong'.*multi_crop"),
        (["training.gpus_per_worker=1"], r"gpus_per_worker is 1; .* Use 0"),
        (["training.keep_best=true"], r"keep_best is True, but has no effect in miniature"),
        (["evaluation.every_images=64"], r"evaluation\.every_images is 64, but has no effect in miniature"),
        (["training.architecture=resnet17"], r"architecture is 'resnet17'.*resnet18"),
        (["evaluation.sets=[digits]"], r"evaluation\.sets is digits; use digits followed by shifts"),
        (["evaluation.sets=[]"], r"evaluation\.sets is empty"),
        (["evaluation.sets=[digits/noisy,digits]"], r"evaluation\.sets is digits/noisy, digits; use digits"),
        (["evaluation.sets=[digits,imagenet_val]"], r"evaluation\.sets is digits, imagenet_val; use digits"),
        (["evaluation.sets=[digits,digits/]"], r"evaluation\.sets is digits, digits/; use digits"),
        (["evaluation.sets=[digits,digits/nosy]"], r"no shift 'nosy'. Did you mean noisy"),
    ],
)
def test_unusable_miniature_is_refused_in_one_line(overrides: list[str], message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=message) as caught:
        prepared(miniature, MINIATURE, *overrides, f"output={tmp_path / 'out'}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("step", ["choose_indices", "plan_experiments", "read_sets"])
def test_miniature_fails_before_it_connects_to_a_cluster(step: str, tmp_path: Path, monkeypatch, capsys):
    def fail(*_: object):
        raise ValueError(f"{step} failed")

    monkeypatch.setattr(miniature, step, fail)
    forbid_cluster(monkeypatch)
    small = ["images_per_class=1", "multiples=[1,2]"]
    with pytest.raises(SystemExit) as ended:
        call(miniature, MINIATURE, *small, f"output={tmp_path / 'out'}")
    assert (ended.value.code, f"{step} failed" in capsys.readouterr().err) == (2, True)
    assert not (tmp_path / "out").exists()


def test_miniature_refuses_a_recipe_file(tmp_path: Path):
    recipe_file = str(tmp_path / "recipe.json")
    Path(recipe_file).write_text(recipe_file_text(build_recipe(RecipeConfig(generator="painted"))))
    with pytest.raises(ValueError, match=r"/recipe\.json' is a recipe file, .* Use a config"):
        prepared(miniature, recipe_file)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ema_decay", 0.9),
        ("reuse", 2),
        ("num_workers", 2),
        ("accumulate_batches", 2),
        ("real_images", "digits"),
        ("soft_labels", 0.5),
    ],
)
def test_miniature_refuses_settings_without_effect(name: str, value: Any):
    mixed: dict[str, Any] = {"real_fraction": 0.25} if name == "real_images" else {}
    training = TrainingConfig(gpus_per_worker=0, **mixed, **{name: value})
    with pytest.raises(ValueError, match=rf"training\.{name} is {value}, but has no effect in .* Leave it out"):
        check_training(training)


def test_strong_augmentation_accepts_every_augmentation():
    assert get_type_hints(MiniatureConfig)["strong_augmentation"] == get_type_hints(TrainingConfig)["augmentation"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluation.sets=[imagenet_val]"], r"Add evaluation\.paths\.imagenet_val=FOLDER"),
        (["evaluation.sets=[]"], "there is nothing to evaluate on"),
        (
            ["evaluation.resize_size=16", "evaluation.sets=[digits]", "evaluation.crop_size=32"],
            "smaller than crop_size; use 32 or more",
        ),
        (["evaluation.outputs=s3://bucket/a"], "is a URL; use a folder"),
        (["evaluation.transfer=digits"], r"the classifier \(digits\) knows all of them"),
        (["evaluation.transfer=[dtd,dtd]"], "evaluation.transfer lists dtd more than once"),
        (["evaluation.paths.digits=/data"], "evaluation.paths.digits is set, but the digits ship with Figment"),
    ],
)
def test_impossible_evaluation_is_one_line_before_connecting(
    arguments: list[str], message: str, tmp_path: Path, capsys, painted_checkpoint: Path
):
    with pytest.raises(SystemExit) as ended:
        call(evaluate, PAINTED, f"checkpoint={painted_checkpoint}", *arguments)
    assert ended.value.code == 2
    assert re.fullmatch(rf"error: [^\n]*{message}[^\n]*\n", capsys.readouterr().err)


@pytest.fixture(scope="module")
def painted_checkpoint(tmp_path_factory) -> Path:
    """An untrained classifier of ten digits."""
    recipe = build_recipe(RecipeConfig(generator="painted", image_size=32, num_inference_steps=1))
    classifier = Classifier(TrainingConfig(architecture="resnet18", gpus_per_worker=0), num_classes=10, image_size=32)
    consumption = {"synthetic": EMPTY_CONSUMPTION.to_checkpoint()}
    checkpoint = {
        "state_dict": classifier.state_dict(),
        "recipe": {"json": recipe.to_json(), "sha256": recipe.sha256},
        "run": {"consumption": consumption, "sets": {SET_SIZE: 1}},
        "global_step": 0,
    }
    classifier.on_save_checkpoint(checkpoint)
    path = tmp_path_factory.mktemp("run") / "checkpoint.ckpt"
    torch.save(checkpoint, path)
    return path


@pytest.fixture(scope="module")
def judge_checkpoint(tmp_path_factory: pytest.TempPathFactory, painted_checkpoint: Path) -> Path:
    """The same classifier, marked as trained on real images."""
    path = tmp_path_factory.mktemp("judge") / "checkpoint.ckpt"
    torch.save(torch.load(painted_checkpoint, weights_only=False) | {"trained_on": "real"}, path)
    return path


@pytest.mark.parametrize("trained_on", ["generated", "generated and real"])
def test_judge_trained_on_generated_images_is_refused(
    tmp_path: Path, capsys, painted_checkpoint: Path, trained_on: str
):
    path = tmp_path / "checkpoint.ckpt"
    torch.save(torch.load(painted_checkpoint, weights_only=False) | {"trained_on": trained_on}, path)
    with pytest.raises(SystemExit) as ended:
        call(judge, PAINTED, f"checkpoint={path}", f"output={tmp_path / 'judged'}")
    assert ended.value.code == 2
    assert f"was trained on {trained_on} images" in capsys.readouterr().err


def test_judge_needs_more_images_per_class_than_neighbours(tmp_path: Path, capsys, judge_checkpoint: Path):
    for arguments, message in (
        (["num_generated=50"], "There are 5 generated images of class 0, too few for 5 neighbours"),
        (["num_generated=5"], "have only real or only generated images"),
        (["recipe.label_space=imagenet100"], "has the classes of digits, but the recipe has those of imagenet100"),
    ):
        with pytest.raises(SystemExit) as ended:
            call(judge, PAINTED, f"checkpoint={judge_checkpoint}", *arguments, f"output={tmp_path / 'judged'}")
        assert ended.value.code == 2
        assert message in capsys.readouterr().err


def test_judge_frames_real_images_like_generated_ones(tmp_path: Path, judge_checkpoint: Path):
    for i, entry in enumerate(load_label_space("digits").classes):
        (tmp_path / entry.wnid).mkdir()
        for number in range(6):
            Image.new("RGB", (48, 40), (i * 20, number, 0)).save(tmp_path / entry.wnid / f"{number}.png")
    job = prepared(
        judge,
        PAINTED,
        f"checkpoint={judge_checkpoint}",
        "num_generated=60",
        "evaluation.sets=[mine]",
        f"evaluation.paths.mine={tmp_path}",
        f"output={tmp_path / 'judged'}",
    )
    assert crop_for(job.judge.crop, job.config.evaluation, job.real.center_crop) == Crop(32, 32, "bicubic")


def test_indices_of_each_kind_go_round_the_classes():
    recipe = build_recipe(
        RecipeConfig(
            generator="painted",
            image_size=16,
            num_inference_steps=1,
            templates=("class_name", "definition"),
            guidance_scale=(1.0, 5.0),
        )
    )
    chosen = choose_indices(recipe, per_class=3)
    assert len(chosen) == 4
    for (template, guidance), indices in chosen.items():
        plans = [plan_sample(recipe, index) for index in indices.tolist()]
        assert {(each.template, each.guidance_scale) for each in plans} == {(template, guidance)}
        assert [each.label for each in plans] == [*range(10)] * 3
    every = np.concatenate(list(chosen.values()))
    assert len(np.unique(every)) == len(every) == 4 * 30


def test_rows_by_class_go_round_the_classes():
    labels = np.array([1, 1, 0, 2, 0, 1])
    assert rows_by_class(labels).tolist() == [2, 0, 3, 4, 1, 5]
