"""The page of a judgement, on features worked out by hand."""

import re

import numpy as np

from evaluation.metrics.likeness import Judged, judgement
from evaluation.pages.judgement_page import judgement_page

LABELS = np.array([0, 0, 0, 1, 1, 1])
NAMES = ("zero", "one")
REAL = Judged(LABELS, np.array([[0.0], [1.0], [3.0], [10.0], [11.0], [13.0]]), np.array([0, 0, 1, 1, 1, 1]))


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
