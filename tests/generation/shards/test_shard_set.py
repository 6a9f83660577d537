import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from generation.config import GenerationConfig
from generation.indices import IndexSet, SampleRequest
from generation.pool.service import GenerationService
from generation.recipes.recipe import Recipe
from generation.sample import NO_LABEL
from generation.shards import datasets
from generation.shards.config import DataConfig
from generation.shards.datasets import ShardReader, open_index_of, read_samples, reading_units
from generation.shards.shard import ImageFormat, Shard, ShardWriter
from generation.shards.shard_set import ShardSet, check_same, index_name, new_shard_set, read_shard_set, shard_name
from generation.shards.storage import Storage, StorageError
from tests.support.samples import painted_batch, painted_shard

FOURS = DataConfig(shard_size=4)


def set_of(recipe: Recipe, folder: Path, num_images: int, first_index: int = 0) -> ShardSet:
    indices = range(first_index, first_index + num_images)
    return new_shard_set(Storage(str(folder)), recipe, indices, batch_size=2, data=FOURS)


def test_extended_set_keeps_its_ranges(painted: Recipe, tmp_path: Path):
    ten = set_of(painted, tmp_path, 10)
    assert ten.ranges == (range(4), range(4, 8), range(8, 10))
    assert ten.extended(10) is ten
    more = ten.extended(17)
    assert more.ranges == (range(4), range(4, 8), range(8, 10), range(10, 12), range(12, 16), range(16, 17))
    assert more.extended(18).num_images == 18
    assert set_of(painted, tmp_path, 6, first_index=100).ranges == (range(100, 104), range(104, 106))


def test_shard_size_is_a_multiple_of_the_batch_size(painted: Recipe, tmp_path: Path):
    with pytest.raises(ValueError, match=r"shard_size is 1024, which is not a multiple of the batch size 96\. Use 960"):
        new_shard_set(Storage(str(tmp_path)), painted, range(10), batch_size=96, data=DataConfig())


def test_manifest_restores_the_set(painted: Recipe, tmp_path: Path):
    assert read_shard_set(Storage(str(tmp_path / "none"))) is None
    shards = set_of(painted, tmp_path, 10).extended(17)
    shards.write_manifest(None)
    found = read_shard_set(Storage(str(tmp_path)))
    assert found is not None
    assert dataclasses.replace(found, storage=shards.storage) == shards
    check_same(found, painted, FOURS)


def test_one_of_two_jobs_that_create_or_extend_a_set_fails(painted: Recipe, tmp_path: Path):
    ten = set_of(painted, tmp_path, 10)
    ten.write_manifest(None)
    with pytest.raises(StorageError, match="Another job has just started or extended a data set"):
        dataclasses.replace(ten, recipe=dataclasses.replace(painted, seed=1)).write_manifest(None)
    ten.extended(20).write_manifest(ten)
    with pytest.raises(StorageError, match="Another job has just started or extended a data set"):
        ten.extended(30).write_manifest(ten)
    found = read_shard_set(ten.storage)
    assert found is not None
    assert (found.recipe, found.ends) == (painted, (10, 20))


def test_needed_shards_hold_the_first_images(painted: Recipe, tmp_path: Path):
    shards = set_of(painted, tmp_path, 10, first_index=100)
    assert [shards.needed(number) for number in (1, 4, 5, 10)] == [[0], [0], [0, 1], [0, 1, 2]]


def test_other_recipe_or_storage_settings_are_an_error_with_the_differences(painted: Recipe, tmp_path: Path):
    shards = set_of(painted, tmp_path, 10)
    other = dataclasses.replace(painted, seed=3, guidance_scale=(7.5,))
    with pytest.raises(
        ValueError, match=r"recipe\.seed is 0 in the data set, 3 in this job; recipe\.guidance_scale is \[2\.0\] in the"
    ):
        check_same(shards, other, FOURS)
    with pytest.raises(
        ValueError, match=r"data\.shard_size is 4 in the data set, 8 in this job; data\.image_format is 'png' in the"
    ):
        check_same(shards, painted, DataConfig(shard_size=8, image_format="webp"))
    check_same(shards, painted)  # readers need not know the storage settings


def test_folder_with_other_files_or_another_manifest_is_an_error(painted: Recipe, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"has files but no manifest\.json"):
        read_shard_set(Storage(str(tmp_path)))
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(StorageError, match="is not a manifest of this version"):
        read_shard_set(Storage(str(tmp_path)))


def test_shard_without_index_is_missing(painted: Recipe, tmp_path: Path):
    shards = set_of(painted, tmp_path, 10)
    for name in ("shard-000000.tar", "shard-000001.tar", "index/shard-000000.parquet", "index/shard-000002.parquet"):
        shards.storage.write(name, b"")
    assert shards.missing() == [1, 2]


