from collections.abc import Iterator
from pathlib import Path

import boto3
import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from generation.shards.storage import Storage, StorageError
from tests.support.mounts import mounted, needs_mounts
from tests.support.s3 import free_port, serve_s3


@pytest.fixture(scope="module")
def s3_environment() -> Iterator[dict[str, str]]:
    with serve_s3("bucket") as environment:
        yield environment


@pytest.fixture(params=["folder", "s3", "memory"])
def storage(request, tmp_path: Path, s3_environment: dict[str, str], monkeypatch) -> Storage:
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    return {
        "folder": Storage(str(tmp_path / "not" / "yet")),
        "s3": Storage(f"s3://bucket/{tmp_path.name}"),
        "memory": Storage(f"memory://{tmp_path.name}"),
    }[request.param]


def test_what_was_written_is_listed_and_read(storage: Storage):
    storage.check_writable()
    assert storage.names() == set()
    storage.write("a.tar", b"first")
    storage.write("index/a.parquet", b"second")
    assert storage.names() == {"a.tar", "index"}
    assert storage.names("index") == {"a.parquet"}
    assert storage.exists("a.tar")
    assert not storage.exists("b.tar")
    assert storage.inside("index").names() == {"a.parquet"}
    assert (storage.read("a.tar"), storage.inside("index").read("a.parquet")) == (b"first", b"second")
    storage.write("a.tar", b"third")
    assert storage.read("a.tar") == b"third"
    with pytest.raises(StorageError, match=r"b\.tar' cannot be read"):
        storage.read("b.tar")


def test_a_bucket_that_cannot_be_reached_or_is_not_there_is_one_line(s3_environment: dict[str, str], monkeypatch):
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match=r"'s3://nobucket/a' cannot be written .*bucket.*Check the path"):
        Storage("s3://nobucket/a").check_writable()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StorageError, match=r"cannot be (listed|written) .*Check the path") as told:
        Storage("s3://bucket/a").check_writable()
    assert "\n" not in str(told.value)


def test_another_process_knows_where_the_store_is(s3_environment: dict[str, str], monkeypatch):
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    storage = Storage("s3://bucket/elsewhere")
    storage.write("a", b"1")
    for name in s3_environment:
        monkeypatch.delenv(name)
    assert storage.read("a") == b"1"


def test_a_file_that_must_be_new_is_not_written_over(storage: Storage):
    assert storage.write_new("manifest.json", b"ours")
    assert not storage.write_new("manifest.json", b"theirs")
    assert storage.read("manifest.json") == b"ours"
    assert storage.names() == {"manifest.json"}


def test_part_of_a_file_is_read(storage: Storage):
    storage.write("a", b"0123456789")
    assert storage.read("a", 3, 7) == b"3456"


def test_a_folder_that_only_exists_or_was_left_by_a_kill_is_empty(
    s3_environment: dict[str, str], monkeypatch, tmp_path
):
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=s3_environment["AWS_ENDPOINT_URL"])
    client.put_object(Bucket="bucket", Key="made/in/a/console/", Body=b"")  # as consoles make folders
    assert Storage("s3://bucket/made/in/a/console").names() == set()
    half = tmp_path / ".writing-manifest.json-x1"
    half.write_bytes(b"{")
    (tmp_path / ".hidden").write_bytes(b"mine")
    local = Storage(str(tmp_path))
    assert local.names() == {".hidden"}
    local.remove_leftovers(half.stat().st_mtime)  # not older: its writer may be at work
    assert half.exists()
    local.remove_leftovers(half.stat().st_mtime + 1)
    assert [path.name for path in tmp_path.iterdir()] == [".hidden"]


def test_a_lock_of_ones_own_is_no_leftover(tmp_path: Path):
    (tmp_path / ".writing-lock").touch()  # by a job that was killed, and locked by this one
    Storage(str(tmp_path)).remove_leftovers(began_at=(tmp_path / ".writing-lock").stat().st_mtime + 1)
    assert (tmp_path / ".writing-lock").exists()


