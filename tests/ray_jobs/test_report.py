"""Evaluations side by side: which file is found, and which files are refused."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from ray_jobs import report
from ray_jobs.report import find_evaluation, read_file, side_by_side_files
from tests.support.commands import call

ZERO: dict[str, Any] = {
    **{"label": 0, "class_name": "zero", "num_images": 0, "num_top1": 0, "num_top5": 0},
    **{"top1": None, "top5": None, "top1_interval": None},
}
"""A class without images."""

EVALUATION: dict[str, Any] = {
    "model": {
        "name": "mine",
        "architecture": "resnet18",
        "checkpoint": "runs/1/checkpoint.ckpt",
        "label_space": "digits",
        "num_classes": 2,
        "image_size": 32,
        "num_images": 100,
        "trained_on": "real",
        "num_trained": 200,
        "recipe_sha256": "1f82c32187e19dcc",
        "guidance_scale": [1.0],
        "templates": ["{class_name}"],
        "augmentation": "crops",
    },
    "settings": "output: runs/1",
    "circumstances": {"commit": "cbdc476", "machine": "x86_64, 2 cores", "date": "2026-11-24"},
    "sets": {
        "digits": {
            **dict.fromkeys(("num_without_label", "num_unreadable"), 0),
            **dict.fromkeys(("top1", "top5", "mean_per_class_top1", "ece"), 0.75),
            **{name: [0.5, 1.0] for name in ("top1_interval", "top5_interval", "ece_interval")},
            "num_images": 4,
            "num_shared_classes": 2,
            "unreadable": [],
            "calibration": [],
            "per_class": [{**ZERO, "top1": 0.75, "num_images": 4}, {**ZERO, "label": 1, "class_name": "one"}],
            "confusions": [{"label": 0, "predicted": 0, "num_images": 3}],
            "images": "7 8",
            "top1_hits": "",
        }
    },
}


def written(folder: Path, evaluation: object = EVALUATION) -> Path:
    folder.mkdir(parents=True)
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    return folder / "evaluation.json"


def but(*place: str | int, value: object) -> dict[str, Any]:
    """Return the evaluation with one value changed."""
    changed = copy.deepcopy(EVALUATION)
    inner: Any = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return changed


def lay(out: Path, *places: Path) -> None:
    call(report, *map(str, places), "--out", str(out))


def test_runs_folder_means_its_newest_evaluation(tmp_path: Path):
    for name in ("evaluation", "evaluation-2", "evaluation-10", "evaluation-of-old"):
        written(tmp_path / name)
    (tmp_path / "evaluation-11").mkdir()
    assert find_evaluation(tmp_path) == tmp_path / "evaluation-10" / "evaluation.json"


def test_evaluation_is_found_by_its_folder_and_its_file(tmp_path: Path):
    path = written(tmp_path / "evaluation")
    written(tmp_path / "evaluation-2")
    assert find_evaluation(path.parent) == find_evaluation(path) == path


def test_report_prints_the_file_of_each_model(tmp_path: Path, capsys):
    first, second = written(tmp_path / "a" / "evaluation"), written(tmp_path / "b", but("model", "name", value="b"))
    lay(tmp_path / "out", tmp_path / "a", second)
    assert f"mine: {first}\nb: {second}\n" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "report.html",
        "evaluations.json",
        "evaluations.csv",
    }


def test_evaluation_survives_a_round_trip(tmp_path: Path):
    later = but("sets", "digits", "of_a_later_version", value=[1])
    assert json.loads(json.dumps(read_file(written(tmp_path / "a", later)))) == later


def test_evaluation_of_an_earlier_version_is_read(tmp_path: Path):
    earlier = copy.deepcopy(EVALUATION)
    del earlier["model"]["trained_on"]
    earlier["sets"]["digits"] = {
        name: value for name, value in earlier["sets"]["digits"].items() if name not in ("images", "top1_hits")
    }
    lacking = ("split", "num_seeds", "num_unreadable", "top1_interval")
    flowers = {"top1": 0.8, "mean_per_class": 0.7, "validation_top1": 0.8, "num_classes": 102}
    flowers |= {"num_trainval": 2040, "num_test": 6149}
    pets = flowers | {"top1_interval": [0.75, 0.85], "num_seeds": 3}
    earlier["transfer"] = {"sets": {"flowers": flowers, "pets": pets}, "log_odds_average": 1.4}
    read = read_file(written(tmp_path / "earlier", earlier))
    assert read["model"]["trained_on"] == "generated"
    assert (read["sets"]["digits"]["images"], read["sets"]["digits"]["top1_hits"]) == ("", "")
    transfer = read.get("transfer")
    assert transfer is not None
    assert [dict(transfer["sets"]["flowers"])[name] for name in lacking] == ["", 1, 0, None]
    assert transfer["sets"]["pets"]["top1_interval"] == (0.75, 0.85)
    without_transfer = read_file(written(tmp_path / "without", but("transfer", value={})))
    assert not without_transfer.get("transfer")
    assert set(side_by_side_files([read, without_transfer])) == {"report.html", "evaluations.json", "evaluations.csv"}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ([], "the whole file"),
        ({}, "sets"),
        (but("model", value="mine"), "model"),
        (but("model", "num_images", value="100"), "model.num_images"),
        (but("model", "num_classes", value=True), "model.num_classes"),
        (but("model", "templates", value="{class_name}"), "model.templates"),
        (but("model", "guidance_scale", value=[None]), "model.guidance_scale[0]"),
        (but("circumstances", "commit", value=None), "circumstances.commit"),
        (but("sets", value=["digits"]), "sets"),
        (but("sets", "digits", value=0.75), "sets.digits"),
        (but("sets", "digits", "top1", value=None), "sets.digits.top1"),
        (but("sets", "digits", "top1_interval", value=[0.5]), "sets.digits.top1_interval[1]"),
        (but("sets", "digits", "top1_interval", value=["0.5", 1.0]), "sets.digits.top1_interval[0]"),
        (but("sets", "digits", "per_class", 1, value={"label": 1}), "sets.digits.per_class[1].class_name"),
        (but("representation", value={"sparsity": 0.5}), "representation.intra_class_distance"),
        (but("transfer", value={"flowers": 0.8}), "transfer.sets"),
        (but("transfer", value={"sets": {"flowers": {}}}), "transfer.sets.flowers.top1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_file_of_another_shape_is_one_line_and_leaves_no_folder(tmp_path: Path, capsys, content: object, named: str):
    path = written(tmp_path / "other", content)
    with pytest.raises(SystemExit) as ended:
        lay(tmp_path / "out", path)
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith(
        f"error: '{path}' was not written by this version's ray_jobs.evaluate: {named} is missing"
    )
    assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_file_that_is_not_json_leaves_no_folder(tmp_path: Path, capsys):
    path = written(tmp_path / "cut")
    path.write_text('{"model": ')
    with pytest.raises(SystemExit):
        lay(tmp_path / "out", path)
    assert "was not written by this version's ray_jobs.evaluate: Invalid JSON" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
