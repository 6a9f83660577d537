"""What of an evaluation is worked out again when it is asked for again."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluation import evaluate
from evaluation.config import EvaluationConfig
from evaluation.evaluate import TransferImages, transfer, unknown_digits
from evaluation.kept_outputs import ROW, KeptOutputs
from evaluation.outputs import Outputs
from evaluation.real_sets import RealSet
from evaluation.transfer import Transfer
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

    def fitted(trainval: evaluate.Labelled, *_: object) -> Transfer:
        fits.append(len(trainval.labels))
        return replace(FOUND, top1=0.25 * len(fits))

    monkeypatch.setattr(evaluate, "fitted", fitted)
    digits = unknown_digits(LabelSpace("birds", (ClassEntry("auk"), ClassEntry("owl"))))

    def top1(features: dict[RealSet, Outputs]) -> float:
        told = transfer([digits], features, EvaluationConfig(), tmp_path, lambda _: None)
        assert told["sets"]["digits"]["mean_per_class"] == 0.5
        return told["sets"]["digits"]["top1"]

    features = features_of(digits, tmp_path / "whole")
    assert [top1(features), top1(features)] == [0.25, 0.25]
    assert top1(features_of(digits, tmp_path / "less", num_left_out=1)) == 0.5
    shutil.rmtree(tmp_path / "whole")
    assert top1(features_of(digits, tmp_path / "whole")) == 0.75
    assert fits == [1257, 1256, 1257]
