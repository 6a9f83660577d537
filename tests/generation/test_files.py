"""Atomic writes on file systems that are full or lack an operation."""

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
    """Make these calls fail with this errno."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    for name in names:
        monkeypatch.setattr(os, name, refuse)


@pytest.fixture
def no_exclusive_creation(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def refuse_exclusive(path: Path, mode: str = "r", *others: Any, **named: Any) -> Any:
        if "x" in mode:
            raise OSError(errno.EINVAL, "Invalid argument", str(path))
        return opened(path, mode, *others, **named)

    monkeypatch.setattr(Path, "open", refuse_exclusive)


@pytest.fixture
def at_most_100_kb_a_file() -> Iterator[None]:
    """Limit the file size in the kernel, which fails like a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_write_whole_overwrites_and_write_new_does_not(tmp_path: Path):
    write_whole(tmp_path / "a" / "b", lambda file: file.write(b"first"))
    write_whole(tmp_path / "a" / "b", lambda file: file.write(b"second"))
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "a" / "b", lambda file: file.write(b"third"))
    assert contents(tmp_path / "a") == {"b": b"second"}


def test_new_files_follow_the_umask(tmp_path: Path, monkeypatch):
    lack(monkeypatch, errno.EPERM, "chmod", "fchmod")
    write_whole(tmp_path / "a", lambda file: file.write(b"1"))
    (tmp_path / "plain").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP])
def test_write_new_is_exclusive_without_hard_links(number: int, tmp_path: Path, monkeypatch):
    lack(monkeypatch, number, "link")
    write_new(tmp_path / "a", lambda file: file.write(b"first"))
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "a", lambda file: file.write(b"second"))
    assert contents(tmp_path) == {"a": b"first"}


@pytest.mark.usefixtures("no_exclusive_creation")
def test_missing_exclusive_creation_is_warned_about(tmp_path: Path, monkeypatch, caplog):
    lack(monkeypatch, errno.EPERM, "link")
    write_new(tmp_path / "a", lambda file: file.write(b"first"))
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "a", lambda file: file.write(b"second"))
    write_new(tmp_path / "b", lambda file: file.write(b"other"))
    assert contents(tmp_path) == {"a": b"first", "b": b"other"}
    (message,) = caplog.messages  # once per folder
    assert message == (
        f"The file system of '{tmp_path}' does not support exclusive creation (Invalid argument): two jobs may write "
        "the same file."
    )


@pytest.mark.parametrize("number", [errno.EEXIST, errno.EPERM, errno.ENOSYS])
def test_missing_atomic_rename_writes_in_place_with_a_warning(number: int, tmp_path: Path, monkeypatch, caplog):
    lack(monkeypatch, number, "replace")
    for content in (b"first", b"second"):
        write_whole(tmp_path / "a", lambda file, content=content: file.write(content))
    assert contents(tmp_path) == {"a": b"second"}
    assert caplog.messages == [
        f"The file system of '{tmp_path}' does not support atomic rename ({os.strerror(number)}): a job killed during "
        "a write leaves a truncated file."
    ]


def test_other_errors_are_raised(tmp_path: Path, monkeypatch):
    (tmp_path / "a").write_bytes(b"first")
    lack(monkeypatch, errno.EIO, "replace")
    with pytest.raises(OSError, match="Input/output error"):
        write_whole(tmp_path / "a", lambda file: file.write(b"second"))
    assert contents(tmp_path) == {"a": b"first"}


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS])
def test_missing_fsync_is_ignored(number: int, tmp_path: Path, monkeypatch):
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
def test_failed_write_leaves_nothing_and_names_the_file(kind: str, write: Any, tmp_path: Path):
    with pytest.raises(OSError, match="File too large") as caught:
        write(tmp_path / "a", WRITERS[kind])
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path / "a"))
    assert contents(tmp_path) == {}


def test_failed_write_in_place_leaves_no_truncated_file(tmp_path: Path, monkeypatch):
    (tmp_path / "a").write_bytes(b"first")
    lack(monkeypatch, errno.ENOSYS, "replace")

    def fill_up(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shutil.copyfileobj", fill_up)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a", lambda file: file.write(b"second"))
    assert contents(tmp_path) == {}


def test_error_of_another_file_keeps_its_name(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"font\.ttf"):
        write_whole(tmp_path / "a", lambda _: (tmp_path / "font.ttf").read_bytes())


@needs_mounts
def test_check_writable_detects_a_full_disk(tmp_path: Path):
    with mounted(tmp_path / "small", "size=8k"):
        check_writable(tmp_path / "small")
        (tmp_path / "small" / "mine").write_bytes(bytes(8192))
        with pytest.raises(OSError, match=r"No space left on device: '.*small'"):
            check_writable(tmp_path / "small")
        assert list(contents(tmp_path / "small")) == ["mine"]
