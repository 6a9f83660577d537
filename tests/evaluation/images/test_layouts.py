"""Layouts of real image sets on disk: images found, and their classes."""

import io
import json
import os
import pickle
import re
import tarfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import imagenet
from webdataset.tariterators import base_plus_ext
from webdataset.writer import TarWriter

from evaluation.images.decoding import UnreadableImageError, upright
from evaluation.images.flat_folders import flat_images
from evaluation.images.image_list import ImageList, build_list, pack_names
from evaluation.images.layouts import open_layout
from evaluation.images.parquet import parquet_images
from evaluation.images.splits import split_of
from evaluation.images.tar import key_and_ending, open_members, tar_images
from generation.shards.storage import StorageError

SYNSETS = (
    (1, "n02119789", "kit fox, Vulpes macrotis", 0),
    (2, "n02100735", "English setter", 0),
    (3, "n01440764", "tench, Tinca tinca", 0),
    (4, "n00001740", "entity", 2),
)
"""ILSVRC2012_ID, wnid, names and number of children; the last synset is not a class."""

WNIDS = ("n01440764", "n02100735", "n02119789")
"""The classes, sorted: IDs 3, 2, 1."""

INT64 = pa.int64()
PARQUET_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(grey: int, mode: str = "L", format: str = "PNG", **settings: object) -> bytes:
    """Return the bytes of a small image of one gray value."""
    file = io.BytesIO()
    Image.new("L", (8, 8), grey).convert(mode).save(file, format, **settings)
    return file.getvalue()


def devkit(place: Path, ids: Iterable[int], synsets: Sequence[tuple] = SYNSETS) -> Path:
    """Write a devkit in ImageNet's format; `ids` are the lines of the ground truth."""
    data = place / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{class_id}\n" for class_id in ids))
    fields = (
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    )
    rows = [(*row[:3], "a gloss", row[3], np.arange(row[3]), 0, 1300) for row in synsets]
    savemat(data / "meta.mat", {"synsets": np.array([rows], [(name, "O") for name in fields]).reshape(-1, 1)})
    return data.parent


def validation(folder: Path, *numbers: int) -> Path:
    """Write validation images with these numbers, each with its number as gray value."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / f"ILSVRC2012_val_{number:08}.JPEG").write_bytes(png(number))
    return folder


def parquet(
    path: Path, rows: Sequence[tuple], label: pa.DataType = INT64, group: int = 2, described: bytes = b""
) -> Path:
    """Write rows of bytes, path and label in row groups, with Hugging Face's metadata."""
    images = [{"bytes": row[0], "path": row[1]} for row in rows]
    columns = {"image": pa.array(images, PARQUET_IMAGE), "label": pa.array([row[2] for row in rows], label)}
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns).replace_schema_metadata({b"huggingface": described} if described else None)
    pq.write_table(table, path, row_group_size=group)
    return path


def class_label(names: object, kind: str = "ClassLabel") -> bytes:
    """Return Hugging Face's metadata for an image column and a label column with names."""
    label = {"num_classes": 2, "names": names, "names_file": None, "id": None, "_type": kind}
    return json.dumps({"info": {"features": {"image": {"_type": "Image"}, "label": label}}}).encode()


def png_at(path: Path, grey: int = 1) -> Path:
    """Write a small image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(grey))
    return path


def tar(path: Path, *samples: dict) -> Path:
    """Write samples in WebDataset's format; the default key is the sample's number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TarWriter(str(path)) as writer:
        for i, sample in enumerate(samples):
            writer.write({"__key__": f"{i:04}"} | sample)
    return path


def raw_tar(path: Path, **members: bytes) -> Path:
    """Write members unchanged; `__` in their names stands for a dot."""
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name.replace("__", "."))
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def greys(source: ImageList, positions: Iterable[int] | None = None) -> list[int]:
    """Return the gray value of each image."""
    read = source.opener()
    images = [np.asarray(read(i)) for i in (positions if positions is not None else range(source.num_images))]
    assert all(image.shape == (8, 8, 3) for image in images)
    return [int(image[0, 0, 0]) for image in images]


def classes_of(source: ImageList) -> list[str]:
    """Return the class of each image."""
    assert source.class_numbers().dtype == np.int64
    return [source.classes[number] for number in source.class_numbers()]


def names_in(source: ImageList, folder: Path) -> list[str]:
    return [str(Path(name).relative_to(folder)) for name in source.names()]


# ImageNet's validation images as shipped


def test_validation_image_has_the_line_of_its_number(tmp_path: Path):
    folder = validation(tmp_path / "val", 2, 5, 6)  # of six lines: 3, 1, 2, 2, 1, 3
    devkit(tmp_path, [3, 1, 2, 2, 1, 3])
    source = flat_images(str(folder))
    assert source.classes == WNIDS
    assert classes_of(source) == ["n02119789", "n02119789", "n01440764"]
    assert greys(source) == [2, 5, 6]
    assert names_in(source, folder) == [f"ILSVRC2012_val_0000000{number}.JPEG" for number in (2, 5, 6)]


