"""Real images to train on: selection and order."""

import dataclasses
import io
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from evaluation.config import EvaluationConfig
from evaluation.images.folders import list_images
from evaluation.images.real_sets import whole_set
from evaluation.images.training_images import (
    RealReader,
    RealTrainingImages,
    missing_classes,
    order_of_pass,
    positions_by_index,
    readable_rows,
    reading_units,
    real_training_images,
)
from evaluation.images.unreadable import Unreadable
from generation.digits.real_digits import training_digits
from generation.indices import IndexSet, SampleRequest
from generation.passes import Passes
from generation.random_streams import Purpose
from generation.recipes.labels import ClassEntry, LabelSpace, load_label_space
from generation.shards.storage import StorageError
from tests.support.birds import BIRDS, write


@pytest.fixture(scope="module")
def owls_and_puffins(tmp_path_factory) -> RealTrainingImages:
    """50 puffins, then 100 owls; the image at position `p` of the sorted list has the gray value `p`."""
    names = [f"puffin/{i:03}.png" for i in range(50)] + [f"snowy_owl/{i:03}.png" for i in range(100)]
    return real_training_images(str(write(tmp_path_factory.mktemp("birds"), *names)), BIRDS, image_size=8, seed=5)


def rows_of(source: RealTrainingImages, wanted: SampleRequest) -> dict[str, np.ndarray]:
    """Return the rows of a dataset in order."""
    batches = list(source.open(wanted).iter_batches(batch_size=16, prefetch_batches=0))
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def read_without_ray(source: RealTrainingImages, wanted: SampleRequest) -> dict[str, np.ndarray]:
    """Return the same rows from a single reader."""
    reader = RealReader(source, wanted)
    units = reading_units(source.passes(wanted), source.images_per_unit)
    columns = [{name: np.array([value]) for name, value in unit.items()} for unit in units]
    batches = [batch for unit in columns for batch in reader(unit)]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def check_rows(rows: dict[str, np.ndarray]) -> None:
    """Check that each row of `owls_and_puffins` has its own image and label."""
    places = positions_by_index(150)[rows["index"]]
    np.testing.assert_array_equal(rows["image"], np.broadcast_to(places[:, None, None, None], (len(places), 8, 8, 3)))
    np.testing.assert_array_equal(rows["label"], np.where(places < 50, 3, 2))
    np.testing.assert_array_equal(rows["serial"] % 150, rows["index"])
    assert {name: str(column.dtype) for name, column in rows.items()} == {
        "serial": "int64",
        "index": "int64",
        "label": "int64",
        "image": "uint8",
    }


def test_image_list_is_small_when_pickled(tmp_path: Path):
    (tmp_path / "puffin").mkdir()
    for i in range(2000):
        (tmp_path / "puffin" / f"n01440764_{i}.JPEG").touch()
    source = real_training_images(str(tmp_path), BIRDS, image_size=8, seed=0)
    sent = pickle.dumps(source)
    assert len(sent) < 30 * 2000
    assert pickle.loads(sent).num_images == source.num_images == 2000


def test_folders_of_unknown_classes_are_refused_in_one_line(tmp_path: Path):
    write(tmp_path, *(f"{name}/a.png" for name in ("puffin", "auk", "dodo", "kiwi", "moa")))
    with pytest.raises(ValueError, match=r"^4 of 5 classes in .* no class of birds: auk, dodo, kiwi, \.\.\. Name"):
        real_training_images(str(tmp_path), BIRDS, image_size=8, seed=0)


def test_every_range_of_indices_has_all_classes():
    places = positions_by_index(150)
    assert sorted(places) == list(range(150))
    num_puffins = [(places[start : start + 30] < 50).sum() for start in range(0, 150, 30)]
    assert min(num_puffins) > 4  # 10 of 30 on average
    np.testing.assert_array_equal(positions_by_index(150), places)


def passes_over_100(wanted: IndexSet, seed: int = 5, in_order: bool = False) -> Passes:
    return Passes(100, SampleRequest(wanted, in_order=in_order), Purpose.REAL_IMAGE_ORDER, seed)


