"""Pages and CSV of evaluations: contents, escaping, and no dependence on other files."""

import csv
import io
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from evaluation.metrics.intervals import pack_hits, wilson_interval
from evaluation.pages.html import by_unique_name, html_table, percent
from evaluation.pages.model_page import CSV_HEAD, csv_text, model_page
from evaluation.pages.side_by_side import best_of, same_classes, side_by_side_page

HOSTILE = "</script><img src=x onerror=alert(1)> & \"$\\frac'"


def one_set(top1: float = 0.75, num_classes: int = 2, names: str = "class") -> dict[str, Any]:
    """Four images per class: three correct, the fourth predicted as the next class."""
    per_class = [
        {
            "label": i,
            "class_name": f"{names} {i}",
            "num_images": 4,
            "num_top1": 3,
            "num_top5": 4,
            "top1": 0.75,
            "top5": 1.0,
            "top1_interval": [0.3, 0.95],
        }
        for i in range(num_classes)
    ]
    return {
        "num_images": 4 * num_classes,
        "num_without_label": 0,
        "num_unreadable": 0,
        "unreadable": [],
        "num_shared_classes": num_classes,
        "top1": top1,
        "top1_interval": [top1 - 0.125, top1 + 0.125],
        "top5": 1.0,
        "top5_interval": [0.9, 1.0],
        "mean_per_class_top1": 0.7125,
        "ece": 0.0321,
        "ece_interval": [0.01, 0.05],
        "calibration": [
            {"confidence": 0.55, "accuracy": 0.5, "num_images": 4},
            {"confidence": None, "accuracy": None, "num_images": 0},
        ],
        "per_class": per_class,
        "confusions": [
            {"label": i, "predicted": predicted, "num_images": num_images}
            for i in range(num_classes)
            for predicted, num_images in ((i, 3), ((i + 1) % num_classes, 1))
        ],
    }


def evaluated(name: str = "mine", sets: dict[str, Any] | None = None, **others: Any) -> Any:
    return {
        "model": {
            "name": name,
            "architecture": "resnet18",
            "checkpoint": "runs/1/last.ckpt",
            "label_space": "digits",
            "num_classes": 10,
            "image_size": 32,
            "num_images": 20000,
            "trained_on": "generated",
            "num_trained": 80000,
            "recipe_sha256": "1f82c32187e19dcc",
            "guidance_scale": [1.0, 2.5],
            "templates": ["a photo of a {}"],
            "augmentation": "crops",
        },
        "circumstances": {"commit": "cbdc476", "machine": "x86_64, 2 cores", "date": "2026-11-24"},
        "settings": "batch_size: 64\n",
        "sets": {"digits": one_set()} if sets is None else sets,
        **others,
    }


def representation(sparsity: float = 0.25) -> dict[str, Any]:
    measures = {"intra_class_distance": 0.8125, "feature_redundancy": 0.125, "coding_length": 412.34}
    return {"set": "digits", "num_images": 540, "num_dimensions": 512, "sparsity": sparsity, **measures}


def transfer(top1: float = 0.8125) -> dict[str, Any]:
    of_set: dict[str, Any] = {"top1": top1, "mean_per_class": 0.8, "num_seeds": 3, "validation_top1": 0.79}
    of_set["top1_interval"] = [top1 - 0.0125, top1 + 0.0125]
    return {
        "sets": {"flowers": of_set | {"num_trainval": 2040, "num_test": 6149, "num_unreadable": 3, "num_classes": 102}},
        "groups": {"small": {"top1": top1, "num_sets": 1, "num_sets_in_all": 8}},
        "log_odds_average": 1.4663,
    }


def embedded(page: str) -> Any:
    (text,) = re.findall(r'<script type="application/json" id="evaluation">(.*?)</script>', page)
    return json.loads(text)


def cells(page: str) -> list[list[str]]:
    """Return the text of all rows of all tables, with markup."""
    return [re.findall(r"<td>(.*?)</td>", row, re.DOTALL) for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)]


FULL = evaluated(
    sets={"digits": one_set(), "digits/noisy": one_set(0.5)}, representation=representation(), transfer=transfer()
)
BARE = evaluated("yours", sets={"digits": one_set(0.625)})


@pytest.mark.parametrize("make", [model_page, lambda one: side_by_side_page([one, BARE])], ids=["one", "several"])
def test_page_needs_no_other_file(make: Callable[[dict[str, Any]], str]):
    page = make(FULL)
    without_namespaces = re.sub(r' xmlns(:\w+)?="[^"]*"', "", page)
    assert "http:" not in without_namespaces
    assert "https:" not in without_namespaces
    assert "src=" not in page
    assert "@import" not in page
    assert all(link.startswith(("#", "data:")) for link in re.findall(r'href="([^"]*)"', page))
    assert all(link.startswith("#") for link in re.findall(r"url\(([^)]*)\)", page))