def test_classes_of_validation_images_are_those_that_torchvision_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = flat_images(str(validation(tmp_path / "val", *range(1, 7))), str(devkit(tmp_path, [3, 1, 2, 2, 1, 3])))
    with tarfile.open(tmp_path / "devkit.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "ILSVRC2012_devkit_t12", "ILSVRC2012_devkit_t12")
    monkeypatch.setattr(imagenet, "check_integrity", lambda *_: True)  # not the real archive
    imagenet.parse_devkit_archive(tmp_path, "devkit.tar.gz")
    names_by_wnid, wnids = imagenet.load_meta_file(tmp_path)
    assert classes_of(source) == wnids == [WNIDS[3 - class_id] for class_id in (3, 1, 2, 2, 1, 3)]
    assert source.classes == tuple(sorted(names_by_wnid))


def test_devkit_is_found_in_the_folder_next_to_it_or_by_path(tmp_path: Path):
    for i, place in enumerate(("a/val", "b", "c")):
        folder = validation(tmp_path / place, 1)
        at = devkit(tmp_path / ("a", "b", "elsewhere")[i], [2])
        assert classes_of(flat_images(str(folder), str(at) if i == 2 else "")) == ["n02100735"]


def test_validation_images_in_odd_modes_are_read(tmp_path: Path):
    devkit(tmp_path, [1, 2, 3, 1])
    (tmp_path / "ILSVRC2012_val_00000001.JPEG").write_bytes(png(80, "CMYK", "JPEG"))
    (tmp_path / "ILSVRC2012_val_00000002.JPEG").write_bytes(png(81, "L", "JPEG"))
    (tmp_path / "ILSVRC2012_val_00000003.JPEG").write_bytes(png(82, "RGBA"))  # a PNG with this name
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    turned = Image.new("RGB", (16, 8))
    turned.paste((255, 255, 255), (0, 0, 8, 8))
    turned.save(tmp_path / "ILSVRC2012_val_00000004.JPEG", exif=exif, quality=95)
    read = open_layout(str(tmp_path)).opener()
    for i in range(3):
        np.testing.assert_allclose(np.asarray(read(i)), 80 + i, atol=1)
    assert read(3).size == (16, 8)
    seen = np.asarray(upright(read(3)))
    assert seen.shape == (16, 8, 3)
    assert seen[4, 4].min() > 250
    assert seen[12, 4].max() < 5


def test_truncated_validation_image_is_named(tmp_path: Path):
    devkit(tmp_path, [1])
    (tmp_path / "ILSVRC2012_val_00000001.JPEG").write_bytes(png(80, "RGB", "JPEG")[:-20])
    with pytest.raises(UnreadableImageError, match=r"ILSVRC2012_val_00000001\.JPEG' cannot be decoded"):
        flat_images(str(tmp_path)).opener()(0)


def test_validation_images_without_their_devkit_are_refused(tmp_path: Path):
    validation(tmp_path / "val", 1)
    with pytest.raises(ValueError, match=r"^The classes of .*val' .* but '.*_t12' has no data/.*Unpack .*\.tar\.gz"):
        flat_images(str(tmp_path / "val"))
    with pytest.raises(ValueError, match=r"but '/no/devkit' has no data/ILSVRC2012_validation_ground_truth\.txt\."):
        flat_images(str(tmp_path / "val"), "/no/devkit")


@pytest.mark.parametrize("name", ["cat.JPEG", "ILSVRC2012_test_00000001.JPEG", "val_1.JPEG", "ILSVRC2012_val_.JPEG"])
def test_validation_image_without_a_number_is_refused(tmp_path: Path, name: str):
    devkit(tmp_path, [1])
    (validation(tmp_path, 1) / name).touch()
    with pytest.raises(ValueError, match=rf"^'{name}' in .* is not named like ILSVRC2012_val_00000001\.JPEG"):
        open_layout(str(tmp_path))


@pytest.mark.parametrize("number", [0, 3])
def test_image_without_a_line_in_the_ground_truth_is_refused(tmp_path: Path, number: int):
    devkit(tmp_path, [1, 2])
    validation(tmp_path, 1, number)
    with pytest.raises(ValueError, match=rf"^'ILSVRC2012_val_0000000{number}\.JPEG' .* among the 2 lines of"):
        flat_images(str(tmp_path))


def test_damaged_devkit_is_refused(tmp_path: Path):
    validation(tmp_path, 1)
    data = devkit(tmp_path, [1, 4]) / "data"
    with pytest.raises(ValueError, match=r"^Line 2 of .*ground_truth\.txt' is '4', which is not .* of the 3 classes"):
        flat_images(str(tmp_path))
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n\n2\n")
    with pytest.raises(ValueError, match=r"^Line 2 of .* is '', which is not"):
        flat_images(str(tmp_path))
    for content in (b"", b"no MATLAB", (data / "meta.mat").read_bytes()[:300]):
        (data / "meta.mat").write_bytes(content)
        with pytest.raises(ValueError, match=r"meta\.mat' cannot be read: .* Unpack ILSVRC2012_devkit_t12\.tar\.gz"):
            flat_images(str(tmp_path))
    savemat(data / "meta.mat", {"other": 1})
    with pytest.raises(ValueError, match=r"meta\.mat' cannot be read: 'synsets'"):
        flat_images(str(tmp_path))


# Parquet


def test_each_row_keeps_its_image_and_its_label_over_files_and_row_groups(tmp_path: Path):
    labels = [7, 2, 2, 9, 0, 7, 9]
    rows = [(png(10 + i), f"ILSVRC2012_val_{90 - i:08}_n01440764.JPEG", label) for i, label in enumerate(labels)]
    parquet(tmp_path / "validation-00000-of-00002.parquet", rows[:5])  # groups of 2, 2 and 1
    parquet(tmp_path / "validation-00001-of-00002.parquet", rows[5:], group=1)
    source = parquet_images(str(tmp_path))
    assert source.classes == ("0", "2", "7", "9")
    assert classes_of(source) == ["7", "2", "2", "9", "0", "7", "9"]
    assert greys(source) == [10, 11, 12, 13, 14, 15, 16]
    assert greys(source, [6, 0, 4, 3, 5, 1]) == [16, 10, 14, 13, 15, 11]
    first, last = source.names()[0], source.names()[6]
    assert first == f"{tmp_path}/validation-00000-of-00002.parquet/ILSVRC2012_val_00000090_n01440764.JPEG"
    assert last == f"{tmp_path}/validation-00001-of-00002.parquet/ILSVRC2012_val_00000084_n01440764.JPEG"
    assert greys(pickle.loads(pickle.dumps(source))) == greys(source)


def test_classes_that_are_numbers_are_sorted_as_numbers_and_others_as_names(tmp_path: Path):
    numbers = parquet(tmp_path / "n.parquet", [(png(i), None, label) for i, label in enumerate([10, 9, 2])], pa.int32())
    assert parquet_images(str(numbers)).classes == ("2", "9", "10")
    rows = [(png(i), None, label) for i, label in enumerate(["tench", "10", "Kite"])]
    names = parquet(tmp_path / "s.parquet", rows, pa.string())
    assert parquet_images(str(names)).classes == ("10", "Kite", "tench")
    dictionary = parquet(tmp_path / "d.parquet", rows, pa.dictionary(pa.int8(), pa.string()))
    assert classes_of(parquet_images(str(dictionary))) == ["tench", "10", "Kite"]


@pytest.mark.parametrize("names", [["tench", "auk", "kite"], {"0": "tench", "2": "kite", "1": "auk"}])
def test_class_label_names_are_titles(tmp_path: Path, names: object):
    for i, kind in enumerate((INT64, pa.dictionary(pa.int8(), INT64))):
        rows = [(png(1), None, 2), (png(2), None, 0)]
        source = parquet_images(str(parquet(tmp_path / f"{i}.parquet", rows, kind, described=class_label(names))))
        assert source.titles == ("tench", "auk", "kite")
        assert source.classes == ("0", "2")
        assert classes_of(source) == ["2", "0"]


def test_titles_are_empty_without_class_label_names(tmp_path: Path):
    described = (b"", b"{}", b"[]", b'{"info": {"features": {"text": 1}}}', class_label(None), class_label([], "Value"))
    for i, content in enumerate(described):
        path = parquet(tmp_path / f"{i}.parquet", [(png(1), None, 0)], described=content)
        assert parquet_images(str(path)).titles == ()
    path = parquet(tmp_path / "s.parquet", [(png(1), None, "auk")], pa.string(), described=class_label(["kite"]))
    assert parquet_images(str(path)).titles == ()


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (b"{", r"cannot be read as Hugging Face's description of its columns: Expecting"),
        (b"[" * 10**5, r"cannot be read as Hugging Face's description of its columns: "),
        (class_label("kite"), r"does not name every class number in its ClassLabel: kite\. Name"),
        (class_label(["auk", ""]), r"does not name every class number in its ClassLabel: \['auk', ''\]\."),
        (class_label({"1": "auk", "2": "kite"}), r"does not name every class number in .*: \['', 'auk'\]\."),
        (class_label(["auk"]), r"row 1 has the label 1, but its ClassLabel has 1 names, from 0\."),
    ],
)
def test_incomplete_class_label_is_refused(tmp_path: Path, described: bytes, message: str):
    path = parquet(tmp_path / "a.parquet", [(png(1), None, 0), (png(2), None, 1)], described=described)
    with pytest.raises(ValueError, match=rf"^'[^\n]*a\.parquet' {message}[^\n]*\.$"):
        parquet_images(str(path))


