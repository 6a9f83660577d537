import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from generation.config import GenerationConfig
from generation.indices import IndexSet, Wanted
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


def test_shards_are_ranges_and_an_extended_set_keeps_those_it_has(painted: Recipe, tmp_path: Path):
    ten = set_of(painted, tmp_path, 10)
    assert ten.ranges == (range(4), range(4, 8), range(8, 10))
    assert ten.extended(10) is ten
    more = ten.extended(17)
    assert more.ranges == (range(4), range(4, 8), range(8, 10), range(10, 12), range(12, 16), range(16, 17))
    assert more.extended(18).num_images == 18
    assert set_of(painted, tmp_path, 6, first_index=100).ranges == (range(100, 104), range(104, 106))


def test_shards_are_filled_by_whole_batches(painted: Recipe, tmp_path: Path):
    with pytest.raises(ValueError, match=r"shard_size is 1024, which is not a multiple of the batch size 96\. Use 960"):
        new_shard_set(Storage(str(tmp_path)), painted, range(10), batch_size=96, data=DataConfig())


def test_a_manifest_says_what_a_place_is_for(painted: Recipe, tmp_path: Path):
    assert read_shard_set(Storage(str(tmp_path / "none"))) is None
    shards = set_of(painted, tmp_path, 10).extended(17)
    shards.write_manifest(None)
    found = read_shard_set(Storage(str(tmp_path)))
    assert found is not None
    assert dataclasses.replace(found, storage=shards.storage) == shards
    check_same(found, painted, FOURS)


def test_of_two_jobs_that_take_a_place_one_is_told(painted: Recipe, tmp_path: Path):
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


def test_the_first_images_need_the_shards_that_hold_them(painted: Recipe, tmp_path: Path):
    shards = set_of(painted, tmp_path, 10, first_index=100)
    assert [shards.needed(number) for number in (1, 4, 5, 10)] == [[0], [0], [0, 1], [0, 1, 2]]


def test_another_recipe_or_another_way_to_keep_images_is_refused_with_what_differs(painted: Recipe, tmp_path: Path):
    shards = set_of(painted, tmp_path, 10)
    other = dataclasses.replace(painted, seed=3, guidance_scale=(7.5,))
    with pytest.raises(ValueError, match=r"recipe\.seed is 0 there, 3 here; recipe\.guidance_scale is \[2\.0\] there"):
        check_same(shards, other, FOURS)
    with pytest.raises(ValueError, match=r"data\.shard_size is 4 there, 8 here; data\.image_format is 'png' there"):
        check_same(shards, painted, DataConfig(shard_size=8, image_format="webp"))
    check_same(shards, painted)  # who only reads need not say how they are kept


def test_a_place_of_other_files_or_of_another_version_is_refused(painted: Recipe, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"has files but no manifest\.json"):
        read_shard_set(Storage(str(tmp_path)))
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(StorageError, match="is not a manifest of this version"):
        read_shard_set(Storage(str(tmp_path)))


def test_a_shard_without_its_index_counts_as_missing(painted: Recipe, tmp_path: Path):
    shards = set_of(painted, tmp_path, 10)
    for name in ("shard-000000.tar", "shard-000001.tar", "index/shard-000000.parquet", "index/shard-000002.parquet"):
        shards.storage.write(name, b"")
    assert shards.missing() == [1, 2]


@pytest.fixture
def two_makers(painted: Recipe) -> tuple[Shard, Shard]:
    """One shard by two kinds of GPU, of which one sets the last bit of each value."""
    batch = painted_batch(painted, range(4))
    makers = []
    for bit in (0, 1):
        writer = ShardWriter(painted, shard_name(0), ImageFormat("png", 0))
        writer.add({**batch, "image": batch["image"] & 0xFE | bit})
        makers.append(writer.finish())
    return makers[0], makers[1]


def lowest_bit(shards: ShardSet) -> int:
    """Return whose images are kept; StorageError if the tar does not fit its index."""
    (bit,) = set((read_samples(shards, 0, open_index_of(shards, 0), np.arange(4))["image"] & 1).ravel().tolist())
    return bit


def test_of_two_makers_of_a_shard_the_first_ones_stays(two_makers: tuple[Shard, Shard], painted: Recipe, tmp_path):
    shards = set_of(painted, tmp_path, 4)
    for shard in two_makers:
        shards.store(0, shard)
        assert lowest_bit(shards) == 0


def test_of_two_makers_of_a_shard_with_a_sample_left_out_the_first_ones_stays(painted: Recipe, tmp_path: Path):
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
def test_a_maker_that_is_overtaken_between_its_tar_and_its_index_leaves_a_shard_that_fits(
    is_killed: bool, two_makers: tuple[Shard, Shard], painted: Recipe, tmp_path
):
    shards, (slow, fast) = set_of(painted, tmp_path, 4), two_makers
    assert shards.storage.write_new(shard_name(0), slow.tar)
    shards.store(0, fast)
    if not is_killed:
        shards.storage.write(index_name(0), slow.index_file())
    assert lowest_bit(shards) == 0


@pytest.mark.parametrize("num_samples", [0, 3])
def test_part_of_a_shard_that_a_killed_maker_left_is_replaced(
    num_samples: int, two_makers: tuple[Shard, Shard], painted: Recipe, tmp_path
):
    shards, (killed, other) = set_of(painted, tmp_path, 4), two_makers
    left = painted_shard(painted, range(num_samples)).tar if num_samples else killed.tar[:700]  # amid the first
    shards.storage.write(shard_name(0), left)
    shards.store(0, other)
    assert lowest_bit(shards) == 1


