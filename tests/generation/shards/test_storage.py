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


def test_written_files_are_listed_and_read(storage: Storage):
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


def test_unreachable_or_missing_bucket_is_a_one_line_error(s3_environment: dict[str, str], monkeypatch):
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match=r"'s3://nobucket/a' cannot be written .*bucket.*Check the path"):
        Storage("s3://nobucket/a").check_writable()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StorageError, match=r"cannot be (listed|written) .*Check the path") as error:
        Storage("s3://bucket/a").check_writable()
    assert "\n" not in str(error.value)


def test_storage_carries_its_environment_variables(s3_environment: dict[str, str], monkeypatch):
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    storage = Storage("s3://bucket/elsewhere")
    storage.write("a", b"1")
    for name in s3_environment:
        monkeypatch.delenv(name)
    assert storage.read("a") == b"1"


def test_write_new_does_not_overwrite(storage: Storage):
    assert storage.write_new("manifest.json", b"ours")
    assert not storage.write_new("manifest.json", b"theirs")
    assert storage.read("manifest.json") == b"ours"
    assert storage.names() == {"manifest.json"}


def test_byte_range_of_a_file_is_read(storage: Storage):
    storage.write("a", b"0123456789")
    assert storage.read("a", 3, 7) == b"3456"


def test_folder_without_complete_files_is_empty(s3_environment: dict[str, str], monkeypatch, tmp_path):
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=s3_environment["AWS_ENDPOINT_URL"])
    client.put_object(Bucket="bucket", Key="made/in/a/console/", Body=b"")  # as web consoles create folders
    assert Storage("s3://bucket/made/in/a/console").names() == set()
    half = tmp_path / ".writing-manifest.json-x1"
    half.write_bytes(b"{")
    (tmp_path / ".hidden").write_bytes(b"mine")
    local = Storage(str(tmp_path))
    assert local.names() == {".hidden"}
    local.remove_leftovers(half.stat().st_mtime)  # not older: its writer may still be running
    assert half.exists()
    local.remove_leftovers(half.stat().st_mtime + 1)
    assert [path.name for path in tmp_path.iterdir()] == [".hidden"]


def test_lock_of_this_job_is_not_a_leftover(tmp_path: Path):
    (tmp_path / ".writing-lock").touch()  # created by a killed job, locked by this one
    Storage(str(tmp_path)).remove_leftovers(began_at=(tmp_path / ".writing-lock").stat().st_mtime + 1)
    assert (tmp_path / ".writing-lock").exists()


class WithoutExclusiveCreation(LocalFileSystem):
    """Stand-in for stores that only overwrite, such as HDFS and some S3-compatible ones."""

    protocol = "overwriting"

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: object) -> None:
        if mode == "create":
            raise ValueError("unsupported mode")
        super().pipe_file(path, value, mode=mode, **kwargs)


def test_store_without_exclusive_creation_logs_a_warning(tmp_path: Path, caplog):
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
    """Stand-in for a store that rejects exclusive creation, as S3 does for concurrent requests."""

    protocol = "refusing"

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: object) -> None:
        if mode == "create":
            raise OSError("ConditionalRequestConflict")
        super().pipe_file(path, value, mode=mode, **kwargs)


def test_failed_exclusive_creation_does_not_overwrite(tmp_path: Path):
    fsspec.register_implementation("refusing", Refusing, clobber=True)
    with pytest.raises(StorageError, match="ConditionalRequestConflict"):
        Storage(f"refusing://{tmp_path}").write_new("a", b"first")
    assert list(tmp_path.iterdir()) == []


class Folders(LocalFileSystem):
    """Stand-in for stores whose folders must be created before files: SFTP, SMB, HDFS."""

    protocol = "folders"

    def __init__(self) -> None:
        super().__init__(auto_mkdir=False)


def test_folders_are_created_and_files_are_complete(tmp_path: Path):
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
def test_full_disk_leaves_no_partial_file_and_gives_the_remedy(tmp_path: Path):
    with mounted(tmp_path / "small", "size=64k"):
        storage = Storage(str(tmp_path / "small"))
        storage.write("a", b"a" * 20_000)
        with pytest.raises(StorageError, match=r"b' cannot be written .*No space left.*Free disk space and run again"):
            storage.write("b", b"b" * 100_000)
        assert storage.names() == {"a"}
        assert len(storage.read("a")) == 20_000


@needs_mounts
def test_read_only_folder_is_an_error(tmp_path: Path):
    with (
        mounted(tmp_path / "fixed", "ro"),
        pytest.raises(StorageError, match=r"fixed/set' cannot be written .*Read-only file system"),
    ):
        Storage(str(tmp_path / "fixed" / "set")).check_writable()


def test_unknown_url_scheme_is_a_one_line_error():
    with pytest.raises(StorageError, match=r"'ftq://somewhere/a' cannot be written .*ftq"):
        Storage("ftq://somewhere/a").check_writable()
