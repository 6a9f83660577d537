"""Files on file systems that lack something, or are full."""

import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from generation.files import check_writable, write_new, write_whole
from tests.support.mounts import mounted, needs_mounts


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def lack(monkeypatch: pytest.MonkeyPatch, number: int, *names: str) -> None:
    """Have the file system answer so to these calls."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    for name in names:
        monkeypatch.setattr(os, name, refuse)


@pytest.fixture
def a_file_system_without_exclusive_creation(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def without(path: Path, mode: str = "r", *others: Any, **named: Any) -> Any:
        if "x" in mode:
            raise OSError(errno.EINVAL, "Invalid argument", str(path))
        return opened(path, mode, *others, **named)

    monkeypatch.setattr(Path, "open", without)


@pytest.fixture
def at_most_100_kb_a_file() -> Iterator[None]:
    """Have the kernel refuse to write more, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_is_written_over_and_a_new_one_is_not(tmp_path: Path):
    write_whole(tmp_path / "a" / "b", lambda file: file.write(b"first"))
    write_whole(tmp_path / "a" / "b", lambda file: file.write(b"second"))
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "a" / "b", lambda file: file.write(b"third"))
    assert contents(tmp_path / "a") == {"b": b"second"}


def test_no_rights_are_set_that_the_umask_does_not_give(tmp_path: Path, monkeypatch):
    lack(monkeypatch, errno.EPERM, "chmod", "fchmod")
    write_whole(tmp_path / "a", lambda file: file.write(b"1"))
    (tmp_path / "plain").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_hard_links_a_new_file_is_still_written_once(number: int, tmp_path: Path, monkeypatch):
    lack(monkeypatch, number, "link")
    write_new(tmp_path / "a", lambda file: file.write(b"first"))
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "a", lambda file: file.write(b"second"))
    assert contents(tmp_path) == {"a": b"first"}


@pytest.mark.usefixtures("a_file_system_without_exclusive_creation")
def test_without_exclusive_creation_either_it_is_told_that_two_jobs_are_not_kept_apart(
    tmp_path: Path, monkeypatch, caplog
):
    lack(monkeypatch, errno.EPERM, "link")
    write_new(tmp_path / "a", lambda file: file.write(b"first"))
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "a", lambda file: file.write(b"second"))
    write_new(tmp_path / "b", lambda file: file.write(b"other"))
    assert contents(tmp_path) == {"a": b"first", "b": b"other"}
    (told,) = caplog.messages  # once for a folder
    assert told == (
        f"The file system of '{tmp_path}' does not support exclusive creation (Invalid argument): two jobs may write "
        "the same file."
    )


@pytest.mark.parametrize("number", [errno.EEXIST, errno.EPERM, errno.ENOSYS])
def test_without_renaming_over_a_file_it_is_written_in_place_and_that_is_told(
    number: int, tmp_path: Path, monkeypatch, caplog
):
    lack(monkeypatch, number, "replace")
    for content in (b"first", b"second"):
        write_whole(tmp_path / "a", lambda file, content=content: file.write(content))
    assert contents(tmp_path) == {"a": b"second"}
    assert caplog.messages == [
        f"The file system of '{tmp_path}' does not support atomic rename ({os.strerror(number)}): a job killed during "
        "a write leaves a truncated file."
    ]


def test_an_error_that_says_nothing_of_the_file_system_is_not_worked_around(tmp_path: Path, monkeypatch):
    (tmp_path / "a").write_bytes(b"first")
    lack(monkeypatch, errno.EIO, "replace")
    with pytest.raises(OSError, match="Input/output error"):
        write_whole(tmp_path / "a", lambda file: file.write(b"second"))
    assert contents(tmp_path) == {"a": b"first"}


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS])
def test_a_file_system_that_cannot_sync_is_fine(number: int, tmp_path: Path, monkeypatch):
    lack(monkeypatch, number, "fsync")
    write_whole(tmp_path / "a", lambda file: file.write(b"1"))
    assert contents(tmp_path) == {"a": b"1"}


WRITERS = {
    "bytes": lambda file: file.write(bytes(200_000)),
    "torch": lambda file: torch.save({"weights": torch.zeros(200_000)}, file),
    "parquet": lambda file: pq.write_table(pa.table({"a": torch.rand(200_000).numpy()}), file),
}


@pytest.mark.parametrize("write", [write_whole, write_new])
@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.usefixtures("at_most_100_kb_a_file")
def test_a_file_for_which_there_is_no_room_leaves_nothing_and_is_named(kind: str, write: Any, tmp_path: Path):
    with pytest.raises(OSError, match="File too large") as told:
        write(tmp_path / "a", WRITERS[kind])
    assert (told.value.errno, told.value.filename) == (errno.EFBIG, str(tmp_path / "a"))
    assert contents(tmp_path) == {}


def test_half_of_what_is_written_in_place_is_not_left(tmp_path: Path, monkeypatch):
    (tmp_path / "a").write_bytes(b"first")
    lack(monkeypatch, errno.ENOSYS, "replace")

    def fill_up(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shutil.copyfileobj", fill_up)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a", lambda file: file.write(b"second"))
    assert contents(tmp_path) == {}


def test_another_files_error_keeps_its_name(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"font\.ttf"):
        write_whole(tmp_path / "a", lambda _: (tmp_path / "font.ttf").read_bytes())


@needs_mounts
def test_a_full_disk_is_seen_before_anything_is_made(tmp_path: Path):
    with mounted(tmp_path / "small", "size=8k"):
        check_writable(tmp_path / "small")
        (tmp_path / "small" / "mine").write_bytes(bytes(8192))
        with pytest.raises(OSError, match=r"No space left on device: '.*small'"):
            check_writable(tmp_path / "small")
        assert list(contents(tmp_path / "small")) == ["mine"]