def test_files_with_different_class_labels_are_refused(tmp_path: Path):
    for i, names in enumerate((["auk", "kite"], ["auk", "kite"], ["kite", "auk"])):
        parquet(tmp_path / f"{i}.parquet", [(png(i), None, 0)], described=class_label(names))
    with pytest.raises(ValueError, match=r"^'2\.parquet' in '.*' has other class names .* than '0\.parquet'\. Use"):
        parquet_images(str(tmp_path))
    (tmp_path / "2.parquet").unlink()
    assert parquet_images(str(tmp_path)).titles == ("auk", "kite")
    parquet(tmp_path / "3.parquet", [(png(3), None, 0)])  # has no table
    with pytest.raises(ValueError, match=r"^'3\.parquet' in '.*' has other class names .* than '0\.parquet'\. Use"):
        parquet_images(str(tmp_path))


def test_hash_depends_on_titles(tmp_path: Path):
    hashes = set()
    for i, described in enumerate((b"", class_label(["auk", "kite"]), class_label(["kite", "auk"]))):
        path = parquet(tmp_path / str(i) / "a.parquet", [(b"", "1.png", 0)], described=described)
        hashes.add(parquet_images(str(path)).names_hash)
    assert len(hashes) == 3


def test_images_without_a_path_are_named_by_row(tmp_path: Path):
    path = parquet(
        tmp_path / "a.parquet", [(png(1), None, 0), (png(2), "b.png", 1), (b"no image", None, 1), (None,) * 2 + (0,)]
    )
    source = parquet_images(str(path))
    assert source.names() == [f"{path} row 0", f"{path}/b.png", f"{path} row 2", f"{path} row 3"]
    for position in (2, 3):
        with pytest.raises(UnreadableImageError, match=rf"a\.parquet row {position}' cannot be decoded"):
            source.opener()(position)
    pathless = pa.array([{"bytes": png(3)}], pa.struct([("bytes", pa.binary())]))
    pq.write_table(pa.table({"image": pathless, "label": [0]}), tmp_path / "b.parquet")
    source = parquet_images(str(tmp_path / "b.parquet"))
    assert (greys(source), source.names()) == ([3], [f"{tmp_path}/b.parquet row 0"])


def test_no_image_is_read_while_parquet_is_listed_and_one_row_group_at_a_time_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    reads = []
    for name in ("read", "read_row_group"):
        original = getattr(pq.ParquetFile, name)

        def noted(self: pq.ParquetFile, *args: object, _original: Callable = original, **settings: object) -> pa.Table:
            reads.append((*args, settings["columns"]))
            return _original(self, *args, **settings)

        monkeypatch.setattr(pq.ParquetFile, name, noted)
    parquet(tmp_path / "a.parquet", [(png(i), None, 0) for i in range(5)])
    source = parquet_images(str(tmp_path))
    assert reads == [(["image.path", "label"],)]
    assert greys(source, [0, 1, 4, 2, 3, 2, 1]) == [0, 1, 4, 2, 3, 2, 1]
    assert reads[1:] == [(group, ["image.bytes"]) for group in (0, 2, 1, 0)]


