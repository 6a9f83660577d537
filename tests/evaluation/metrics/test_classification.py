import json
from dataclasses import replace

import numpy as np
import pytest
from pydantic import TypeAdapter

from evaluation.metrics import classification
from evaluation.metrics.classification import Guesses, is_counted, measure, top1_hits
from evaluation.metrics.intervals import wilson_interval
from evaluation.result import Confusion, Measures

NAMES = ("ant", "bee", "cat", "dog")
FOUR = Guesses(
    labels=np.array([0, 0, 0, 1]),
    predictions=np.array([[0, 1], [0, 2], [1, 0], [2, 0]]),
    confidences=np.array([0.9, 0.9, 0.9, 0.3]),
)


def hit_or_miss(right: np.ndarray, confidences: np.ndarray | None = None) -> Guesses:
    """Return guesses for images of class 0: class 0 where `right` bool [N], else class 1."""
    confidences = np.full(len(right), 0.5) if confidences is None else confidences
    return Guesses(np.zeros(len(right), dtype=np.int64), np.where(right, 0, 1)[:, None], confidences)


def confusion(label: int, predicted: int, num_images: int) -> Confusion:
    return {"label": label, "predicted": predicted, "num_images": num_images}


def test_accuracies_of_four_images():
    measures = measure(FOUR, NAMES)
    assert (measures["num_images"], measures["num_without_label"]) == (4, 0)
    assert (measures["top1"], measures["top5"]) == (2 / 4, 3 / 4)


def test_classes_with_images_have_equal_weight():
    # ant 2 of 3, bee 0 of 1.
    assert measure(FOUR, NAMES)["mean_per_class_top1"] == pytest.approx((2 / 3 + 0) / 2)


def test_every_class_has_its_counts_and_one_without_images_has_no_accuracy():
    ant, bee, cat, dog = measure(FOUR, NAMES)["per_class"]
    assert (ant["label"], ant["class_name"], ant["num_images"], ant["num_top1"], ant["num_top5"]) == (0, "ant", 3, 2, 3)
    assert (ant["top1"], ant["top5"]) == (2 / 3, 1.0)
    assert (bee["num_images"], bee["top1"], bee["top5"], bee["top1_interval"]) == (1, 0.0, 0.0, wilson_interval(0, 1))
    assert (cat["num_images"], cat["top1"], cat["top5"], cat["top1_interval"]) == (0, None, None, None)
    assert dog["class_name"] == "dog"


def test_confusions_hold_the_pairs_that_occur_and_the_diagonal():
    shuffled = Guesses(FOUR.labels[::-1], FOUR.predictions[::-1], FOUR.confidences[::-1])
    expected = [confusion(0, 0, 2), confusion(0, 1, 1), confusion(1, 2, 1)]
    assert measure(FOUR, NAMES)["confusions"] == measure(shuffled, NAMES)["confusions"] == expected


def test_top5_counts_the_fifth_guess():
    guesses = np.array([[0, 1, 2, 3, 4]])
    assert measure(Guesses(np.array([4]), guesses, np.array([0.5])), "abcdef")["top5"] == 1.0
    assert measure(Guesses(np.array([5]), guesses, np.array([0.5])), "abcdef")["top5"] == 0.0


def test_calibration_error_of_four_images():
    # Three images at 0.9, two of them right: |2/3 - 0.9| = 0.7/3. One at 0.3, wrong: 0.3.
    measures = measure(FOUR, NAMES)
    assert measures["ece"] == pytest.approx(3 / 4 * 0.7 / 3 + 1 / 4 * 0.3)
    low, high = measures["calibration"]
    assert low == {"confidence": 0.3, "accuracy": 0.0, "num_images": 1}
    assert (high["confidence"], high["accuracy"], high["num_images"]) == (pytest.approx(0.9), 2 / 3, 3)


