"""Limit and report of damaged real images that a run skips."""

from pathlib import Path

import pytest

from evaluation.images.decoding import UnreadableImageError
from evaluation.images.unreadable import NO_SKIPPING, Unreadable
from generation.shards.storage import StorageError


def damaged(name: str) -> UnreadableImageError:
    error = UnreadableImageError(f"The image '{name}' cannot be decoded.")
    error.name = name
    return error


def test_image_counts_once_for_all_readers(tmp_path: Path):
    readers = [Unreadable(2, tmp_path / "unreadable.txt") for _ in range(3)]
    assert readers[0].report_lines() == []
    for reader in readers:
        reader.record(damaged("a.png"))
    readers[1].record(damaged("größe.png"))
    assert readers[2].names() == ["a.png", "größe.png"]
    assert readers[2].report_lines() == [
        f"2 real images were skipped because they cannot be decoded: see {tmp_path / 'unreadable.txt'}"
    ]


def test_exceeding_the_limit_ends_the_run_with_the_needed_limit(tmp_path: Path):
    Unreadable(1, tmp_path / "unreadable.txt").record(damaged("a.png"))
    with pytest.raises(
        StorageError, match=r"^The image 'b\.png' cannot .* so far: 2\. Set training\.allow_unreadable=2"
    ):
        Unreadable(1, tmp_path / "unreadable.txt").record(damaged("b.png"))


def test_by_default_the_first_ends_the_run_and_no_file_is_written(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for none in (NO_SKIPPING, Unreadable(0, tmp_path / "unreadable.txt")):
        with pytest.raises(StorageError, match=r"training\.allow_unreadable=1 or more"):
            none.record(damaged("a.png"))
    assert list(tmp_path.iterdir()) == []


def test_file_that_cannot_be_written_is_named():
    with pytest.raises(StorageError, match=r"^'/proc/figment/u\.txt' cannot be written: No such file.*'a\.png'"):
        Unreadable(1, Path("/proc/figment/u.txt")).record(damaged("a.png"))