def test_order_of_each_pass_depends_on_the_seed():
    two_passes = IndexSet.of_ranges([range(200)])
    passes = passes_over_100(two_passes)
    first, second = (order_of_pass(passes, number)[0] for number in (0, 1))
    assert sorted(first) == sorted(second) == list(range(100))
    assert first.tolist() != second.tolist()
    np.testing.assert_array_equal(order_of_pass(passes, 0)[0], first)
    np.testing.assert_array_equal(order_of_pass(passes, 1)[1], 100 + second)
    assert order_of_pass(passes_over_100(two_passes, seed=6), 0)[0].tolist() != first.tolist()
    assert order_of_pass(passes_over_100(two_passes, in_order=True), 1)[0].tolist() == list(range(100))


def test_resume_within_a_pass_keeps_its_order():
    first, _ = order_of_pass(passes_over_100(IndexSet.of_ranges([range(100)])), 0)
    rest, serials = order_of_pass(passes_over_100(IndexSet.of(first[37:])), 0)
    np.testing.assert_array_equal(rest, first[37:])
    np.testing.assert_array_equal(serials, first[37:])


def test_units_of_work_are_small_and_of_one_pass():
    serials = IndexSet.of_ranges([range(70, 120), range(205, 210)])  # of passes of 100: 30, 20 and 5 images
    assert reading_units(passes_over_100(serials), size=16) == [
        {"pass": 0, "start": 0},
        {"pass": 0, "start": 16},
        {"pass": 1, "start": 0},
        {"pass": 1, "start": 16},
        {"pass": 2, "start": 0},
    ]


def test_unit_has_64_images_or_16_megabytes(owls_and_puffins: RealTrainingImages):
    def images_per_unit(image_size: int) -> int:
        return dataclasses.replace(owls_and_puffins, image_size=image_size).images_per_unit

    assert [images_per_unit(size) for size in (8, 256, 512, 4096)] == [64, 64, 20, 1]