def test_validation_is_the_default_of_several_splits(tmp_path: Path):
    for grey, split in enumerate(("test", "train", "validation")):
        parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet", [(png(grey), None, 0)])
    assert greys(open_layout(str(tmp_path))) == [2]
    assert greys(open_layout(str(tmp_path), split="val")) == [2]
    assert greys(open_layout(str(tmp_path), split="train")) == [1]
    with pytest.raises(
        ValueError, match=r"data' has files of test and train and validation, but not of extra\. Use another"
    ):
        open_layout(str(tmp_path), split="extra")
    (tmp_path / "data" / "validation-00000-of-00001.parquet").unlink()
    assert greys(open_layout(str(tmp_path))) == [0]
    assert greys(open_layout(str(tmp_path / "data" / "train-00000-of-00001.parquet"))) == [1]


def test_default_split_is_the_only_one(tmp_path: Path):
    parquet(tmp_path / "train-00000-of-00002.parquet", [(png(1), None, 0)])
    parquet(tmp_path / "train-00001-of-00002-6ad52a061d95a2d9.parquet", [(png(2), None, 0)])
    assert greys(parquet_images(str(tmp_path))) == [1, 2]
    parquet(tmp_path / "blur-00000-of-00001.parquet", [(png(3), None, 0)])
    with pytest.raises(ValueError, match=r"has files of blur and train, but not of validation or test\. Use"):
        parquet_images(str(tmp_path))
    assert greys(parquet_images(str(tmp_path), "blur")) == [3]


def test_files_without_a_split_match_any_split(tmp_path: Path):
    parquet(tmp_path / "0000.parquet", [(png(1), None, 0)])
    parquet(tmp_path / "0001.parquet", [(png(2), None, 0)])
    assert greys(open_layout(str(tmp_path), split="train")) == [1, 2]
    parquet(tmp_path / "valid.parquet", [(png(3), None, 0)])
    assert greys(open_layout(str(tmp_path))) == [3]
    with pytest.raises(ValueError, match="has files of no split and validation, but not of train"):
        open_layout(str(tmp_path), split="train")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("validation-00000-of-00014.parquet", "validation"),
        ("train-00003-of-00014-6ad52a061d95a2d9.parquet", "train"),
        ("imagenet1k-validation-00.tar", "validation"),
        ("imagenet_val_000.tar", "validation"),
        ("top_images-00000-of-00002.parquet", "top_images"),
        ("0000.parquet", ""),
        ("trainspotting.tar", ""),
        ("imagenet-dev-train-00000-of-00002.parquet", "train"),
        ("train-00000-of-00002-1val2.parquet", "train"),
        ("my-train-set-val-000.tar", "validation"),
        ("val-train-test.tar", "test"),
    ],
)
def test_last_word_for_a_split_in_a_name_counts(name: str, split: str):
    assert split_of(name) == split


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ("train-1-of-3", r"has 1 of the 3 parts of the split of 'train-1-of-3\.parquet': part 0 is missing\. Add"),
        ("train-0-of-3 train-2-of-3-6ad5", r"has 2 of the 3 parts of the split of 'train-0-of-3\..*: part 1"),
        ("train-00000-of-00002 train-0-of-2", r"part 0 twice: 'train-0-of-2\.parquet' and 'train-00000-of-00002\."),
        ("train-0-of-1-6ad5 train-0-of-1-77ab", r"part 0 twice: 'train-0-of-1-6ad5\.parquet' and 'train-0-of-1-77ab"),
        (
            "train-0-of-1 train-0-of-2 train-1-of-2",
            r"'train-0-of-1\.parquet' and 'train-0-of-2\.parquet', which are of one split",
        ),
        (
            "train train-0-of-1",
            r"'train-0-of-1\.parquet' and 'train\.parquet', which are of one split, but in different numbers",
        ),
        (
            "train-0-of-1 train-1-of-1",
            r"^'train-1-of-1\.parquet' in '.*' has a part number above 0, the last of 1 parts\.",
        ),
    ],
)
def test_split_with_missing_or_duplicate_parts_is_refused(tmp_path: Path, files: str, message: str):
    parquet(tmp_path / "validation-00000-of-00001.parquet", [(png(7), None, 0)])
    for grey, file in enumerate(files.split()):
        parquet(tmp_path / f"{file}.parquet", [(png(grey), None, 0)])
    with pytest.raises(ValueError, match=rf"{message}[^\n]*\.$"):
        open_layout(str(tmp_path), split="train")
    assert greys(open_layout(str(tmp_path))) == [7]
    assert greys(open_layout(str(tmp_path / f"{files.split(maxsplit=1)[0]}.parquet"))) == [0]


def test_split_of_tars_with_a_missing_part_is_refused(tmp_path: Path):
    for part in (0, 1, 3):
        tar(tmp_path / f"set-train-{part:06}-of-000004.tar", {"png": png(part), "cls": 0})
    with pytest.raises(ValueError, match=r"has 3 of the 4 parts of the split of .*: part 2 is missing\. Add it"):
        open_layout(str(tmp_path))
    tar(tmp_path / "set-train-000002-of-000004.tar", {"png": png(2), "cls": 0})
    assert greys(open_layout(str(tmp_path))) == [0, 1, 2, 3]


@pytest.mark.parametrize(("label", "kind"), [(-1, pa.int64()), (None, pa.int64()), ("", pa.string())])
def test_row_without_a_label_is_refused(tmp_path: Path, label: object, kind: pa.DataType):
    parquet(tmp_path / "test.parquet", [(png(1), None, 1 if kind == pa.int64() else "a"), (png(2), None, label)], kind)
    with pytest.raises(ValueError, match=rf"test\.parquet' row 1 has the label {label!r}, .* Use another split"):
        parquet_images(str(tmp_path))