@pytest.mark.parametrize("make", [model_page, lambda one: side_by_side_page([one, one])], ids=["one", "several"])
def test_hostile_names_are_escaped(make: Callable[[dict[str, Any]], str]):
    sets = {HOSTILE: one_set(names=HOSTILE) | {"num_unreadable": 1, "unreadable": [HOSTILE]}}
    evaluation = evaluated(HOSTILE, sets, settings=HOSTILE, circumstances=dict.fromkeys(BARE["circumstances"], HOSTILE))
    evaluation["model"] |= {"templates": [HOSTILE], "augmentation": HOSTILE, "checkpoint": HOSTILE}
    evaluation["representation"] = representation() | {"set": HOSTILE}
    evaluation["transfer"] = transfer() | {"sets": {HOSTILE: transfer()["sets"]["flowers"]}}
    page = make(evaluation)
    assert "<img" not in page
    assert page.count("</script>") == page.count("<script")
    assert "&lt;img src=x onerror=alert(1)&gt;" in page


def test_page_holds_its_evaluation_as_json():
    evaluation = evaluated(HOSTILE)
    assert embedded(model_page(evaluation)) == evaluation


def test_page_states_model_and_environment():
    page = model_page(FULL)
    table = {row[0]: row[1] for row in cells(page) if len(row) == 2}
    assert table["trained on"] == "20,000 generated images, 80,000 uses"
    assert table["guidance scale"] == "1, 2.5"
    assert table["recipe"] == "1f82c32187e1"
    assert table["commit"] == "cbdc476"
    assert table["machine"] == "x86_64, 2 cores"
    assert "<h1>mine</h1>" in page
    assert "<pre>batch_size: 64\n</pre>" in page


def test_set_results_are_percentages_with_intervals():
    row = ["digits", "8", "2", "0", "0", "75.00%\n[62.50,\xa087.50]", "100.00%\n[90.00,\xa0100.00]", "71.25%"]
    assert [*row, "3.21%\n[1.00,\xa05.00]"] in cells(model_page(FULL))


def test_representation_and_transfer_are_shown_if_measured():
    table = cells(model_page(FULL))
    assert ["mine", "digits", "540", "512", "0.25", "0.8125", "0.125", "412.3"] in table
    assert ["flowers", "2,040", "6,149", "3", "102", "3", "79.00%", "81.25%\n[80.00,\xa082.50]", "80.00%"] in table
    assert "Average of the log-odds: 1.466." in model_page(FULL)
    assert "Representation" not in model_page(BARE)
    assert "Transfer" not in model_page(BARE)


def test_unreadable_images_are_named():
    broken = one_set() | {"num_unreadable": 2, "unreadable": ["a.png", "b&c.png"]}
    page = model_page(evaluated(sets={"digits": broken}))
    assert "<summary>Unreadable in digits: 2</summary>\n<pre>a.png\nb&amp;c.png</pre>" in page


def test_classes_without_images_are_not_shown():
    of_set = one_set()
    of_set["per_class"][0] |= {"num_images": 0, "num_top1": 0, "top1": None, "top5": None, "top1_interval": None}
    assert "Classes without images, not shown: 1." in model_page(evaluated(sets={"digits": of_set}))


def test_set_without_images_and_model_without_sets_have_pages():
    empty = one_set(num_classes=0) | {"per_class": [{"label": 0, "class_name": "a", "num_images": 0, "top1": None}]}
    assert "No class has images." in model_page(evaluated(sets={"digits": empty}))
    for page in (model_page(evaluated(sets={})), side_by_side_page([evaluated(sets={})])):
        assert "Robustness" not in page


def test_robustness_is_shown_for_two_points_or_more():
    for page in (model_page(BARE), side_by_side_page([BARE])):
        assert "Robustness" not in page
    for page in (model_page(FULL), side_by_side_page([FULL]), side_by_side_page([evaluated(), BARE])):
        assert "<h2>Robustness</h2>\n<svg" in page


def test_accuracy_over_training_images_is_plotted_for_two_models_or_more():
    without_plot = "fewer than two models with a known number of training images"
    assert without_plot in side_by_side_page([FULL])
    assert without_plot not in side_by_side_page([FULL, BARE])