@pytest.fixture
def two_writers(painted: Recipe) -> tuple[Shard, Shard]:
    """The same shard from two kinds of GPU, one of which sets the last bit of each value."""
    batch = painted_batch(painted, range(4))
    written = []
    for bit in (0, 1):
        writer = ShardWriter(painted, shard_name(0), ImageFormat("png", 0))
        writer.add({**batch, "image": batch["image"] & 0xFE | bit})
        written.append(writer.finish())
    return written[0], written[1]


def lowest_bit(shards: ShardSet) -> int:
    """Return which writer's images are stored; StorageError if the tar does not match its index."""
    (bit,) = set((read_samples(shards, 0, open_index_of(shards, 0), np.arange(4))["image"] & 1).ravel().tolist())
    return bit


def test_shard_of_the_first_writer_is_kept(two_writers: tuple[Shard, Shard], painted: Recipe, tmp_path):
    shards = set_of(painted, tmp_path, 4)
    for shard in two_writers:
        shards.store(0, shard)
        assert lowest_bit(shards) == 0


def test_shard_of_the_first_writer_with_a_left_out_sample_is_kept(painted: Recipe, tmp_path: Path):
    batch, shards = painted_batch(painted, range(4)), set_of(painted, tmp_path, 4)
    batch["label"][2], batch["attempt"][2] = NO_LABEL, 3
    for bit in (0, 1):
        writer = ShardWriter(painted, shard_name(0), ImageFormat("png", 0))
        writer.add({**batch, "image": batch["image"] & 0xFE | bit})
        shards.store(0, writer.finish())
    rows = open_index_of(shards, 0)
    samples = read_samples(shards, 0, rows, np.arange(4))
    assert samples["label"].tolist() == batch["label"].tolist()
    assert not (samples["image"] & 1).any()


@pytest.mark.parametrize("is_killed", [False, True])
def test_writer_overtaken_between_tar_and_index_leaves_a_matching_pair(
    is_killed: bool, two_writers: tuple[Shard, Shard], painted: Recipe, tmp_path
):
    shards, (slow, fast) = set_of(painted, tmp_path, 4), two_writers
    assert shards.storage.write_new(shard_name(0), slow.tar)
    shards.store(0, fast)
    if not is_killed:
        shards.storage.write(index_name(0), slow.index_file())
    assert lowest_bit(shards) == 0


@pytest.mark.parametrize("num_samples", [0, 3])
def test_partial_shard_of_a_killed_writer_is_replaced(
    num_samples: int, two_writers: tuple[Shard, Shard], painted: Recipe, tmp_path
):
    shards, (killed, other) = set_of(painted, tmp_path, 4), two_writers
    left = (
        painted_shard(painted, range(num_samples)).tar if num_samples else killed.tar[:700]
    )  # within the first sample
    shards.storage.write(shard_name(0), left)
    shards.store(0, other)
    assert lowest_bit(shards) == 1


def test_damaged_shard_is_replaced(two_writers: tuple[Shard, Shard], painted: Recipe, tmp_path):
    shards = set_of(painted, tmp_path, 4)
    shards.store(0, two_writers[0])
    shards.replace(0, two_writers[1])
    assert lowest_bit(shards) == 1


def slices_in(shards: ShardSet, wanted: IndexSet) -> list[tuple[int, int]]:
    """Return (pass, first position) of each slice, in reading order."""
    return [(unit["pass"], unit["position"]) for unit in reading_units(shards, 5, SampleRequest(wanted))]


THREE_IMAGES = 3 * 16 * 16 * 3
"""Bytes of three images: a set of ten in shards of four has slices of 3, 1, 3, 1 and 2 images."""