def test_parquet_with_other_columns_is_refused(tmp_path: Path):
    path = tmp_path / "a.parquet"
    for columns in ({"text": ["a"]}, {"image": [b"a"], "label": [1]}, {"image": [{"bytes": b"a"}], "label": [0.5]}):
        pq.write_table(pa.table(columns), path)
        with pytest.raises(
            ValueError, match=rf"a\.parquet' needs the columns image, .* but has {next(iter(columns))} \("
        ):
            parquet_images(str(path))
    parquet(path, [])
    with pytest.raises(ValueError, match="have no rows"):
        parquet_images(str(path))


def test_damaged_parquet_file_is_named(tmp_path: Path):
    path = parquet(tmp_path / "a.parquet", [(png(i), None, 0) for i in range(5)])
    content = path.read_bytes()
    source = parquet_images(str(path))
    for damaged in (b"", content[:100], content[:-1], b"version https://git-lfs.github.com/spec/v1\n"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"^'.*a\.parquet' cannot be read as Parquet: .* Replace it, or"):
            parquet_images(str(path))
        with pytest.raises(StorageError, match=r"^'.*a\.parquet' cannot be read as Parquet"):
            source.opener()(0)
    path.write_bytes(content[:4] + bytes(100) + content[104:])
    with pytest.raises(StorageError, match=r"^'.*a\.parquet' cannot be read as Parquet"):
        source.opener()(0)
    path.unlink()
    with pytest.raises(StorageError, match=r"a\.parquet' cannot be read as Parquet: .*No such file"):
        source.opener()(0)


# Tars


def test_each_sample_of_a_tar_keeps_its_image_and_its_label(tmp_path: Path):
    labels = [11, 3, 3, 9, 11]
    samples = [{"__key__": f"v.2/{40 - i}", "jpg": png(i), "cls": label} for i, label in enumerate(labels)]
    tar(tmp_path / "a-000000.tar", *samples[:2])
    tar(tmp_path / "a-000001.tar", *samples[2:])
    source = tar_images(str(tmp_path))
    assert source.classes == ("3", "9", "11")
    assert classes_of(source) == ["11", "3", "3", "9", "11"]
    assert greys(source) == [0, 1, 2, 3, 4]
    assert greys(source, [4, 0, 2]) == [4, 0, 2]
    assert [source.names()[i] for i in (0, 4)] == [
        f"{tmp_path}/a-000000.tar/v.2/40.jpg",
        f"{tmp_path}/a-000001.tar/v.2/36.jpg",
    ]
    assert greys(pickle.loads(pickle.dumps(source))) == greys(source)


def test_labels_of_a_tar_are_numbers_or_names_in_cls_or_json(tmp_path: Path):
    def classes(*samples: dict) -> list[str]:
        return classes_of(tar_images(str(tar(tmp_path / "a.tar", *samples))))

    image = {"PNG": png(1)}
    assert classes(image | {"cls": b" 007\n"}, image | {"json": {"label": 12, "height": 8}}) == ["7", "12"]
    assert classes(image | {"json": {"cls": 4}}, image | {"json": {"label": "4", "cls": 5}}) == ["4", "4"]
    assert classes(image | {"cls": b"3", "json": {"label": 8}}) == ["3"]
    assert classes(image | {"cls": b"3", "json": b"no JSON"}, image | {"cls": b"4", "json": {"label": 0.5}}) == [
        "3",
        "4",
    ]
    assert classes(image | {"cls": b"tench"}, image | {"json": {"label": "kite"}}) == ["tench", "kite"]


def test_members_that_are_no_samples_are_skipped(tmp_path: Path):
    path = raw_tar(
        tmp_path / "a.tar",
        README=b"no ending",
        info__json=b'{"num_images": 1}',
        list__json=b"[1]",
        a__txt=b"a caption",
        a__seg__png=png(9),
        a__coarse__cls=b"1",
        a__v2__json=b"{}",
        a__cls=b"0",
        a__jpg=png(5),
        **{"__hidden__jpg": b"no image", "____a__jpg": b"a Mac's"},
    )
    source = tar_images(str(path))
    assert (greys(source), names_in(source, tmp_path)) == ([5], ["a.tar/a.jpg"])


def test_members_of_a_sample_need_not_be_adjacent(tmp_path: Path):
    source = tar_images(str(raw_tar(tmp_path / "a.tar", a__jpg=png(1), b__jpg=png(2), b__cls=b"5", a__cls=b"6")))
    assert (greys(source), classes_of(source)) == ([1, 2], ["6", "5"])


@pytest.mark.parametrize(
    "name",
    ["a.jpg", "v1.0/a.jpg", "./a.seg.png", "v1.0/a", "a", ".hidden.jpg", "d/.hidden.jpg", "a.b/c.d/e.tar.gz", ""],
)
def test_keys_and_endings_are_webdatasets(name: str):
    key, ending = base_plus_ext(name)
    assert key_and_ending(name) == (key or "", ending or "")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a__jpg": b"", "a__txt": b"0"}, r"has a\.jpg for key 'a', but needs one image and one label"),
        ({"a__jpg": b"", "a__json": b'{"height": 8}'}, r"has a\.jpg, a\.json for key 'a', but needs one image"),
        ({"a__cls": b"0", "a__avif": b""}, r"has a\.cls for key 'a', but needs one image"),
        ({"a__cls": b"0", "a__jpg": b"", "a__png": b""}, r"has a\.cls, a\.jpg, a\.png for key 'a', but"),
        ({"a__cls": b"0", "a__jpg": b"", "a__JPG": b""}, r"has two of 'a\.jpg'\. Write"),
        ({"a__cls": b"-1", "a__jpg": b""}, r"'a\.cls' in .* has the label '-1'\. Use"),
        ({"a__cls": b" \n", "a__jpg": b""}, r"'a\.cls' in .* has the label ''\. Use"),
        ({"a__cls": b"\xff", "a__jpg": b""}, r"'a\.cls' in .* cannot be read: 'utf-8'"),
        ({"a__json": b'{"label": 0.5}', "a__jpg": b""}, r"'a\.json' in .* has the label 0\.5\. Use"),
        ({"a__json": b'{"label": true}', "a__jpg": b""}, r"'a\.json' in .* has the label True\. Use"),
        ({"a__json": b"{", "a__jpg": b""}, r"'a\.json' in .* cannot be read: Expecting"),
        ({"a__json": b"[" * 10**5, "a__jpg": b""}, r"'a\.json' in .*a\.tar' cannot be read: .*recursion"),
        ({"a__cls": b"1" * 5000, "a__jpg": b""}, r"'a\.cls' in .*a\.tar' cannot be read: Exceeds the limit"),
        ({"a__json": b'{"label": %s}' % (b"1" * 5000), "a__jpg": b""}, r"'a\.json' in .* cannot be read: Exceeds"),
        ({"a__json": b'{"label": [%s0]}' % (b"0," * 5000), "a__jpg": b""}, r"the label \[0, 0, 0, 0, 0, 0, \.\.\.\]\."),
        ({"a__txt": b"0"}, r"have no labeled images\. Use WebDataset"),
    ],
)
def test_samples_without_one_image_and_label_are_refused(tmp_path: Path, members: dict[str, bytes], message: str):
    path = raw_tar(tmp_path / "a.tar", **members)
    with pytest.raises(ValueError, match=rf"^[^\n]*{message}[^\n]*\.$"):
        tar_images(str(path))


