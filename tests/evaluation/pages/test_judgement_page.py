"""Page of a quality report, for features calculated by hand."""

import re

import numpy as np

from evaluation.metrics.likeness import ClassifiedImages, quality_report
from evaluation.pages.judgement_page import quality_page

LABELS = np.array([0, 0, 0, 1, 1, 1])
NAMES = ("zero", "one")
REAL = ClassifiedImages(LABELS, np.array([[0.0], [1.0], [3.0], [10.0], [11.0], [13.0]]), np.array([0, 0, 1, 1, 1, 1]))


def test_classes_are_sorted_by_coverage():
    half = ClassifiedImages(LABELS, np.array([[0.0], [1.0], [3.0], [99.0], [99.0], [99.0]]), LABELS)
    results = {
        "facts": {"judge": "a <b>"},
        "circumstances": {"commit": "cbdc476"},
        "judgement": quality_report(REAL, half, NAMES, num_neighbours=1),
    }
    page = quality_page(results)
    assert '<div class="text facts"><div class="wide"><table><tbody><tr><td>judge</td><td>a &lt;b&gt;</td>' in page
    assert page.index(">one<") < page.index(">zero<")


def test_rows_have_names_and_counts_have_thousands_separators():
    found = quality_report(REAL, REAL, NAMES, num_neighbours=1)
    found["overall"] |= {"num_generated": 20000, "num_real": 1257}
    page = quality_page({"facts": {}, "circumstances": {}, "judgement": found})
    first, *_ = (re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(<td>.*?)</tr>", page))
    assert first[0] == "all 2"
    assert first[-2:] == ["20,000", "1,257"]
    for head in re.findall(r"<thead>(.*?)</thead>", page):
        assert head.count("<th>") == len(first)