def test_share_over_two_passes_has_each_serial_once(owls_and_puffins: RealTrainingImages):
    shares = [SampleRequest(IndexSet.of_ranges([range(20, 280)]).strided(10, offset, 2), 2) for offset in (0, 1)]
    rows = [read_without_ray(owls_and_puffins, share) for share in shares]
    for share, its_rows in zip(shares, rows, strict=True):
        check_rows(its_rows)
        assert IndexSet.of(its_rows["serial"]) == share.serials
        assert (np.diff(its_rows["serial"] // 150) >= 0).all()
    assert sorted(np.concatenate([its_rows["serial"] for its_rows in rows])) == list(range(20, 280))


def test_training_digits_are_not_used_in_evaluation():
    source = real_training_images("digits", load_label_space("digits"), image_size=32, seed=0)
    assert source.num_images == 1257
    rows = read_without_ray(source, SampleRequest.all_of(range(1250, 1260)))
    assert sorted(rows["serial"]) == list(range(1250, 1260))
    images, labels = training_digits()
    places = positions_by_index(1257)[rows["index"]]
    np.testing.assert_array_equal(rows["image"], images[places])
    np.testing.assert_array_equal(rows["label"], labels[places])


def test_whole_photographs_come_with_their_extents(tmp_path: Path):
    for name, size in (("puffin/wide.png", (16, 6)), ("puffin/small.png", (3, 5)), ("snowy_owl/tall.png", (2, 4))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", size, 200).save(tmp_path / name)
    squares = real_training_images(str(tmp_path), BIRDS, image_size=8, seed=5)
    rows = read_without_ray(dataclasses.replace(squares, is_whole=True), SampleRequest.all_of(range(3)))
    assert rows["image"].shape == (3, 8, 8, 3)
    by_place = dict(zip(positions_by_index(3)[rows["index"]].tolist(), rows["extent"].tolist(), strict=True))
    assert by_place == {0: [5, 3], 1: [3, 8], 2: [4, 2]}
    for image, (height, width) in zip(rows["image"], rows["extent"], strict=True):
        assert (image[:height, :width] == 200).all()
        assert image.sum() == 3 * 200 * height * width


def test_digits_are_refused_for_other_classes():
    with pytest.raises(ValueError, match=r"'digits', but the classes are those of birds\. Use a folder"):
        real_training_images("digits", BIRDS, image_size=32, seed=0)


def test_skipped_image_is_replaced_by_the_next_of_its_class(owls_and_puffins: RealTrainingImages, tmp_path: Path):
    places = positions_by_index(150)
    puffins = np.flatnonzero(places < 50)  # their indices, ascending
    first, next_of_it, last = (int(puffins[i]) for i in (0, 1, -1))
    names = owls_and_puffins.source.names()
    damaged = [names[places[index]] for index in (next_of_it, last)]
    folder = copy_without(owls_and_puffins, tmp_path / "birds", damaged)
    source = real_training_images(str(folder), BIRDS, image_size=8, seed=5)
    source = dataclasses.replace(source, unreadable=Unreadable(2, tmp_path / "unreadable.txt"))
    rows = read_without_ray(source, SampleRequest.all_of(range(300)))
    assert sorted(rows["serial"]) == list(range(300))
    shown = dict(zip(rows["serial"].tolist(), rows["image"][:, 0, 0, 0].tolist(), strict=True))
    for serial, grey in shown.items():
        index = serial % 150
        instead = {next_of_it: int(puffins[2]), last: first}.get(index, index)
        assert grey == places[instead]
    np.testing.assert_array_equal(rows["label"], np.where(places[rows["index"]] < 50, 3, 2))
    assert sorted(map(Path, source.unreadable.names())) == sorted(
        folder / Path(name).parts[-2] / Path(name).name for name in damaged
    )


def copy_without(source: RealTrainingImages, folder: Path, damaged: list[str]) -> Path:
    """Copy the images of a folder; those in `damaged` are empty."""
    shutil.copytree(source.source.folder, folder)
    for name in damaged:
        (folder / Path(name).parts[-2] / Path(name).name).write_text("no image")
    return folder


def test_exceeding_allow_unreadable_ends_reading(tmp_path: Path):
    write(tmp_path / "birds", *(f"puffin/{name}.png" for name in "abcd"))
    source = real_training_images(str(tmp_path / "birds"), BIRDS, image_size=8, seed=0)
    for name in "ab":
        (tmp_path / "birds" / "puffin" / f"{name}.png").write_text("no image")
    for limit in (0, 1):
        limited = dataclasses.replace(source, unreadable=Unreadable(limit, tmp_path / "unreadable.txt"))
        with pytest.raises(StorageError, match=rf"cannot be decoded.* training\.allow_unreadable={limit + 1} or"):
            read_without_ray(limited, SampleRequest.all_of(range(4)))


def test_class_without_a_readable_image_ends_reading(tmp_path: Path):
    write(tmp_path / "birds", "puffin/a.png", "puffin/b.png")
    source = real_training_images(str(tmp_path / "birds"), BIRDS, image_size=8, seed=0)
    for name in "ab":
        (tmp_path / "birds" / "puffin" / f"{name}.png").write_text("no image")
    source = dataclasses.replace(source, unreadable=Unreadable(9, tmp_path / "unreadable.txt"))
    with pytest.raises(
        StorageError, match=r"^None of the 2 images of a class can be decoded\. Replace those listed in '.*txt'"
    ):
        read_without_ray(source, SampleRequest.all_of(range(2)))


def test_validation_skips_unreadable_images_as_evaluation_does(tmp_path: Path):
    write(tmp_path, "puffin/a.png", "puffin/b.png", "puffin/c.png")
    (tmp_path / "puffin" / "b.png").write_text("no image")
    images = whole_set("birds", str(tmp_path), list_images(str(tmp_path)))
    assert [row["image"][0, 0, 0] for row in readable_rows(images, 8, EvaluationConfig(allow_unreadable=1))] == [0, 2]
    with pytest.raises(
        StorageError, match=r"b\.png' cannot .* images of 'birds' so far: 1\. Set evaluation\.allow_unreadable=1"
    ):
        readable_rows(images, 8, EvaluationConfig())


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_dataset_has_exactly_the_requested_rows(owls_and_puffins: RealTrainingImages):
    wanted = SampleRequest(IndexSet.of_ranges([range(20, 280)]).strided(10, 1, 2), num_consumers=2)
    rows = rows_of(owls_and_puffins, wanted)
    check_rows(rows)
    assert sorted(rows["serial"]) == [serial for serial in range(20, 280) if serial // 10 % 2]
    assert rows["serial"].tolist() != sorted(rows["serial"])


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.nightly
def test_rows_are_in_ascending_order_if_requested(owls_and_puffins: RealTrainingImages):
    rows = rows_of(owls_and_puffins, SampleRequest(IndexSet.of_ranges([range(20, 280)]), in_order=True))
    check_rows(rows)
    assert rows["serial"].tolist() == list(range(20, 280))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.nightly
def test_empty_request_is_a_dataset_without_rows(owls_and_puffins: RealTrainingImages):
    assert owls_and_puffins.open(SampleRequest.all_of()).count() == 0


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_damaged_file_ends_the_dataset_with_its_name(tmp_path: Path):
    write(tmp_path, "puffin/a.png", "puffin/b.png", "puffin/c.png")
    source = real_training_images(str(tmp_path), BIRDS, image_size=8, seed=0)
    (tmp_path / "puffin" / "b.png").write_text("no image")
    with pytest.raises(StorageError, match=r"puffin/b\.png' cannot be decoded: .* Replace it, or"):
        rows_of(source, SampleRequest.all_of(range(3)))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.nightly
def test_dataset_with_a_skipped_image_has_all_rows(tmp_path: Path):
    write(tmp_path / "birds", "puffin/a.png", "puffin/b.png", "puffin/c.png")
    source = real_training_images(str(tmp_path / "birds"), BIRDS, image_size=8, seed=0)
    (tmp_path / "birds" / "puffin" / "b.png").write_text("no image")
    source = dataclasses.replace(source, unreadable=Unreadable(1, tmp_path / "unreadable.txt"))
    rows = rows_of(source, SampleRequest.all_of(range(6)))
    assert sorted(rows["serial"]) == list(range(6))
    assert source.unreadable.names() == [f"{tmp_path}/birds/puffin/b.png"]


def test_imagenet100_is_selected_from_imagenets_folder(tmp_path: Path):
    hundred, thousand = load_label_space("imagenet100"), load_label_space("imagenet1k")
    wanted, other = hundred.classes[7].wnid, next(e.wnid for e in thousand.classes if e.wnid not in str(hundred))
    write(tmp_path, f"{wanted}/a.png", f"{other}/b.png", f"{wanted}/c.png")
    source = real_training_images(str(tmp_path), hundred, image_size=8, seed=0)
    assert source.labels.tolist() == [7, 7]
    assert missing_classes(source, "there", hundred) == (
        f"'there' has no images of 99 of the 100 classes of imagenet100: {', '.join(wnids(hundred)[:3])}, ..."
    )


def wnids(space: LabelSpace) -> list[str]:
    return [entry.wnid for entry in space.classes]


@pytest.mark.parametrize("title_of", [lambda entry: ", ".join(entry.lemmas), lambda entry: entry.wnid])
def test_imagenet100_is_selected_from_a_table_of_1000_classes(tmp_path: Path, title_of: Callable[[ClassEntry], str]):
    hundred, thousand = load_label_space("imagenet100"), load_label_space("imagenet1k")
    number, other = (
        wnids(thousand).index(wnid) for wnid in (wnids(hundred)[7], "n01440764")
    )  # the latter is tench, which is not among the hundred
    labels = [number, other, number]
    write_parquet(tmp_path / "train-00000-of-00001.parquet", labels, [title_of(entry) for entry in thousand.classes])
    source = real_training_images(str(tmp_path), hundred, image_size=8, seed=0)
    assert source.labels.tolist() == [7, 7]


@pytest.mark.parametrize("labels", [[0, 1, 50], [0, 1, 999]])
def test_incomplete_unnamed_class_numbers_are_refused(tmp_path: Path, labels: list[int]):
    write_parquet(tmp_path / "train-00000-of-00001.parquet", labels, [])
    with pytest.raises(
        ValueError, match=r"has numbers for 3 classes, but imagenet\d+k? has \d+, so it is unknown which"
    ):
        real_training_images(str(tmp_path), load_label_space("imagenet100"), image_size=8, seed=0)


def write_parquet(path: Path, labels: list[int], titles: list[str]) -> None:
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "PNG")
    table = pa.table({"image": [{"bytes": file.getvalue(), "path": None} for _ in labels], "label": labels})
    if titles:
        feature = {"_type": "ClassLabel", "names": titles}
        described = json.dumps({"info": {"features": {"label": feature}}})
        table = table.replace_schema_metadata({"huggingface": described})
    pq.write_table(table, path)