@pytest.mark.parametrize(
    ("members", "num_meant", "first"),
    [
        ({"photo__1__jpg": b"", "photo__1__cls": b"0"}, 2, "photo.1.jpg"),
        ({"photo__1__cls": b"0", "photo__1__JPG": b""}, 2, "photo.1.cls"),
        ({"photo__jpg": b"", "photo__cls": b"0", "photo__1__jpg": b"", "photo__1__cls": b"0"}, 2, "photo.1.jpg"),
        ({"photo__1__jpg": b"", "photo__1__json": b'{"label": 0}'}, 1, "photo.1.jpg"),
        ({"photo__1__jpg": b"", "photo__json": b"{}", "photo__1__cls": b"0"}, 2, "photo.1.jpg"),
    ],
)
def test_images_and_labels_with_extra_dots_are_refused(
    tmp_path: Path, members: dict[str, bytes], num_meant: int, first: str
):
    path = raw_tar(tmp_path / "a.tar", good__jpg=png(1), good__cls=b"0", **members)
    ending = first.removeprefix("photo.").lower()
    message = rf"has {num_meant} images and labels with a dot .*, such as '{first}': .* as '{ending}' of 'photo'"
    with pytest.raises(ValueError, match=message):
        tar_images(str(path))


def test_damaged_tar_is_named(tmp_path: Path):
    path = raw_tar(tmp_path / "a.tar", a__cls=b"0", a__jpg=bytes(1000), b__cls=b"1", b__jpg=bytes(1000))
    content = path.read_bytes()  # a header of 512 bytes and 512 or 1024 of content, each twice
    ends = (0, 100, 512, 1024, 1500, 2000, 2560, 2600, 3584, 5120, 5200)
    for damaged in (*(content[:end] for end in ends), content[:2560] + b"?" * 512 + content[3072:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"^'.*a\.tar' cannot be read as an uncompressed tar: "):
            tar_images(str(path))
    with tarfile.open(path, "w:gz") as file:
        file.addfile(tarfile.TarInfo("a.jpg"))
    with pytest.raises(ValueError, match=r"^'.*a\.tar' cannot be read as an uncompressed tar: "):
        tar_images(str(path))


def test_tar_that_changed_after_listing_is_named(tmp_path: Path):
    path = tar(tmp_path / "a.tar", {"jpg": b"no image", "cls": 0}, {"jpg": png(1), "cls": 0})
    source = tar_images(str(path))
    with pytest.raises(UnreadableImageError, match=r"a\.tar/0000\.jpg' cannot be decoded"):
        source.opener()(0)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(StorageError, match=r"^'.*a\.tar' cannot be read as the tar that was listed: it is truncated"):
        source.opener()(1)
    path.unlink()
    with pytest.raises(StorageError, match=r"a\.tar' cannot be read as the tar that was listed: .*No such file"):
        source.opener()(1)


# All layouts


def test_layouts_are_detected(tmp_path: Path):
    (tmp_path / "classes" / "tench").mkdir(parents=True)
    (tmp_path / "classes" / "tench" / "a.png").write_bytes(png(1))
    (tmp_path / "classes" / "tench.tar").touch()  # the archive that it came in
    parquet(tmp_path / "parquet" / "a.parquet", [(png(2), None, 0)])
    tar(tmp_path / "tars" / "a.tar", {"png": png(3), "cls": 0})
    validation(tmp_path / "flat", 4)
    devkit(tmp_path / "flat", [1, 1, 1, 1])
    (tmp_path / "flat" / "ILSVRC2012_img_val.tar").touch()
    for grey, place in enumerate(("classes", "parquet", "tars", "flat"), start=1):
        assert greys(open_layout(str(tmp_path / place))) == [grey]
    assert greys(open_layout(str(tmp_path / "classes"), split="train")) == [1]  # there are no splits
    assert greys(open_layout(str(tmp_path / "parquet" / "a.parquet"))) == [2]
    assert greys(open_layout(str(tmp_path / "tars" / "a.tar"), split="train")) == [3]


def test_splits_may_be_folders(tmp_path: Path):
    (tmp_path / "train" / "tench").mkdir(parents=True)
    (tmp_path / "train" / "tench" / "a.png").write_bytes(png(1))
    parquet(tmp_path / "test" / "0000.parquet", [(png(2), None, 0)])
    assert greys(open_layout(str(tmp_path))) == [2]
    validation(tmp_path / "val", 3)
    devkit(tmp_path, [1, 1, 1])
    assert greys(open_layout(str(tmp_path))) == greys(open_layout(str(tmp_path), split="validation")) == [3]
    assert greys(open_layout(str(tmp_path), split="train")) == [1]


def test_class_folder_may_have_a_split_name(tmp_path: Path):
    for name in ("bus", "train", "test"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(png(1))
    for split in ("", "train"):
        assert open_layout(str(tmp_path), split).classes == ("bus", "test", "train")


def test_class_folder_with_a_split_name_may_have_subfolders(tmp_path: Path):
    for name in ("bus/a", "dev/a", "dev/sub/a", "kite/a", "test/sub/a"):
        png_at(tmp_path / f"{name}.png")
    for split in ("", "validation", "train", "test"):
        source = open_layout(str(tmp_path), split)
        assert source.classes == ("bus", "dev", "kite", "test")
        assert classes_of(source) == ["bus", "dev", "dev", "kite", "test"]


def test_extra_folder_next_to_splits_is_ignored(tmp_path: Path):
    for grey, name in enumerate(("figures/a", "train/bus/a", "val/bus/a")):
        png_at(tmp_path / f"{name}.png", grey)
    assert greys(open_layout(str(tmp_path))) == [2]
    assert greys(open_layout(str(tmp_path), split="train")) == [1]


def test_subfolders_with_images_are_suggested(tmp_path: Path):
    def message(*names: str, split: str = "") -> str:
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        for name in names:
            png_at(root / name / "a.png")
        with pytest.raises(ValueError, match=r"^[^\n]* has no images with known classes[^\n]*\.$") as error:
            open_layout(str(root), split)
        return str(error.value).replace(str(root), "ROOT")

    assert message("train/bus") == (
        "'ROOT' has no images with known classes, and no folder validation or test that has. Other folders in it "
        "have some: train. Use one of these, such as 'ROOT/train'."
    )
    assert "have some: data/train, data/val. Use" in message("data/train/bus", "data/val/bus")
    assert message("data/train/bus", "data/val/bus").endswith("as 'ROOT/data/val'.")
    assert message("data/train/bus", "data/val/bus", split="train").endswith("as 'ROOT/data/train'.")
    assert "no folder train that has. Other folders in it have some: val. Use" in message("val/bus", split="train")
    assert "some: a, b, c, d, e, ... Use" in message(*(f"{name}/bus" for name in "abcdef"))


def test_images_both_in_and_next_to_class_folders_are_refused(tmp_path: Path):
    validation(tmp_path, 1)
    validation(tmp_path / "n01440764", 2)
    with pytest.raises(ValueError, match="has images both in class folders and next to them"):
        open_layout(str(tmp_path))


def test_unknown_layout_is_refused_with_the_known_ones(tmp_path: Path):
    (tmp_path / "cat.png").write_bytes(png(1))
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    (tmp_path / "a.zip").touch()
    layouts = r"Use a folder with one folder .*\*\.parquet .*\*\.tar; ILSVRC2012_val_\*\.JPEG[^\n]*\.$"
    for place, message in (
        (tmp_path, "has no images with"),
        (tmp_path / "empty", "has no images with"),
        (tmp_path / "a.zip", "has no images with"),
        (tmp_path / "gone", "does not exist"),
        (tmp_path / "gone.parquet", "does not exist"),
    ):
        with pytest.raises(ValueError, match=rf"^'{re.escape(str(place))}' {message}.*{layouts}"):
            open_layout(str(place))
    for images_in in (flat_images, parquet_images, tar_images):
        with pytest.raises(ValueError, match=r"empty' has no "):
            images_in(str(tmp_path / "empty"))


def test_fifty_thousand_images_are_small_when_pickled(tmp_path: Path):
    order = np.random.default_rng(0).permutation(50000)
    names = [f"ILSVRC2012_val_{number + 1:08}_n{number % 1000:08}.JPEG" for number in order]
    parquet(tmp_path / "a.parquet", [(b"", name, i % 1000) for i, name in enumerate(names)], group=100)
    labels = ["ab"[number % 2] for number in order]
    files = build_list("/val", names, labels)
    places = np.stack([order * 0, order * 997, order], axis=1)
    tars = build_list("/val", names, labels, opener_of=partial(open_members, ["/val/a.tar"], places))
    for source, limit in ((files, 1e6), (parquet_images(str(tmp_path)), 1e6), (tars, 2e6)):
        sent = pickle.dumps(source)
        assert len(sent) < limit
        assert pickle.loads(sent).names() == source.names()
        assert source.num_images == 50000


@pytest.mark.parametrize("layout", ["flat", "parquet", "tar"])
def test_hash_depends_on_names_and_classes_but_not_on_the_folder(tmp_path: Path, layout: str):
    def written(place: str, name: int, class_id: int) -> int:
        """Return the hash of two images; the second has this name and class."""
        if layout == "flat":
            devkit(tmp_path / place, [1, *[class_id] * 8])
            validation(tmp_path / place, 1, name)
        elif layout == "parquet":
            parquet(tmp_path / place / "a.parquet", [(b"", "1.png", 1), (b"", f"{name}.png", class_id)])
        else:
            tar(
                tmp_path / place / "a.tar",
                *({"__key__": str(k), "png": b"", "cls": c} for k, c in ((1, 1), (name, class_id))),
            )
        return open_layout(str(tmp_path / place)).names_hash

    assert written("here", 2, 2) == written("there", 2, 2)
    assert len({written("a", 2, 2), written("b", 3, 2), written("c", 2, 3)}) == 3


def test_hidden_members_of_a_tar_are_skipped(tmp_path: Path):
    hidden = ["./.__a.jpg", "__MACOSX/a.jpg", ".Trashes/a.jpg", "train/@eaDir/a.jpg", "train/.__a.cls"]
    members = {"train/a.jpg": png(5), "train/a.cls": b"owl", **dict.fromkeys(hidden, b"no image")}
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name.replace(".__", "._"))
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    source = tar_images(str(tmp_path))
    assert (greys(source), classes_of(source)) == ([5], ["owl"])


def test_pipes_among_tars_do_not_block(tmp_path: Path):
    tar(tmp_path / "a.tar", {"png": png(3), "cls": 0})
    os.mkfifo(tmp_path / "b.tar")
    assert greys(open_layout(str(tmp_path))) == [3]
    with pytest.raises(ValueError, match=r"b\.tar' has no images with known classes"):
        open_layout(str(tmp_path / "b.tar"))


def test_link_to_its_own_folder_is_no_split(tmp_path: Path):
    tar(tmp_path / "a.tar", {"png": png(3), "cls": 0})
    (tmp_path / "val").symlink_to(".")
    (tmp_path / "test").symlink_to("test")
    assert greys(open_layout(str(tmp_path))) == [3]


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_invalid_name_is_reported(name: str):
    with pytest.raises(ValueError, match=r"cannot name a file or a class\. Rename it"):
        pack_names([name])


def test_tiny_imagenet_is_read_as_it_is_shipped(tmp_path: Path):
    root = tmp_path / "tiny-imagenet-200"
    for wnid, grey in (("n01443537", 10), ("n01629819", 20)):
        png_at(root / "train" / wnid / "images" / f"{wnid}_0.JPEG", grey)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t10\t63\t58\n")
    for number, grey in ((0, 30), (1, 31), (2, 32)):
        png_at(root / "val" / "images" / f"val_{number}.JPEG", grey)
    lines = (
        "val_0.JPEG\tn01629819\t0\t32\t44\t62",
        "val_1.JPEG\tn01443537\t52\t55\t57\t59",
        "val_2.JPEG\tn01443537\t1",
    )
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines))
    png_at(root / "test" / "images" / "test_0.JPEG")
    for place in (tmp_path, root, root / "val", root / "val" / "images"):
        source = open_layout(str(place))
        assert classes_of(source) == ["n01629819", "n01443537", "n01443537"]
        assert [np.asarray(source.opener()(i))[0, 0, 0] for i in range(3)] == [30, 31, 32]
    assert classes_of(open_layout(str(tmp_path), split="train")) == ["n01443537", "n01629819"]
    (root / "val" / "val_annotations.txt").write_text(lines[0])
    with pytest.raises(
        ValueError, match=r"2 of 3 images in '.*val' are not in '.*annotations\.txt', first 'images/val_1"
    ):
        open_layout(str(root))