def test_slices_have_their_position_in_the_set_and_in_their_shard(painted: Recipe, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(datasets, "SLICE_BYTES", THREE_IMAGES)
    wanted = SampleRequest(IndexSet.of(np.array([1, 9, 13, 17, 18])), in_order=True)
    assert reading_units(set_of(painted, tmp_path, 10, first_index=100), 5, wanted) == [
        {"pass": 0, "number": 0, "row": 0, "num_rows": 3, "position": 0},
        {"pass": 0, "number": 2, "row": 0, "num_rows": 2, "position": 8},
        {"pass": 1, "number": 0, "row": 3, "num_rows": 1, "position": 3},
        {"pass": 1, "number": 1, "row": 3, "num_rows": 1, "position": 7},
        {"pass": 1, "number": 2, "row": 0, "num_rows": 2, "position": 8},
    ]


@pytest.mark.parametrize(
    ("slice_bytes", "first_positions"), [(THREE_IMAGES, [0, 3, 4, 7, 8]), (10**6, [0, 4, 8])], ids=["small", "whole"]
)
def test_each_pass_has_its_own_order_and_subsets_keep_it(
    slice_bytes: int, first_positions: list[int], painted: Recipe, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(datasets, "SLICE_BYTES", slice_bytes)
    shards = set_of(painted, tmp_path, 10)
    whole = slices_in(shards, IndexSet.of_ranges([range(200)]))
    passes = [[position for of_pass, position in whole if of_pass == number] for number in range(20)]
    assert [number for number, _ in whole] == sorted(number for number, _ in whole)
    assert all(sorted(positions) == first_positions for positions in passes)
    assert len({tuple(positions) for positions in passes}) > 1
    for seed in range(10):
        wanted = np.random.default_rng(seed).integers(0, 200, size=30)
        last_starts = np.searchsorted(first_positions, wanted % 10, side="right") - 1
        held = {(serial // 10, first_positions[i]) for serial, i in zip(wanted.tolist(), last_starts, strict=True)}
        assert slices_in(shards, IndexSet.of(wanted)) == [each for each in whole if each in held]


def units_of_tee(shards: ShardSet, num_images: int, wanted: SampleRequest, monkeypatch) -> list[dict[str, int]]:
    """Return a tee's units of work, in order."""
    blocks: list[dict[str, list[int]]] = []
    monkeypatch.setattr(datasets, "request_units", lambda *arguments: blocks.extend(arguments[3]))
    monkeypatch.setattr(datasets, "bound_memory", lambda *arguments: None)
    service = GenerationService("pool", cast(Any, None), cast(Any, None))
    datasets.tee_samples(service, GenerationConfig(), shards, num_images, wanted, seed=5)
    return [
        {name: column[i] for name, column in block.items()} for block in blocks for i in range(len(block["number"]))
    ]


def test_later_passes_of_a_tee_have_the_order_of_existing_shards(painted: Recipe, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(datasets, "SLICE_BYTES", THREE_IMAGES)
    shards, wanted = set_of(painted, tmp_path, 10), IndexSet.of_ranges([range(200)])
    units = units_of_tee(shards, 10, SampleRequest(wanted), monkeypatch)
    assert [(unit["pass"], unit["number"]) for unit in units[:3]] == [(0, 0), (0, 1), (0, 2)]
    later = [(unit["pass"], unit["position"]) for unit in units[3:]]
    assert later == [(number, position) for number, position in slices_in(shards, wanted) if number]
    assert len({tuple(position for of_pass, position in later if of_pass == number) for number in range(1, 20)}) > 1


def test_shard_first_needed_in_a_later_pass_is_generated_before_that_pass(painted: Recipe, tmp_path: Path, monkeypatch):
    wanted = IndexSet.of(np.array([1, 15]))  # shard 0 in the first pass, shard 1 in the second
    units = units_of_tee(set_of(painted, tmp_path, 10), 10, SampleRequest(wanted), monkeypatch)
    assert [(unit["pass"], unit["number"]) for unit in units] == [(0, 0), (0, 1), (1, 1)]


@pytest.mark.parametrize("in_order", [False, True])
def test_reader_yields_the_requested_samples_of_a_slice(in_order: bool, painted: Recipe, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(datasets, "SLICE_BYTES", THREE_IMAGES)
    shards, kept = set_of(painted, tmp_path, 4, first_index=100), painted_shard(painted, range(100, 104))
    shards.storage.write(shard_name(0), kept.tar)
    shards.storage.write(index_name(0), kept.index_file())
    wanted = SampleRequest(
        IndexSet.of(np.array([1, 8, 10, 11])), in_order=in_order
    )  # of passes 0 and 2, in slices of 3 and 1
    reader = ShardReader(shards, 5, wanted)
    units = [{name: np.array([value]) for name, value in unit.items()} for unit in reading_units(shards, 5, wanted)]
    slices = [each for unit in units for each in reader(unit)]
    serials = [each["serial"].tolist() for each in slices]
    assert sorted(sorted(each) for each in serials) == [[1], [8, 10], [11]]
    if in_order:
        assert serials == [[1], [8, 10], [11]]
    rows, painted_rows = (
        np.concatenate([each["serial"] for each in slices]) % 4,
        painted_batch(painted, range(100, 104)),
    )
    for name in ("index", "label", "image"):
        np.testing.assert_array_equal(np.concatenate([each[name] for each in slices]), painted_rows[name][rows])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_format": "png", "quality": 90}, r"quality is 90; use 0 \(always lossless\) for png"),
        ({"image_format": "jpg"}, r"quality is 0; use 1 to 100 for jpg"),
        ({"shard_size": 0}, r"data\.shard_size is 0; use 1 or more"),
        ({"source": "shards"}, r"data\.shards is empty"),
        (
            {"source": "shards", "shards": "a", "tee": "b"},
            r"data\.tee stores generated images, but data\.source is shards",
        ),
    ],
)
def test_invalid_settings_are_an_error(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        DataConfig(**settings)
