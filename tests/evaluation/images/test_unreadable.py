"""How many damaged real images a run does without, and who hears of them."""

from pathlib import Path

import pytest

from evaluation.images.decoding import UnreadableImageError
from evaluation.images.unreadable import NONE_LEFT_OUT, Unreadable
from generation.shards.storage import StorageError


def damaged(name: str) -> UnreadableImageError:
    error = UnreadableImageError(f"The image '{name}' cannot be decoded.")
    error.name = name
    return error


def test_an_image_counts_once_however_many_readers_meet_it(tmp_path: Path):
    readers = [Unreadable(2, tmp_path / "unreadable.txt") for _ in range(3)]
    assert readers[0].told() == []
    for reader in readers:
        reader.leave_out(damaged("a.png"))
    readers[1].leave_out(damaged("größe.png"))
    assert readers[2].names() == ["a.png", "größe.png"]
    assert readers[2].told() == [
        f"2 real images were skipped because they cannot be decoded: see {tmp_path / 'unreadable.txt'}"
    ]


def test_one_more_than_allowed_ends_the_run_with_the_number_that_would_do(tmp_path: Path):
    Unreadable(1, tmp_path / "unreadable.txt").leave_out(damaged("a.png"))
    with pytest.raises(
        StorageError, match=r"^The image 'b\.png' cannot .* so far: 2\. Set training\.allow_unreadable=2"
    ):
        Unreadable(1, tmp_path / "unreadable.txt").leave_out(damaged("b.png"))


def test_by_default_the_first_ends_the_run_and_no_file_is_written(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for none in (NONE_LEFT_OUT, Unreadable(0, tmp_path / "unreadable.txt")):
        with pytest.raises(StorageError, match=r"training\.allow_unreadable=1 or more"):
            none.leave_out(damaged("a.png"))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_named():
    with pytest.raises(StorageError, match=r"^'/proc/figment/u\.txt' cannot be written: No such file.*'a\.png'"):
        Unreadable(1, Path("/proc/figment/u.txt")).leave_out(damaged("a.png"))