def test_tiny_imagenets_test_has_no_labels_and_is_refused(tmp_path: Path):
    png_at(tmp_path / "train" / "n01443537" / "images" / "n01443537_0.JPEG")
    png_at(tmp_path / "test" / "images" / "test_0.JPEG")
    with pytest.raises(ValueError, match=r"^[^\n]*test' has all images in one folder, images, and no val_annotations"):
        open_layout(str(tmp_path / "test"))
    for split in ("", "test"):
        with pytest.raises(ValueError, match=r"^[^\n]* Other folders in it have some: train\. Use [^\n]*/train'\.$"):
            open_layout(str(tmp_path), split)


def test_tiny_imagenet_may_be_sorted_into_class_folders(tmp_path: Path):
    png_at(tmp_path / "n01443537" / "val_1.JPEG", 31)
    png_at(tmp_path / "n01629819" / "images" / "val_0.JPEG", 30)
    (tmp_path / "images").mkdir()
    (tmp_path / "val_annotations.txt").write_text("val_0.JPEG\tn01629819\t0\nval_1.JPEG\tn01443537\t0\n")
    source = open_layout(str(tmp_path))
    assert source.classes == ("n01443537", "n01629819")
    assert greys(source) == [31, 30]
    png_at(tmp_path / "images" / "val_0.JPEG")
    with pytest.raises(ValueError, match="has images both in class folders and next to them"):
        open_layout(str(tmp_path))


