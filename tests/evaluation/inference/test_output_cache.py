"""Output cache in Parquet: cached rows, missing rows, unchanged values."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from evaluation.inference import output_cache
from evaluation.inference.output_cache import Columns, OutputCache, folder_name
from generation.shards.storage import StorageError


def opened(folder: Path, num_rows: int = 6) -> OutputCache:
    kept = OutputCache(folder, num_rows)
    kept.open({"set": "birds"})
    return kept


def rows(*numbers: int) -> Columns:
    """Return rows with the vector `[row, -row]` and the guess 100 * row."""
    row = np.array(numbers, dtype=np.int64)
    return {
        "row": row,
        "feature": np.stack([row, -row], axis=1).astype(np.float32),
        "guess": row.astype(np.int32) * 100,
    }


def check(kept: OutputCache, *numbers: int) -> None:
    expected = rows(*numbers)
    assert kept.rows().tolist() == list(numbers)
    for name in ("feature", "guess"):
        found = kept.read(name)
        assert found.dtype == expected[name].dtype
        np.testing.assert_array_equal(found, expected[name])


def test_rows_are_read_in_order_with_shapes_and_types(tmp_path: Path):
    kept = opened(tmp_path)
    kept.add(rows(5, 0))
    kept.flush()
    kept.add(rows(3))
    kept.add(rows(2))
    kept.flush()
    assert len(list(tmp_path.glob("part-*.parquet"))) == 2
    check(kept, 0, 2, 3, 5)
    assert kept.read("feature").shape == (4, 2)
    assert kept.missing().tolist() == [1, 4]
    check(opened(tmp_path), 0, 2, 3, 5)


def test_rows_of_two_writers_are_read_once(tmp_path: Path):
    for numbers in ((4, 2, 1), (1, 4, 0)):
        writer = opened(tmp_path)
        writer.add(rows(*numbers))
        writer.flush()
    kept = opened(tmp_path)
    check(kept, 0, 1, 2, 4)
    assert kept.missing().tolist() == [3, 5]


def test_empty_cache_misses_all_rows(tmp_path: Path):
    kept = opened(tmp_path, num_rows=3)
    kept.add(rows())
    kept.flush()
    assert kept.missing().tolist() == [0, 1, 2]
    assert (kept.rows().tolist(), kept.read("feature").tolist()) == ([], [])
    assert [path.name for path in tmp_path.iterdir()] == ["about.json"]
    assert opened(tmp_path, num_rows=0).missing().tolist() == []


def test_unflushed_rows_are_missing(tmp_path: Path):
    kept = opened(tmp_path)
    kept.add(rows(0, 1))
    assert opened(tmp_path).missing().tolist() == [0, 1, 2, 3, 4, 5]
    kept.flush()
    assert opened(tmp_path).missing().tolist() == [2, 3, 4, 5]


def test_part_is_written_after_enough_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(output_cache, "PART_BYTES", 60)  # a row has 8 + 2 * 4 + 4 bytes
    kept = opened(tmp_path)
    kept.add(rows(0, 1))
    assert len(kept.missing()) == 6
    kept.add(rows(2))
    assert kept.missing().tolist() == [3, 4, 5]


def test_part_is_written_after_enough_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    kept = opened(tmp_path)
    kept.add(rows(0))
    monkeypatch.setattr(output_cache, "PART_SECONDS", 0.0)
    kept.add(rows(1))
    assert kept.missing().tolist() == [2, 3, 4, 5]


def test_unfinished_file_is_ignored(tmp_path: Path):
    kept = opened(tmp_path)
    kept.add(rows(0, 1))
    kept.flush()
    (part,) = tmp_path.glob("part-*.parquet")
    (tmp_path / ".0123456789abcdef").write_bytes(part.read_bytes()[:100])
    assert kept.missing().tolist() == [2, 3, 4, 5]
    check(kept, 0, 1)


@pytest.mark.parametrize("num_bytes", [0, 3, 200])
def test_damaged_part_is_named_with_the_remedy(tmp_path: Path, num_bytes: int):
    kept = opened(tmp_path)
    for number in (0, 1):
        kept.add(rows(number))
        kept.flush()
    damaged = sorted(tmp_path.glob("part-*.parquet"))[1]
    damaged.write_bytes(damaged.read_bytes()[:num_bytes])
    for look in (kept.missing, lambda: kept.read("feature")):
        with pytest.raises(
            StorageError, match=rf"^'{re.escape(str(damaged))}' cannot be read: .* Delete it; its rows "
        ):
            look()
    damaged.unlink()
    assert len(kept.missing()) == 5


def test_folder_depends_on_the_key_but_not_its_order():
    def folder(**key: object) -> str:
        return folder_name("digits/noisy-guesses", key)

    assert re.fullmatch("digits-noisy-guesses-[0-9a-f]{12}", folder())
    assert folder(crop=[36, 32], set="digits") == folder(set="digits", crop=[36, 32])
    keys = ({"crop": [36, 32]}, {"crop": [37, 32]}, {"crop": [36, 32], "set": "digits"}, {})
    assert len({folder(**key) for key in keys}) == 4


def test_folder_is_created_with_a_description(tmp_path: Path):
    folder = tmp_path / "deep" / "down"
    for key in ({"set": "birds"}, {"set": "cars"}):
        OutputCache(folder, 1).open(key)
    assert json.loads((folder / "about.json").read_text()) == {"set": "birds"}


def test_unwritable_folder_is_refused_with_the_remedy(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file/here' cannot be written: Not a directory\. .* evaluation\.outputs="):
        opened(tmp_path / "file" / "here")