class WithoutExclusiveCreation(LocalFileSystem):
    """Stands for stores that only overwrite, such as HDFS and some that speak S3."""

    protocol = "overwriting"

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: object) -> None:
        if mode == "create":
            raise ValueError("unsupported mode")
        super().pipe_file(path, value, mode=mode, **kwargs)


def test_a_store_without_exclusive_creation_gets_new_files_and_says_what_is_not_protected(tmp_path: Path, caplog):
    fsspec.register_implementation("overwriting", WithoutExclusiveCreation, clobber=True)
    storage = Storage(f"overwriting://{tmp_path}")
    assert storage.write_new("a", b"first")
    assert (
        "does not support exclusive creation (ValueError: unsupported mode): two jobs may write the same file"
        in caplog.text
    )
    assert not storage.write_new("a", b"second")
    assert storage.read("a") == b"first"


class Refusing(LocalFileSystem):
    """Stands for a store whose answer to the request for a new file is an error, as S3's is where two ask at once."""

    protocol = "refusing"

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: object) -> None:
        if mode == "create":
            raise OSError("ConditionalRequestConflict")
        super().pipe_file(path, value, mode=mode, **kwargs)


def test_a_new_file_that_a_store_refuses_is_not_written_over_anothers(tmp_path: Path):
    fsspec.register_implementation("refusing", Refusing, clobber=True)
    with pytest.raises(StorageError, match="ConditionalRequestConflict"):
        Storage(f"refusing://{tmp_path}").write_new("a", b"first")
    assert list(tmp_path.iterdir()) == []


class Folders(LocalFileSystem):
    """Stands for stores with folders that must be made before a file is: SFTP, SMB, HDFS."""

    protocol = "folders"

    def __init__(self) -> None:
        super().__init__(auto_mkdir=False)


def test_a_store_with_folders_gets_them_made_and_its_files_whole(tmp_path: Path):
    fsspec.register_implementation("folders", Folders, clobber=True)
    storage = Storage(f"folders://{tmp_path}/not/yet")
    storage.check_writable()
    assert storage.inside("held_out").write_new("manifest.json", b"first")
    assert not storage.inside("held_out").write_new("manifest.json", b"second")
    storage.write("index/a.parquet", b"second")
    storage.write("index/a.parquet", b"third")
    assert (tmp_path / "not" / "yet" / "index" / "a.parquet").read_bytes() == b"third"
    names = {path.relative_to(tmp_path / "not" / "yet").as_posix() for path in (tmp_path / "not").rglob("*.*")}
    assert names == {"held_out/manifest.json", "index/a.parquet"}
    assert Storage(f"file://{tmp_path}/not/yet").read("index/a.parquet") == b"third"


@needs_mounts
def test_a_full_disk_leaves_no_half_file_and_says_what_to_do(tmp_path: Path):
    with mounted(tmp_path / "small", "size=64k"):
        storage = Storage(str(tmp_path / "small"))
        storage.write("a", b"a" * 20_000)
        with pytest.raises(StorageError, match=r"b' cannot be written .*No space left.*Free disk space and run again"):
            storage.write("b", b"b" * 100_000)
        assert storage.names() == {"a"}
        assert len(storage.read("a")) == 20_000


@needs_mounts
def test_a_read_only_place_is_told_before_anything_is_made(tmp_path: Path):
    with (
        mounted(tmp_path / "fixed", "ro"),
        pytest.raises(StorageError, match=r"fixed/set' cannot be written .*Read-only file system"),
    ):
        Storage(str(tmp_path / "fixed" / "set")).check_writable()


def test_a_store_of_no_known_kind_is_one_line():
    with pytest.raises(StorageError, match=r"'ftq://somewhere/a' cannot be written .*ftq"):
        Storage("ftq://somewhere/a").check_writable()