def test_most_frequent_confusions_of_many_classes_are_listed():
    many = one_set(num_classes=101)
    many["confusions"].append({"label": 7, "predicted": 100, "num_images": 2})
    page = model_page(evaluated(sets={"big": many}))
    listed = [row for row in cells(page) if len(row) == 4]
    assert listed[0] == ["class 7", "class 100", "2", "50.00%"]
    assert listed[1] == ["class 0", "class 1", "1", "25.00%"]
    assert len(listed) == 25
    assert "The 25 worst and best of 101 classes." in page


def test_up_to_a_hundred_classes_have_a_matrix():
    page = model_page(evaluated(sets={"hundred": one_set(num_classes=100)}))
    assert "predicted as</text>" in page
    assert not [row for row in cells(page) if len(row) == 4]


def test_missing_results_are_dashes_side_by_side():
    table = cells(side_by_side_page([FULL, BARE]))
    assert ["mine", "75.00%\n[62.50,\xa087.50]", "50.00%\n[37.50,\xa062.50]"] in table
    assert ["yours", "62.50%\n[50.00,\xa075.00]", "-"] in table
    assert ["mine", "81.25%\n[80.00,\xa082.50]", "1.466"] in table
    assert ["yours", "-", "-"] in table
    assert ["yours", *7 * ["-"]] in table


@pytest.mark.parametrize("num_models", [1, 3, 8])
def test_page_compares_any_number_of_models(num_models: int):
    names = ["mine", *(f"other {i}" for i in range(1, num_models))]
    page = side_by_side_page([FULL, *map(evaluated, names[1:])])
    assert [row[0] for row in cells(page) if row[1:] and "75.00%" in row[1]][:num_models] == names
    assert all(f">{name}</text>" in page for name in names)


def test_sets_with_different_numbers_of_classes_have_no_best():
    page = side_by_side_page([evaluated(), evaluated("b", sets={"digits": one_set(num_classes=3)})])
    assert "<th>digits\n2 or 3 classes</th>" in page
    assert "<b>" not in page


def test_transfer_set_shows_its_split_if_known():
    drawn = transfer()
    drawn["sets"]["flowers"]["split"] = "drawn"
    one = evaluated("b", transfer=drawn)
    assert "<td>flowers\ndrawn split</td>" in model_page(one)
    assert "<th>flowers\ndrawn split</th>" in side_by_side_page([FULL, one])


def test_model_trained_on_real_images_has_no_row_of_prompts():
    real = evaluated("real")
    real["model"] |= {"trained_on": "real", "architecture": "resnet50"}
    table = {row[0]: row[1:] for row in cells(side_by_side_page([real, FULL])) if row}
    assert table["architecture"] == ["resnet50", "resnet18"]
    assert table["guidance scale"] == ["-", "1, 2.5"]
    assert table["templates"] == ["-", "a photo of a {}"]
    assert table["augmentation"] == ["crops", "crops"]
    assert table["recipe"] == ["1f82c32187e1", "1f82c32187e1"]
    assert table["date"] == ["2026-11-24", "2026-11-24"]


@pytest.mark.parametrize(("name", "num_top1", "has_note"), [("digits", 3, False), ("digits", 4, True)])
def test_confusions_note_other_accepted_labels(name: str, num_top1: int, has_note: bool):
    of_set = one_set()
    of_set["per_class"][0]["num_top1"] = num_top1
    assert ("By the image's original label" in model_page(evaluated(sets={name: of_set}))) == has_note


def test_confusions_note_reassessed_labels_despite_equal_counts():
    assert "By the image's original label" in model_page(evaluated(sets={"imagenet_real": one_set()}))


def test_classes_are_sorted_by_the_difference_between_first_and_last_model():
    last = one_set()
    last["per_class"][0]["top1"], last["per_class"][1]["top1"] = 1.0, 0.0
    table = cells(side_by_side_page([evaluated(), BARE, evaluated("last", sets={"digits": last})]))
    rows = [row for row in table if row and row[0].startswith("class ")]
    assert rows == [
        ["class 1", "4", "75.00%", "0.00%", "-75.00"],
        ["class 0", "4", "75.00%", "100.00%", "+25.00"],
    ]


def test_classes_of_different_label_spaces_match_by_unique_name():
    first, last = evaluated(), evaluated()
    last["model"]["label_space"] = "other"
    for one, names in ((first, ["crane", "crane", "cat"]), (last, ["cat", "crane", "dog"])):
        one["sets"]["digits"] = one_set(num_classes=3)
        for row, name in zip(one["sets"]["digits"]["per_class"], names, strict=True):
            row["class_name"] = name
    assert [(row["label"], other["label"]) for row, other in same_classes(first, last, "digits")] == [(2, 0)]


