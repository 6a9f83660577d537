"""Outputs of a classifier: for every image, once, and the same as in a single process."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torchvision import transforms

from evaluation.config import EvaluationConfig
from evaluation.images.real_sets import RealSet, open_set
from evaluation.inference import output_cache
from evaluation.inference.network import KINDS, Kinds
from evaluation.inference.outputs import Outputs, infer_sets, open_cached, same_images
from generation.recipes.labels import ClassEntry, LabelSpace
from generation.shards.storage import StorageError
from tests.support.models import untrained, untrained_checkpoint
from training.model.classifier import load_classifier

BIRDS = LabelSpace("birds", (ClassEntry("auk"), ClassEntry("puffin"), ClassEntry("owl")))
IN_ODD_PARTS = EvaluationConfig(batch_size=7, num_readers=3, num_actors=2, allow_missing_classes=True)
ALONE = EvaluationConfig(batch_size=16, num_readers=1)


def write_photos(folder: Path, **counts: int) -> Path:
    """Write the given number of small, different JPEGs of each class."""
    random = np.random.default_rng(0)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            colours = Image.fromarray(random.integers(0, 255, (3, 4, 3), dtype=np.uint8))
            colours.resize((48, 40), Image.Resampling.BICUBIC).save(folder / name / f"{i:02}.JPEG")
    return folder


def birds(folder: Path, name: str = "birds") -> RealSet:
    return open_set(name, replace(IN_ODD_PARTS, paths={name: str(folder)}), BIRDS)


def run_inference(
    sets: Sequence[RealSet], folder: Path, config: EvaluationConfig, kinds: Kinds = KINDS
) -> tuple[list[Outputs], list[str]]:
    """Return the outputs for sets, and the log lines."""
    log: list[str] = []
    outputs = infer_sets(dict.fromkeys(sets, kinds), untrained(), config, folder, log.append)
    return [outputs[images] for images in sets], log


def outputs_alone(images: RealSet, among: list[int]) -> dict[str, np.ndarray]:
    """Return the classifier's outputs for a set's images, one after another in this process."""
    network = load_classifier(untrained_checkpoint())
    to_square = transforms.Compose([transforms.Resize(37), transforms.CenterCrop(32)])
    pixels = [torch.tensor(np.asarray(to_square(Image.open(name)))) for name in images.source.names()]
    with torch.inference_mode():
        features, logits = zip(*(network.features_and_logits(each[None]) for each in pixels), strict=True)
    best = torch.cat(logits)[:, among].softmax(dim=1).sort(dim=1, descending=True)
    return {
        "row": np.arange(images.num_images),
        "prediction": np.array(among)[best.indices.numpy()],
        "confidence": best.values[:, 0].numpy(),
        "feature": torch.cat(features).numpy(),
    }


def all_of(outputs: Outputs) -> dict[str, np.ndarray]:
    return {"row": outputs.rows} | {name: outputs.read(name) for name in ("prediction", "confidence", "feature")}


def check(outputs: Outputs, expected: dict[str, np.ndarray], atol: float = 1e-5) -> None:
    """Compare with tolerance: batches of other sizes may sum in another order."""
    np.testing.assert_array_equal(outputs.rows, expected["row"])
    for name in expected.keys() - {"row"}:
        column = expected[name]
        np.testing.assert_allclose(outputs.read(name), column, rtol=1e-4, atol=atol if column.dtype.kind == "f" else 0)


def test_images_of_two_sets_are_processed_once(photos: Path, tmp_path: Path):
    named, relabelled, two = birds(photos), birds(photos), birds(write_photos(tmp_path / "two", auk=5, owl=6))
    wanted: dict[RealSet, Kinds] = {named: ("guesses",), two: ("guesses",), relabelled: ("features", "guesses")}
    groups = same_images(wanted, untrained())
    assert groups == [[named, relabelled], [two]]
    requests = [open_cached(group, wanted, untrained(), ALONE, tmp_path / "outputs").request for group in groups]
    assert [(each.kinds, each.among) for each in requests] == [(KINDS, []), (("guesses",), [0, 2])]
    assert sorted(path.name[:-13] for path in (tmp_path / "outputs").iterdir()) == [
        f"{photos.name}-guesses-features",
        "two-guesses",
    ]


def test_different_crops_are_processed_separately(photos: Path):
    as_squares = replace(birds(photos), center_crop=False)
    assert len(same_images({birds(photos): KINDS, as_squares: KINDS}, untrained())) == 2


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images, not divisible by 7, with a different number in each class."""
    return write_photos(tmp_path_factory.mktemp("birds"), auk=25, owl=18, puffin=17)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.nightly
def test_outputs_match_a_single_process(photos: Path, tmp_path: Path):
    sets = [birds(photos), birds(write_photos(tmp_path / "two", auk=5, owl=6), "auks and owls")]
    (of_all, of_two), log = run_inference(sets, tmp_path / "outputs", IN_ODD_PARTS)
    check(of_all, outputs_alone(sets[0], [0, 1, 2]))
    check(of_two, outputs_alone(sets[1], [0, 2]))
    assert len(set(of_all.read("prediction")[:, 0])) > 1
    assert (of_all.unreadable, of_two.unreadable, log) == ((), (), [])


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.nightly
def test_only_missing_outputs_are_computed(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(output_cache, "PART_BYTES", 1)  # a file for each unit
    folder = Path(shutil.copytree(photos, tmp_path / "birds"))
    images, kept = birds(folder), tmp_path / "outputs"
    (first,), _ = run_inference([images], kept, ALONE)
    parts = sorted(kept.glob("birds-*/part-*.parquet"))
    assert len(parts) == 4  # of 16, 16, 16 and 12
    for part in parts[:2]:
        part.unlink()
    still_kept = [row for part in parts[2:] for row in pq.read_table(part)["row"].to_pylist()]
    for row in still_kept:
        Path(images.source.names()[row]).unlink()
    (again,), log = run_inference([images], kept, replace(ALONE, batch_size=5))
    check(again, all_of(first))
    assert log == [f"birds: {len(still_kept)} of 60 images are already cached"]
    shutil.rmtree(folder)
    (once_more,), log = run_inference([images], kept, ALONE)
    check(once_more, all_of(again), atol=0)
    assert log == []


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.nightly
def test_damaged_images_are_skipped_until_repaired(photos: Path, tmp_path: Path):
    folder = Path(shutil.copytree(photos, tmp_path / "birds"))
    damaged = [folder / "auk" / "03.JPEG", folder / "puffin" / "16.JPEG"]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:300])
    images, kept = birds(folder), tmp_path / "outputs"
    named = re.escape(", ".join(map(str, damaged)))
    with pytest.raises(
        StorageError, match=rf"^2 of the 60 images of 'birds' .* {named}\. .*allow_unreadable=2\. The outputs"
    ):
        run_inference([images], kept, ALONE, ("guesses",))
    (outputs,), log = run_inference([images], kept, replace(ALONE, allow_unreadable=2), ("guesses",))
    assert log == ["birds: 58 of 60 images are already cached"]
    assert outputs.unreadable == tuple(map(str, damaged))
    assert outputs.rows.tolist() == [row for row in range(60) if row not in (3, 59)]
    for path in damaged:
        shutil.copy(photos / path.relative_to(folder), path)
    shutil.rmtree(folder / "owl")  # cached images are not read again
    (whole,), _ = run_inference([images], kept, ALONE, ("guesses",))
    expected = outputs_alone(birds(photos), [0, 1, 2])
    del expected["feature"]
    check(whole, expected)
    assert whole.unreadable == ()
