import numpy as np
import pytest

from evaluation.metrics import HitCounts
from evaluation.report import evaluation_json

LABELS = np.array([0, 0, 1, 2])
GUESSES = np.array([[0, 1, 2], [1, 0, 2], [1, 2, 0], [0, 1, 2]])


def test_hits_by_class_are_as_counted_by_hand():
    counts = HitCounts.of(LABELS, GUESSES, num_classes=4)
    assert counts.num_images.tolist() == [2, 1, 1, 0]
    assert counts.num_top1.tolist() == [1, 1, 0, 0]
    assert counts.top1 == 2 / 4
    assert counts.top5 == 1.0


def test_the_fifth_guess_counts_for_top5_and_the_sixth_does_not():
    guesses = np.array([[0, 1, 2, 3, 4, 5]])
    assert HitCounts.of(np.array([4]), guesses, 6).top5 == 1.0
    assert HitCounts.of(np.array([5]), guesses, 6).top5 == 0.0


def test_batches_add_up_to_the_whole():
    whole = HitCounts.of(LABELS, GUESSES, 4)
    parts = HitCounts.none(4) + HitCounts.of(LABELS[:1], GUESSES[:1], 4) + HitCounts.of(LABELS[1:], GUESSES[1:], 4)
    assert parts.num_top1.tolist() == whole.num_top1.tolist()
    assert parts.top1 == whole.top1


def test_no_images_have_no_accuracy():
    with pytest.raises(ValueError, match="no images"):
        HitCounts.none(3).top1  # noqa: B018


def test_the_report_gives_null_for_a_class_without_images():
    report = evaluation_json(HitCounts.of(LABELS, GUESSES, 4), ("a", "b", "c", "d"), "digits")
    assert report["num_real_images"] == 4
    assert [row["top1"] for row in report["per_class"]] == [0.5, 1.0, 0.0, None]
    assert [row["top5"] for row in report["per_class"]] == [1.0, 1.0, 1.0, None]
