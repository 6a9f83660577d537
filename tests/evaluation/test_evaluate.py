"""Caching of transfer results."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.exceptions import RayTaskError

from evaluation.config import EvaluationConfig
from evaluation.evaluate import unknown_digits
from evaluation.images.real_sets import RealSet
from evaluation.images.transfer_sets import TransferSet
from evaluation.inference import transfers
from evaluation.inference.output_cache import ROW, OutputCache
from evaluation.inference.outputs import Outputs
from evaluation.inference.trained_model import EvaluationError
from evaluation.inference.transfers import group_means, mean_over_seeds, transfer
from evaluation.metrics.transfer import LabeledFeatures, Transfer
from generation.recipes.labels import ClassEntry, LabelSpace

FOUND = Transfer(
    top1=0.75,
    mean_per_class=0.5,
    C=10.0,
    learning_rate=0.0,
    validation_top1=0.9,
    num_trainval=1257,
    num_test=540,
    num_classes=10,
)


def of_seed(top1: float) -> Transfer:
    """Return a result with another top-1."""
    return Transfer(**{**FOUND, "top1": top1})


@dataclass(frozen=True, eq=False)
class Reference:
    """Stands in for a Ray reference to a task's result or error."""

    found: Any


def features_of(digits: TransferSet, folder: Path, num_left_out: int = 0) -> dict[RealSet, Outputs]:
    """Cache one-dimensional features and return them; the last images may be missing."""
    outputs = {}
    for images in (digits.trainval, digits.test):
        rows = np.arange(images.num_images - num_left_out)
        kept = OutputCache(folder / images.name.replace("/", "-"), images.num_images)
        kept.open({})
        kept.add({ROW: rows, "feature": rows[:, None].astype(np.float32)})
        kept.flush()
        outputs[images] = Outputs(kept, rows, ())
    return outputs


class RayInProcess:
    """Stands in for Ray; tasks end immediately."""

    def __init__(self, num_cores: int = 2) -> None:
        self.num_cores, self.events = num_cores, []

    def put(self, sets: tuple[LabeledFeatures, LabeledFeatures]) -> tuple[LabeledFeatures, LabeledFeatures]:
        self.events.append(f"put {len(sets[0].labels)}")
        return sets

    def wait(self, references: list[Any]) -> tuple[list[Any], list[Any]]:
        return references[:1], references[1:]

    def get(self, reference: Reference) -> Transfer:
        self.events.append("get")
        if isinstance(reference.found, Exception):
            raise reference.found
        return reference.found

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(self.num_cores)}


def of_a_task(error: Exception) -> Exception:
    """Return the driver's error for an error in a task."""
    return RayTaskError("fit_in_task", "a trace", error).as_instanceof_cause()


def birds() -> LabelSpace:
    return LabelSpace("birds", (ClassEntry("auk"), ClassEntry("owl")))


def test_cached_fit_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fits: list[int] = []

    def start_fit(sets: tuple[LabeledFeatures, LabeledFeatures], *_: object) -> Reference:
        fits.append(len(sets[0].labels))
        return Reference(of_seed(0.25 * len(fits)))

    monkeypatch.setattr(transfers, "start_fit", start_fit)
    monkeypatch.setattr(transfers, "ray", RayInProcess())
    digits = unknown_digits(birds())

    def top1(features: dict[RealSet, Outputs]) -> float:
        results = transfer([digits], features, EvaluationConfig(transfer_seeds=(0,)), tmp_path, lambda _: None)
        assert results["sets"]["digits"]["mean_per_class"] == 0.5
        return results["sets"]["digits"]["top1"]

    features = features_of(digits, tmp_path / "whole")
    assert [top1(features), top1(features)] == [0.25, 0.25]
    assert top1(features_of(digits, tmp_path / "less", num_left_out=1)) == 0.5
    shutil.rmtree(tmp_path / "whole")
    assert top1(features_of(digits, tmp_path / "whole")) == 0.75
    assert fits == [1257, 1256, 1257]


@pytest.mark.parametrize(
    ("error", "kind", "line"),
    [
        (
            of_a_task(ValueError("One class is too few. Add one.")),
            EvaluationError,
            "Transfer to digits with seed 0: One class is too few. Add one. Finished fits are kept.",
        ),
        (of_a_task(KeyError("C")), RayTaskError, "a trace"),
    ],
)
def test_other_fits_are_cached_when_one_fails(
    error: Exception, kind: type[Exception], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fitted_seeds: list[int] = []
    found: dict[int, Any] = {0: error, 1: of_seed(0.25), 2: FOUND}

    def start_fit(_sets: object, _solver: object, seed: int, _config: object) -> Reference:
        fitted_seeds.append(seed)
        return Reference(found[seed])

    monkeypatch.setattr(transfers, "start_fit", start_fit)
    monkeypatch.setattr(transfers, "ray", RayInProcess())
    digits = unknown_digits(birds())
    features = features_of(digits, tmp_path / "features")
    with pytest.raises(kind) as raised:
        transfer([digits], features, EvaluationConfig(), tmp_path, lambda _: None)
    assert str(raised.value).endswith(line)
    found[0] = of_seed(0.5)
    results = transfer([digits], features, EvaluationConfig(), tmp_path, lambda _: None)
    assert results["sets"]["digits"]["top1"] == 0.5  # of 0.5, 0.25 and 0.75
    assert fitted_seeds == [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("num_cores", "events"),
    [(1, ["put 1257", "get", "get", "put 1257", "get", "get"]), (3, ["put 1257", "put 1257", *4 * ["get"]])],
)
def test_features_are_read_when_a_core_is_free_for_them(
    num_cores: int, events: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ray = RayInProcess(num_cores)
    monkeypatch.setattr(transfers, "start_fit", lambda *_: Reference(FOUND))
    monkeypatch.setattr(transfers, "ray", ray)
    digits = unknown_digits(birds())
    both = [digits, replace(digits, name="others")]
    features = features_of(digits, tmp_path / "features")
    transfer(both, features, EvaluationConfig(transfer_seeds=(0, 1)), tmp_path, lambda _: None)
    assert ray.events == events


def test_seeds_are_averaged_with_students_interval():
    results = mean_over_seeds([of_seed(top1) for top1 in (0.5, 0.6, 0.7)])
    assert results["top1"] == pytest.approx(0.6)
    assert results["top1_interval"] == pytest.approx((0.6 - 0.2484, 0.6 + 0.2484), abs=1e-4)  # 4.303 * 0.1 / sqrt(3)
    assert (results["num_seeds"], [each["top1"] for each in results["seeds"]]) == (3, [0.5, 0.6, 0.7])
    assert mean_over_seeds([FOUND])["top1_interval"] is None


def test_group_means_state_the_number_of_sets():
    results: Any = {"dtd": {"top1": 0.5}, "pets": {"top1": 0.7}, "inat2019": {"top1": 0.2}, "digits": {"top1": 0.9}}
    assert group_means(results) == {
        "small": {"top1": pytest.approx(0.6), "num_sets": 2, "num_sets_in_all": 8},
        "iNaturalist": {"top1": 0.2, "num_sets": 1, "num_sets_in_all": 2},
    }