def test_classes_of_two_files_match_by_label_only_where_their_names_agree():
    first, last = evaluated(), evaluated()
    for one, names in ((first, ["cat", "dog", "fox"]), (last, ["cat", "fox", "dog"])):
        one["sets"]["digits"] = one_set(num_classes=3)
        for row, name in zip(one["sets"]["digits"]["per_class"], names, strict=True):
            row["class_name"] = name
    pairs = same_classes(first, last, "digits")
    assert [(row["label"], other["label"]) for row, other in pairs] == [(0, 0), (1, 2), (2, 1)]


def test_classes_with_the_same_name_match_by_label():
    one = evaluated(sets={"digits": one_set(num_classes=2)})
    for row in one["sets"]["digits"]["per_class"]:
        row["class_name"] = "crane"
    assert [(row["label"], other["label"]) for row, other in same_classes(one, one, "digits")] == [(0, 0), (1, 1)]


def test_no_class_differences_are_one_sentence():
    other = evaluated("other", sets={"digits": one_set(names="kind")})
    for last, sentence in ((BARE, "are equal in all 2 classes."), (other, "matches one of other by name.")):
        page = side_by_side_page([evaluated(), last])
        assert sentence in page
        assert "difference, points" not in page


def test_comparison_without_evaluations_is_refused():
    with pytest.raises(ValueError, match="0 evaluations"):
        side_by_side_page([])


def test_csv_has_a_line_per_model_and_set_in_full_precision():
    of_set = one_set(1 / 3) | {"top1_interval": (0.25, 0.5)}
    text = csv_text([FULL, evaluated('a, "b"', sets={"digits": of_set})])
    head, *rows = csv.reader(io.StringIO(text))
    assert head == CSV_HEAD
    assert rows[0] == ["mine", "digits", "8", "0.75", "0.625", "0.875", "1.0", "0.7125", "0.0321"]
    assert [row[:2] for row in rows] == [["mine", "digits"], ["mine", "digits/noisy"], ['a, "b"', "digits"]]
    assert float(rows[2][3]) == 1 / 3
    assert rows[2][4:6] == ["0.25", "0.5"]


def test_models_with_the_same_name_are_numbered():
    assert list(by_unique_name([evaluated(name) for name in ("a", "a", "a (2)", "a")])) == [
        "a",
        "a (2)",
        "a (2) (2)",
        "a (3)",
    ]


def of_hits(num_right: int, images: str = "the same") -> dict[str, Any]:
    """A hundred images, of which the first are correct."""
    hits = np.arange(100) < num_right
    table = {"num_images": 100, "images": images, "top1_hits": pack_hits(hits)}
    return one_set(num_right / 100) | table | {"top1_interval": wilson_interval(num_right, 100)}


def test_best_model_is_significantly_better_than_every_other():
    good, fair, near, elsewhere = of_hits(90), of_hits(80), of_hits(89), of_hits(50, "other images")
    assert best_of([good, of_hits(84)]) == 0
    assert best_of([good, of_hits(85)]) is None  # the interval excludes zero, but p is 2 / 2 ** 5
    assert best_of([fair, good]) == 1
    assert best_of([good, near, fair]) is None
    assert best_of([good, elsewhere]) is None
    assert best_of([good, one_set()]) is None  # from a version without hits
    assert best_of([good]) is None


def test_models_are_compared_on_the_same_images():
    pair = (evaluated("a", sets={"digits": of_hits(80)}), evaluated("b", sets={"digits": of_hits(90)}))
    table = cells(side_by_side_page(pair))
    # 10 of 100 images gained, none lost: 10/102 with a deviation of sqrt(11 - 100/102)/102; p is 2 / 2 ** 10
    assert ["b - a", "+10.00\n[3.72,\xa015.89]\np 0.002"] in table
    assert ["b", "<b>90.00%\n[82.56,\xa094.48]</b>"] in table


@pytest.mark.parametrize("make", [model_page, lambda one: side_by_side_page([one, BARE])], ids=["one", "several"])
def test_page_explains_the_transfer_interval(make: Callable[[dict[str, Any]], str]):
    assert "covers only the seeds" in make(FULL)
    assert "covers only the seeds" not in make(BARE)


def test_cells_are_text_and_some_bold():
    table = html_table(["<a>"], [["b"], ["&"]], bold={(1, 0)})
    assert "<th>&lt;a&gt;</th>" in table
    assert cells(table) == [[], ["b"], ["<b>&amp;</b>"]]


def test_none_is_a_dash():
    assert percent(None) == "-"
    assert percent(0.0) == "0.00%"