def test_a_damaged_shard_is_replaced(two_makers: tuple[Shard, Shard], painted: Recipe, tmp_path):
    shards = set_of(painted, tmp_path, 4)
    shards.store(0, two_makers[0])
    shards.replace(0, two_makers[1])
    assert lowest_bit(shards) == 1


def parts_in(shards: ShardSet, wanted: IndexSet) -> list[tuple[int, int]]:
    """Return (pass, first position) of each part, in the order in which they are read."""
    return [(unit["pass"], unit["position"]) for unit in reading_units(shards, 5, Wanted(wanted))]


THREE_IMAGES = 3 * 16 * 16 * 3
"""Bytes: a set of ten in shards of four has parts of 3, 1, 3, 1 and 2 images."""


def test_parts_in_order_say_where_their_samples_lie_in_the_set_and_in_their_shard(
    painted: Recipe, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(datasets, "SLICE_BYTES", THREE_IMAGES)
    wanted = Wanted(IndexSet.of(np.array([1, 9, 13, 17, 18])), in_order=True)
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
def test_each_pass_has_its_own_order_and_a_part_of_it_keeps_that_order(
    slice_bytes: int, first_positions: list[int], painted: Recipe, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(datasets, "SLICE_BYTES", slice_bytes)
    shards = set_of(painted, tmp_path, 10)
    whole = parts_in(shards, IndexSet.of_ranges([range(200)]))
    passes = [[position for of_pass, position in whole if of_pass == number] for number in range(20)]
    assert [number for number, _ in whole] == sorted(number for number, _ in whole)
    assert all(sorted(positions) == first_positions for positions in passes)
    assert len({tuple(positions) for positions in passes}) > 1
    for seed in range(10):
        wanted = np.random.default_rng(seed).integers(0, 200, size=30)
        last_starts = np.searchsorted(first_positions, wanted % 10, side="right") - 1
        held = {(serial // 10, first_positions[i]) for serial, i in zip(wanted.tolist(), last_starts, strict=True)}
        assert parts_in(shards, IndexSet.of(wanted)) == [part for part in whole if part in held]


def units_of_tee(shards: ShardSet, num_images: int, wanted: Wanted, monkeypatch) -> list[dict[str, int]]:
    """Return the units of work of a stream that is kept, in their order, with the pass of each."""
    blocks: list[dict[str, list[int]]] = []
    monkeypatch.setattr(datasets, "ask_units", lambda *arguments: blocks.extend(arguments[3]))
    monkeypatch.setattr(datasets, "bound_memory", lambda *arguments: None)
    datasets.tee_samples(cast(Any, None), GenerationConfig(), shards, num_images, wanted, seed=5)
    return [
        {name: column[i] for name, column in block.items()} for block in blocks for i in range(len(block["number"]))
    ]


def test_later_passes_over_what_is_kept_meanwhile_are_in_the_order_of_shards_that_are_there(
    painted: Recipe, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(datasets, "SLICE_BYTES", THREE_IMAGES)
    shards, wanted = set_of(painted, tmp_path, 10), IndexSet.of_ranges([range(200)])
    units = units_of_tee(shards, 10, Wanted(wanted), monkeypatch)
    assert [(unit["pass"], unit["number"]) for unit in units[:3]] == [(0, 0), (0, 1), (0, 2)]
    later = [(unit["pass"], unit["position"]) for unit in units[3:]]
    assert later == [(number, position) for number, position in parts_in(shards, wanted) if number]
    assert len({tuple(position for of_pass, position in later if of_pass == number) for number in range(1, 20)}) > 1


def test_a_shard_that_a_later_pass_alone_takes_is_made_before_it(painted: Recipe, tmp_path: Path, monkeypatch):
    wanted = IndexSet.of(np.array([1, 15]))  # of shard 0 in the first pass, of shard 1 in the second
    units = units_of_tee(set_of(painted, tmp_path, 10), 10, Wanted(wanted), monkeypatch)
    assert [(unit["pass"], unit["number"]) for unit in units] == [(0, 0), (0, 1), (1, 1)]


@pytest.mark.parametrize("in_order", [False, True])
def test_a_reader_yields_what_is_wanted_of_a_part_with_the_samples_of_its_serials(
    in_order: bool, painted: Recipe, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(datasets, "SLICE_BYTES", THREE_IMAGES)
    shards, kept = set_of(painted, tmp_path, 4, first_index=100), painted_shard(painted, range(100, 104))
    shards.storage.write(shard_name(0), kept.tar)
    shards.storage.write(index_name(0), kept.index_file())
    wanted = Wanted(IndexSet.of(np.array([1, 8, 10, 11])), in_order=in_order)  # of passes 0 and 2, in parts of 3 and 1
    reader = ShardReader(shards, 5, wanted)
    units = [{name: np.array([value]) for name, value in unit.items()} for unit in reading_units(shards, 5, wanted)]
    parts = [part for unit in units for part in reader(unit)]
    serials = [part["serial"].tolist() for part in parts]
    assert sorted(sorted(part) for part in serials) == [[1], [8, 10], [11]]
    if in_order:
        assert serials == [[1], [8, 10], [11]]
    rows, painted_rows = np.concatenate([part["serial"] for part in parts]) % 4, painted_batch(painted, range(100, 104))
    for name in ("index", "label", "image"):
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), painted_rows[name][rows])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_format": "png", "quality": 90}, r"quality is 90; use 0 \(always lossless\) for png"),
        ({"image_format": "jpg"}, r"quality is 0; use 1 to 100 for jpg"),
        ({"shard_size": 0}, r"data\.shard_size is 0; give 1 or more"),
        ({"source": "shards"}, r"data\.shards is empty"),
        (
            {"source": "shards", "shards": "a", "tee": "b"},
            r"data\.tee stores generated images, but data\.source is shards",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        DataConfig(**settings)
