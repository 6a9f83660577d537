import dataclasses
from pathlib import Path

import pytest

import generation.shards
from generation.config import DataConfig
from generation.recipe import Recipe
from generation.shard_set import ShardSet, check_same, new_shard_set, read_shard_set
from generation.shards import reading_units
from generation.storage import Storage, StorageError

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
    with pytest.raises(ValueError, match=r"shard_size is 1024, no multiple of the 96 images .*Try 960"):
        new_shard_set(Storage(str(tmp_path)), painted, range(10), batch_size=96, data=DataConfig())


def test_a_manifest_says_what_a_place_is_for(painted: Recipe, tmp_path: Path):
    assert read_shard_set(Storage(str(tmp_path / "none"))) is None
    shards = set_of(painted, tmp_path, 10).extended(17)
    shards.claim(None)
    found = read_shard_set(Storage(str(tmp_path)))
    assert found is not None
    assert dataclasses.replace(found, storage=shards.storage) == shards
    check_same(found, painted, FOURS)


def test_of_two_jobs_that_take_a_place_one_is_told(painted: Recipe, tmp_path: Path):
    ten = set_of(painted, tmp_path, 10)
    ten.claim(None)
    with pytest.raises(StorageError, match="was taken by another job meanwhile"):
        dataclasses.replace(ten, recipe=dataclasses.replace(painted, seed=1)).claim(None)
    ten.extended(20).claim(ten)
    with pytest.raises(StorageError, match="was taken by another job meanwhile"):
        ten.extended(30).claim(ten)
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
    with pytest.raises(StorageError, match=r"holds files, but no manifest\.json"):
        read_shard_set(Storage(str(tmp_path)))
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(StorageError, match="is no manifest of this version"):
        read_shard_set(Storage(str(tmp_path)))


def test_a_shard_without_its_index_counts_as_missing(painted: Recipe, tmp_path: Path):
    shards = set_of(painted, tmp_path, 10)
    for name in ("shard-000000.tar", "shard-000001.tar", "index/shard-000000.parquet", "index/shard-000002.parquet"):
        shards.storage.write(name, b"")
    assert shards.missing() == [1, 2]


def positions_of(shards: ShardSet, positions: range) -> list[tuple[int, int, int]]:
    """Return (lap, shard, place in the shard) of each position."""
    return [
        (unit["lap"], unit["number"], unit["row"] + place)
        for unit in reading_units(shards, positions, seed=5)
        for place in range(unit["start"], unit["stop"])
    ]


@pytest.mark.parametrize("images_at_once", [3, 1000])
def test_the_order_goes_through_the_set_again_and_again_and_may_be_taken_up_anywhere(
    images_at_once: int, painted: Recipe, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(generation.shards, "PART_BYTES", images_at_once * painted.image_bytes)
    shards = set_of(painted, tmp_path, 10)
    order = positions_of(shards, range(25))
    places = sorted((number, place) for number in range(3) for place in range(len(shards.ranges[number])))
    assert sorted(order[:10]) == [(0, *place) for place in places]
    assert sorted(order[10:20]) == [(1, *place) for place in places]
    assert len(set(order)) == 25
    for start in range(25):
        assert positions_of(shards, range(start, 25)) == order[start:]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_format": "png", "quality": 90}, r"quality is 90; for png give 0 to 0"),
        ({"image_format": "jpg"}, r"quality is 0; for jpg give 1 to 100"),
        ({"shard_size": 0}, r"data\.shard_size is 0; give 1 or more"),
        ({"source": "shards"}, r"data\.shards names none"),
        ({"source": "shards", "shards": "a", "tee": "b"}, r"Leave one of them out"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        DataConfig(**settings)
