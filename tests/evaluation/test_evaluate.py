"""What of an evaluation is worked out again when it is asked for again."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from evaluation import transfers
from evaluation.config import EvaluationConfig
from evaluation.evaluate import unknown_digits
from evaluation.kept_outputs import ROW, KeptOutputs
from evaluation.outputs import Outputs
from evaluation.real_sets import RealSet
from evaluation.transfer import Labelled, Transfer
from evaluation.transfers import TransferImages, group_means, over_seeds, transfer
from generation.labels import ClassEntry, LabelSpace

FOUND = Transfer(0.75, 0.5, 10.0, 0.0, 0.9, 1257, 540, 10)


def features_of(digits: TransferImages, folder: Path, num_left_out: int = 0) -> dict[RealSet, Outputs]:
    """Keep features of one number each, and return them; the last images may be unreadable."""
    outputs = {}
    for images in (digits.trainval, digits.test):
        rows = np.arange(images.num_images - num_left_out)
        kept = KeptOutputs(folder / images.name.replace("/", "-"), images.num_images)
        kept.open({})
        kept.add({ROW: rows, "feature": rows[:, None].astype(np.float32)})
        kept.flush()
        outputs[images] = Outputs(kept, rows, ())
    return outputs


def test_a_fit_of_the_same_features_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fits: list[int] = []

    def started(sets: tuple[Labelled, Labelled], *_: object) -> Transfer:
        fits.append(len(sets[0].labels))
        return replace(FOUND, top1=0.25 * len(fits))

    monkeypatch.setattr(transfers, "started", started)
    ray: Any = SimpleNamespace(put=lambda sets: sets, get=lambda found: found, wait=lambda refs: (refs[:1], refs[1:]))
    monkeypatch.setattr(transfers, "ray", ray)
    digits = unknown_digits(LabelSpace("birds", (ClassEntry("auk"), ClassEntry("owl"))))

    def top1(features: dict[RealSet, Outputs]) -> float:
        told = transfer([digits], features, EvaluationConfig(transfer_seeds=(0,)), tmp_path, lambda _: None)
        assert told["sets"]["digits"]["mean_per_class"] == 0.5
        return told["sets"]["digits"]["top1"]

    features = features_of(digits, tmp_path / "whole")
    assert [top1(features), top1(features)] == [0.25, 0.25]
    assert top1(features_of(digits, tmp_path / "less", num_left_out=1)) == 0.5
    shutil.rmtree(tmp_path / "whole")
    assert top1(features_of(digits, tmp_path / "whole")) == 0.75
    assert fits == [1257, 1256, 1257]


def test_what_several_seeds_found_is_their_mean_with_students_interval():
    told = over_seeds([replace(FOUND, top1=top1) for top1 in (0.7, 0.8, 0.9)])
    assert told["top1"] == pytest.approx(0.8)
    assert told["top1_interval"] == pytest.approx((0.8 - 0.2484, 0.8 + 0.2484), abs=1e-4)  # 4.303 * 0.1 / sqrt(3)
    assert (told["num_seeds"], [each["top1"] for each in told["seeds"]]) == (3, [0.7, 0.8, 0.9])
    assert over_seeds([FOUND])["top1_interval"] is None


def test_sets_of_a_group_have_a_mean_that_says_of_how_many():
    told = {"dtd": {"top1": 0.5}, "pets": {"top1": 0.7}, "inat2019": {"top1": 0.2}, "digits": {"top1": 0.9}}
    assert group_means(told) == {
        "small": {"top1": pytest.approx(0.6), "num_sets": 2, "num_sets_in_all": 8},
        "iNaturalist": {"top1": 0.2, "num_sets": 1, "num_sets_in_all": 2},
    }