def test_kaggles_imagenet_is_read_from_any_of_its_folders(tmp_path: Path):
    data = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    validation(data / "val", 1, 2)
    png_at(data / "train" / "n01440764" / "n01440764_10026.JPEG", 7)
    png_at(data / "test" / "ILSVRC2012_test_00000001.JPEG")
    rows = (
        "ILSVRC2012_val_00000002,n02100735 1 2 3 4 n02100735 5 6 7 8 ",
        "ILSVRC2012_val_00000001,n01440764 1 2 3 4 ",
    )
    (tmp_path / "LOC_val_solution.csv").write_text("\n".join(("ImageId,PredictionString", *rows)))
    for place in (tmp_path, tmp_path / "ILSVRC", data.parent, data, data / "val"):
        assert classes_of(open_layout(str(place))) == ["n01440764", "n02100735"]
    assert classes_of(open_layout(str(tmp_path), split="train")) == ["n01440764"]


def test_wnid_in_an_images_name_is_its_class(tmp_path: Path):
    png_at(tmp_path / "a" / "ILSVRC2012_val_00000001_n01751748.JPEG")
    png_at(tmp_path / "a" / "ILSVRC2012_val_00000002_n01440764.JPEG")
    png_at(tmp_path / "b" / "n01440764_10026_n01440764.JPEG")
    assert classes_of(open_layout(str(tmp_path / "a"))) == ["n01751748", "n01440764"]
    assert classes_of(open_layout(str(tmp_path / "b"))) == ["n01440764"]


@pytest.mark.parametrize("place", ["data", "plain_text", "cifar100"])
def test_cifars_parquet_is_read_by_its_own_columns(tmp_path: Path, place: str):
    images = pa.array([{"bytes": png(grey), "path": None} for grey in (5, 6)], PARQUET_IMAGE)
    table = pa.table({"img": images, "fine_label": pa.array([1, 0]), "coarse_label": pa.array([0, 0])})
    (tmp_path / place).mkdir()
    pq.write_table(table, tmp_path / place / "test-00000-of-00001.parquet")
    source = open_layout(str(tmp_path))
    assert classes_of(source) == ["1", "0"]
    assert [np.asarray(source.opener()(i))[0, 0, 0] for i in range(2)] == [5, 6]
