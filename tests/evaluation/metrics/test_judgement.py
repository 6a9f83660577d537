"""What a judge makes of generated images, on features worked out by hand."""

import re

import numpy as np
import pytest

from evaluation.metrics.judgement import Judged, judgement
from evaluation.pages.judgement_page import judgement_page

LABELS = np.array([0, 0, 0, 1, 1, 1])
NAMES = ("zero", "one")
REAL = Judged(LABELS, np.array([[0.0], [1.0], [3.0], [10.0], [11.0], [13.0]]), np.array([0, 0, 1, 1, 1, 1]))


def test_recognised_is_the_share_of_a_class_that_the_judge_takes_for_it():
    assert REAL.recognised() == pytest.approx(5 / 6)
    assert (REAL.recognised(0), REAL.recognised(1)) == (pytest.approx(2 / 3), 1.0)


def test_a_copy_of_the_real_images_is_as_diverse_and_covers_all():
    told = judgement(REAL, REAL, NAMES, num_neighbours=1)
    overall = told["overall"]
    assert (overall["precision"], overall["recall"], overall["coverage"]) == (1.0, 1.0, 1.0)
    assert overall["frechet_distance"] == pytest.approx(0.0, abs=1e-9)
    assert overall["diversity"] == overall["real_diversity"] == pytest.approx(2.0)  # of 1, 2 and 3 in each class
    assert overall["recognised"] == overall["real_recognised"] == pytest.approx(5 / 6)
    assert [(row["class_name"], row["num_real"]) for row in told["per_class"]] == [("zero", 3), ("one", 3)]


def test_images_of_one_kind_are_precise_and_cover_little():
    same = Judged(LABELS, np.array([[1.0], [1.0], [1.0], [11.0], [11.0], [11.0]]), LABELS)
    overall = judgement(REAL, same, NAMES, num_neighbours=1)["overall"]
    assert (overall["precision"], overall["diversity"], overall["recognised"]) == (1.0, 0.0, 1.0)
    assert overall["coverage"] < 0.5


def test_the_page_says_which_classes_are_covered_least_first():
    half = Judged(LABELS, np.array([[0.0], [1.0], [3.0], [99.0], [99.0], [99.0]]), LABELS)
    told = {
        "facts": {"judge": "a <b>"},
        "circumstances": {"commit": "cbdc476"},
        "judgement": judgement(REAL, half, NAMES, num_neighbours=1),
    }
    page = judgement_page(told)
    assert '<div class="text facts"><div class="wide"><table><tbody><tr><td>judge</td><td>a &lt;b&gt;</td>' in page
    assert page.index(">one<") < page.index(">zero<")


def test_the_page_has_a_name_in_each_row_and_counts_with_their_thousands_apart():
    found = judgement(REAL, REAL, NAMES, num_neighbours=1)
    found["overall"] |= {"num_generated": 20000, "num_real": 1257}
    page = judgement_page({"facts": {}, "circumstances": {}, "judgement": found})
    first, *_ = (re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(<td>.*?)</tr>", page))
    assert first[0] == "all 2"
    assert first[-2:] == ["20,000", "1,257"]
    for head in re.findall(r"<thead>(.*?)</thead>", page):
        assert head.count("<th>") == len(first)