def test_errors_of_one_bin_cancel_and_those_of_two_bins_do_not():
    right = np.array([True, False])
    assert measure(hit_or_miss(right, np.array([0.5, 0.5])), NAMES)["ece"] == 0.0
    assert measure(hit_or_miss(right, np.array([0.5, 0.25])), NAMES)["ece"] == (0.5 + 0.25) / 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bin_holds_its_upper_edge_and_the_first_one_zero(dtype: type):
    # 0 and 1/16 | 1/2 and 8/15 | 9/16 | 1; in single precision 8/15 is 0.53333336, beyond its edge.
    confidences = np.array([0.0, 1 / 16, 1 / 2, 8 / 15, 9 / 16, 1.0], dtype=dtype)
    bins = measure(hit_or_miss(np.ones(6, dtype=bool), confidences), NAMES)["calibration"]
    assert [of_bin["num_images"] for of_bin in bins] == ([2, 1, 2, 1] if dtype == np.float32 else [2, 2, 1, 1])


def test_interval_of_a_perfect_score_has_a_lower_bound():
    always = measure(hit_or_miss(np.ones(9, dtype=bool), np.full(9, 0.75)), NAMES)
    assert always["top1_interval"] == always["top5_interval"] == pytest.approx((0.7009, 1.0), abs=1e-4)
    assert always["ece_interval"] == (0.25, 0.25)


def test_class_has_wilsons_interval():
    measures = measure(hit_or_miss(np.arange(100) < 50), NAMES)
    assert measures["per_class"][0]["top1_interval"] == measures["top1_interval"] == wilson_interval(50, 100)


def test_hits_cover_only_counted_images():
    guesses = replace(FOUR, accepted_labels=[np.array([0]), np.array([], dtype=np.int64), np.array([1]), np.array([1])])
    assert is_counted(guesses).tolist() == [True, False, True, True]
    first = FOUR.predictions[:, 0]
    assert top1_hits(guesses).tolist() == [first[0] == 0, first[2] == 1, first[3] == 1]
    assert top1_hits(FOUR).tolist() == (first == FOUR.labels).tolist()


def test_calibration_interval_matches_resampling(monkeypatch: pytest.MonkeyPatch):
    random = np.random.default_rng(5)
    confidences = random.random(200)
    right = random.random(200) < confidences**2
    measures = measure(hit_or_miss(right, confidences), NAMES)
    monkeypatch.setattr(classification, "NUM_RESAMPLES", 1)
    draws = (random.integers(200, size=200) for _ in range(2000))
    again = [measure(hit_or_miss(right[drawn], confidences[drawn]), NAMES) for drawn in draws]
    ece = np.percentile([each["ece"] for each in again], [2.5, 97.5])
    # Both are random: they differ by at most three images of 200.
    assert measures["ece_interval"] == pytest.approx(ece, abs=0.015)
    assert measures["ece_interval"][0] < measures["ece"] < measures["ece_interval"][1]


def test_seed_only_affects_intervals():
    guesses = hit_or_miss(np.arange(300) < 100, np.linspace(0, 1, 300))
    first, other = measure(guesses, NAMES, seed=1), measure(guesses, NAMES, seed=2)
    assert first == measure(guesses, NAMES, seed=1)
    assert first["ece_interval"] != other["ece_interval"]
    assert (first["top1"], first["ece"], first["confusions"]) == (other["top1"], other["ece"], other["confusions"])


def test_any_accepted_label_is_correct():
    guesses = Guesses(
        labels=np.array([0, 1, 2]),
        predictions=np.array([[1, 0], [1, 0], [0, 2]]),
        confidences=np.array([0.6, 0.1, 0.6]),
        accepted_labels=[np.array([2, 1]), np.array([]), np.array([2])],
    )
    measures = measure(guesses, NAMES)
    assert (measures["num_images"], measures["num_without_label"]) == (2, 1)
    assert (measures["top1"], measures["top5"]) == (1 / 2, 1.0)
    assert measures["ece"] == pytest.approx(0.6 - 1 / 2)
    # By the original label: the ant was predicted as a bee, which is also accepted.
    assert [row["num_images"] for row in measures["per_class"]] == [1, 0, 1, 0]
    assert [row["top1"] for row in measures["per_class"]] == [1.0, None, 0.0, None]
    assert measures["confusions"] == [confusion(0, 1, 1), confusion(2, 0, 1)]


def test_original_label_is_wrong_where_it_is_not_accepted():
    guesses = replace(hit_or_miss(np.array([True])), accepted_labels=(np.array([3]),))
    assert measure(guesses, NAMES)["top5"] == 0.0


