"""The jobs that look at classifiers and at generated images, as a user calls them."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from generation.config import RecipeConfig
from generation.labels import load_label_space
from generation.model_files import PROJECT_ROOT
from generation.plan import plan_sample
from generation.recipe import build_recipe
from ray_jobs import evaluate, judge, miniature, report, train
from ray_jobs.miniature import choose_indices, places_by_class

PAINTED = str(PROJECT_ROOT / "ray_jobs" / "configs" / "painted.yaml")
SMALL = ["training.num_images=128", "training.num_epochs=1", "training.num_held_out=20", "recipe.image_size=32"]
FIVE = "".join(
    f"- {{class_name: {entry.class_name}, definition: a digit}}\n" for entry in load_label_space("digits").classes[:5]
)
"""A class file that needs no WordNet, since each class says all of itself."""


def call(job, monkeypatch, *arguments: str, config: str = PAINTED) -> None:
    """Run a job's main as if called from the command line, in this process and on its cluster."""
    monkeypatch.setattr(sys, "argv", [job.__name__, config, *arguments])
    job.main()


def read(path: Path):
    return json.loads(path.read_text())


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_classifier_of_five_real_digits_is_told_about_in_all_ways_and_laid_beside_another(
    tmp_path: Path, monkeypatch, capsys
):
    classes = tmp_path / "five.yaml"
    classes.write_text(FIVE)
    real = ["data.source=real", "data.real=digits", f"recipe.label_space={classes}", "recipe.templates=class_name"]
    wanted = [
        "evaluation.sets=[digits,digits/rotated]",
        "evaluation.transfer=digits",
        "evaluation.representation=true",
    ]
    call(train, monkeypatch, *SMALL, *real, *wanted, f"output={tmp_path / 'real'}")
    assert not (tmp_path / "real" / "samples.png").exists()  # there is no prompt to show
    told = read(tmp_path / "real" / "evaluation" / "evaluation.json")
    assert told["model"]["trained_on"] == "real"
    assert {name: each["num_images"] for name, each in told["sets"].items()} == {"digits": 271, "digits/rotated": 271}
    assert [row["class_name"] for row in told["sets"]["digits"]["per_class"]] == ["zero", "one", "two", "three", "four"]
    assert told["representation"]["num_images"] == 271
    transfer = told["transfer"]["sets"]["digits"]
    assert (transfer["num_classes"], transfer["num_test"]) == (5, 540 - 271)  # five to nine
    assert transfer["top1"] > 0.5

    call(evaluate, monkeypatch, f"checkpoint={tmp_path / 'real' / 'checkpoint.ckpt'}", "evaluation.sets=[digits/noisy]")
    places = [str(tmp_path / "real"), str(tmp_path / "real" / "evaluation-2")]
    monkeypatch.setattr(sys, "argv", ["report", *places, "--out", str(tmp_path / "both")])
    report.main()
    with (tmp_path / "both" / "evaluations.csv").open() as file:
        rows = [(row["set"], row["num_images"]) for row in csv.DictReader(file)]
    assert rows == [("digits", "271"), ("digits/rotated", "271"), ("digits/noisy", "271")]
    assert "<svg" in (tmp_path / "both" / "report.html").read_text()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_generated_images_are_judged_beside_real_ones_and_another_label_space_is_refused(
    tmp_path: Path, monkeypatch, capsys
):
    call(train, monkeypatch, *SMALL, "data.source=real", "data.real=digits", f"output={tmp_path / 'judge'}")
    checkpoint = f"checkpoint={tmp_path / 'judge' / 'checkpoint.ckpt'}"
    call(judge, monkeypatch, checkpoint, "recipe.image_size=32", "num_generated=100", f"output={tmp_path / 'judged'}")
    told = read(tmp_path / "judged" / "judgement.json")
    overall = told["judgement"]["overall"]
    assert (overall["num_generated"], overall["num_real"]) == (100, 540)
    assert [row["num_generated"] for row in told["judgement"]["per_class"]] == [10] * 10
    assert overall["coverage"] < 0.5  # painted images are far from handwriting
    with pytest.raises(SystemExit) as ended:
        call(judge, monkeypatch, checkpoint, "recipe.label_space=imagenet100", f"output={tmp_path / 'other'}")
    assert ended.value.code == 2
    assert "knows the classes of digits, the recipe has those of imagenet100" in capsys.readouterr().err


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_small_miniature_trains_each_kind_both_ways_and_writes_its_findings(tmp_path: Path, monkeypatch):
    small = ["training.num_images=64", "images_per_class=2", "multiples=[1,2]", "recipe.generator=painted"]
    sets = ["evaluation.sets=[digits,digits/noisy]", "recipe.num_inference_steps=1", "recipe.model=''"]
    config = str(PROJECT_ROOT / "ray_jobs" / "configs" / "miniature.yaml")
    call(miniature, monkeypatch, *small, *sets, f"output={tmp_path / 'out'}", config=config)
    cells = read(tmp_path / "out" / "results.json")["cells"]
    assert len(cells) == 3 * 3 * 2 * 2 + 2 * 2
    assert {(cell["data"], cell["size"]): cell["num_images"] for cell in cells} == {
        ("generated", "1x"): 20,
        ("generated", "2x"): 40,
        ("real", "1x"): 20,
        ("real", "all"): 1257,
    }
    page = (tmp_path / "out" / "README.md").read_text()
    assert page.count("- **") == 6
    assert (tmp_path / "out" / "clean.svg").exists()


def test_indices_of_each_kind_have_each_class_once_in_every_ten():
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


def test_places_of_real_images_go_round_the_classes_and_each_comes_once():
    labels = np.array([1, 1, 0, 2, 0, 1])
    assert places_by_class(labels).tolist() == [2, 0, 3, 4, 1, 5]