def test_accepting_the_original_label_alone_changes_nothing():
    accepted = [np.array([label]) for label in FOUR.labels]
    assert measure(replace(FOUR, accepted_labels=accepted), NAMES) == measure(FOUR, NAMES)


def test_only_shared_classes_are_listed():
    whole, part = measure(FOUR, NAMES), measure(FOUR, NAMES, shared_labels=np.array([2, 1, 0]))
    assert [row["label"] for row in part["per_class"]] == [0, 1, 2]
    assert {**part, "per_class": whole["per_class"]} == whole


def test_set_results_survive_a_round_trip_to_json():
    measures = measure(FOUR, NAMES)
    assert TypeAdapter(Measures).validate_json(json.dumps(measures)) == measures
    assert measures["calibration"][0] == {"confidence": 0.3, "accuracy": 0.0, "num_images": 1}
    assert measures["confusions"][2] == {"label": 1, "predicted": 2, "num_images": 1}
    assert measures["per_class"][2] == {
        "label": 2,
        "class_name": "cat",
        "num_images": 0,
        "num_top1": 0,
        "num_top5": 0,
        "top1": None,
        "top5": None,
        "top1_interval": None,
    }


def test_no_images_have_no_accuracy():
    with pytest.raises(ValueError, match="no images"):
        hit_or_miss(np.zeros(0, dtype=bool))
    with pytest.raises(ValueError, match="no images with a label"):
        measure(replace(FOUR, accepted_labels=[np.array([])] * 4), NAMES)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"labels": np.array([[0, 0, 0, 1]])}, r"labels has shape \[1, 4\]"),
        ({"labels": np.array([0.0, 0.0, 0.0, 1.0])}, "labels .* type float64"),
        ({"labels": np.array([0, 0, -1, 1])}, "labels has the value -1"),
        ({"predictions": np.array([0, 0, 1, 2])}, r"predictions has shape \[4\]"),
        ({"predictions": np.zeros((3, 5), dtype=np.int64)}, r"predictions has shape \[3, 5\]"),
        ({"predictions": np.zeros((4, 0), dtype=np.int64)}, r"shape \[4, 0\] and type int64; expected \[4, 1\]"),
        ({"predictions": np.zeros((4, 6), dtype=np.int64)}, r"shape \[4, 6\] and type int64; expected \[4, 5\]"),
        ({"confidences": np.full(3, 0.5)}, r"confidences has shape \[3\]"),
        ({"confidences": np.ones(4, dtype=np.int64)}, "confidences .* type int64"),
        ({"confidences": np.array([0.5, 1.5, 0.5, 0.5])}, "confidences has the value 1.5; use softmax outputs, 0 to 1"),
        ({"confidences": np.array([0.5, np.nan, 0.5, 0.5])}, "confidences has the value nan"),
        ({"accepted_labels": [np.array([1])] * 3}, "accepted_labels has 3 arrays for 4 images"),
        ({"accepted_labels": [np.array([1])] * 3 + [np.array([[1]])]}, r"accepted_labels\[3\] has shape \[1, 1\]"),
        ({"accepted_labels": [np.array([0.5])] * 4}, r"accepted_labels\[0\] .* type float64"),
        ({"accepted_labels": [np.array([1, -1])] * 4}, r"accepted_labels\[0\] has the value -1"),
    ],
)
def test_inconsistent_guesses_are_refused(wrong: dict[str, np.ndarray], message: str):
    with pytest.raises(ValueError, match=message):
        replace(FOUR, **wrong)


def test_labels_outside_the_shared_ones_are_refused():
    with pytest.raises(ValueError, match="labels has the label 1, which is not among the 2"):
        measure(FOUR, NAMES, shared_labels=np.array([0, 2]))
    with pytest.raises(ValueError, match="predictions has the label 2, which is not among the 2"):
        measure(FOUR, NAMES[:2])
    with pytest.raises(ValueError, match="shared_labels has the label 4, which is not among the 4"):
        measure(FOUR, NAMES, shared_labels=np.array([0, 4]))
    with pytest.raises(ValueError, match="accepted_labels has the label 9, which is not among the 4"):
        measure(replace(FOUR, accepted_labels=[np.array([9])] * 4), NAMES)
