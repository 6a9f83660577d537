import errno
import fcntl
import os
import re
from pathlib import Path

import pytest

from generation.files import new_path
from generation.recipes.recipe import Recipe
from generation.shards.shard_set import read_shard_set
from generation.shards.storage import Storage
from ray_jobs.cli import run_folder as run_directory
from ray_jobs.cli.run_folder import (
    LOCK,
    check_output,
    check_unfinished,
    is_in_use,
    keep_checkpoint,
    lock_run_folder,
    locked,
    resolve,
    resolve_input,
    undo_on_error,
    unlock,
    write_json,
)
from tests.support.mounts import enlarge, mounted, needs_mounts


def test_non_empty_folder_is_refused_and_unchanged(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"already contains files.*output="):
        check_output(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_new_and_empty_folders_are_accepted_without_side_effects(tmp_path: Path):
    check_output(tmp_path)
    check_output(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_file_in_the_way_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file' is a file"):
        check_output(tmp_path / "file" / "run")


def test_unwritable_output_is_named():
    with pytest.raises(ValueError, match=r"'/proc' cannot be written: .*output="):
        check_output(Path("/proc/figment/run"))


def test_submitted_job_does_not_write_into_its_temporary_package(tmp_path: Path, monkeypatch):
    package = tmp_path / "working_dir_files" / "_ray_pkg_1"
    package.mkdir(parents=True)
    monkeypatch.chdir(package)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert resolve("runs/digits") == tmp_path / "home" / "runs" / "digits"
    assert resolve("/data/run") == Path("/data/run")


def test_too_long_file_name_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="File name too long"):
        check_output(tmp_path / ("x" * 300))


def test_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert resolve("~/runs/x") == Path("/home/someone/runs/x")


def test_second_run_in_the_same_folder_is_refused(tmp_path: Path):
    lock_run_folder(tmp_path / "run", "first")
    with pytest.raises(ValueError, match="taken by another run"):
        lock_run_folder(tmp_path / "run", "second")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]
    assert (tmp_path / "run" / "config.yaml").read_text() == "first"


def test_failed_lock_leaves_no_folder(tmp_path: Path, monkeypatch):
    def is_full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", is_full)
    with pytest.raises(OSError, match=r"No space left on device: '.*config\.yaml'"):
        lock_run_folder(tmp_path / "run", "first")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_file_system_without_locks_works_and_warns_once(number: int, tmp_path: Path, monkeypatch, caplog):
    def lacking(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", lacking)
    run_dir = tmp_path / "run"
    run_lock = lock_run_folder(run_dir, "first")
    with locked(Storage(str(run_dir))):
        unlock(run_lock)
    unlock(lock_run_folder(run_dir, "second", resume=True))
    assert {path.name for path in run_dir.iterdir()} == {"config.yaml", "config-2.yaml"}
    assert caplog.messages == [
        f"'{run_dir}' does not support file locks ({os.strerror(number)}): a second job could write to this folder at "
        "the same time."
    ]


def test_second_job_with_the_same_config_is_refused_even_without_locks(tmp_path: Path, monkeypatch):
    def lacking(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", lacking)
    lock_run_folder(tmp_path, "same")
    with pytest.raises(ValueError, match="was just taken by another run"):
        lock_run_folder(tmp_path, "same")
    assert (tmp_path / "config.yaml").read_text() == "same"


def test_lock_is_retaken_if_its_file_is_removed_while_waiting(tmp_path: Path, monkeypatch):
    first, flock = lock_run_folder(tmp_path, "first"), fcntl.flock

    def late(*arguments: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        unlock(first)  # after the second job opened the file
        flock(*arguments)

    monkeypatch.setattr(fcntl, "flock", late)
    second = lock_run_folder(tmp_path, "second", resume=True)
    with pytest.raises(ValueError, match="Another job is using"):
        lock_run_folder(tmp_path, "third", resume=True)
    unlock(second)
    assert not (tmp_path / LOCK).exists()


def test_locking_waits_for_a_probe_and_other_probes_ignore_it(tmp_path: Path, monkeypatch):
    run_dir = tmp_path / "run"
    lock_run_folder(run_dir, "first").file.close()  # as the kernel does for a killed process
    look = (run_dir / LOCK).open()
    fcntl.flock(look, fcntl.LOCK_SH)
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            look.close()

    monkeypatch.setattr(run_directory.time, "sleep", nap)
    assert not is_in_use(run_dir, "")
    run_lock = lock_run_folder(run_dir, "second", resume=True)
    assert len(naps) == 3
    assert is_in_use(run_dir, "")
    unlock(run_lock)
    assert not is_in_use(run_dir, "")
    assert not (run_dir / LOCK).exists()  # a probe leaves nothing


def test_long_probe_counts_as_a_lock(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(run_directory, "PROBE_SECONDS", 0.01)
    with (tmp_path / LOCK).open("w") as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        with pytest.raises(ValueError, match="Another job is using"):
            lock_run_folder(tmp_path, "first")


def test_final_checkpoint_is_saved_even_without_renaming(tmp_path: Path, monkeypatch):
    def lacking(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    for name in ("rename", "replace", "chmod"):
        monkeypatch.setattr(os, name, lacking)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-000000000008.ckpt").write_bytes(b"weights")
    keep_checkpoint(tmp_path / "checkpoints" / "step-000000000008.ckpt", tmp_path)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("checkpoint.ckpt", b"weights")]


@needs_mounts
def test_run_on_a_full_disk_resumes_only_after_space_is_freed(painted: Recipe, tmp_path: Path):
    with mounted(tmp_path / "small", "size=64k"):
        unlock(lock_run_folder(tmp_path / "small" / "run", "first"))
        (tmp_path / "small" / "others").write_bytes(bytes(60 * 1024))
        with pytest.raises(ValueError, match=r"run' cannot be written: No space left on device\. Free disk space\. Or"):
            check_unfinished(tmp_path / "small" / "run", painted)
        enlarge(tmp_path / "small", "128k")
        check_unfinished(tmp_path / "small" / "run", painted)


def test_folder_is_locked_until_unlocked_or_the_process_ends(tmp_path: Path):
    run_dir = tmp_path / "run"
    run_lock = lock_run_folder(run_dir, "first")
    in_use = re.escape(f"Another job is using '{run_dir}'. Stop it first")
    for attempt in (lambda: check_output(run_dir), lambda: lock_run_folder(run_dir, "second", resume=True)):
        with pytest.raises(ValueError, match=in_use):
            attempt()
    run_lock.file.close()  # as the kernel does for a killed process
    assert (run_dir / "lock").exists()
    with pytest.raises(ValueError, match="already contains files"):
        check_output(run_dir)
    unlock(lock_run_folder(run_dir, "second", resume=True))
    assert {path.name for path in run_dir.iterdir()} == {"config.yaml", "config-2.yaml"}


@pytest.mark.parametrize("left", [["lock"], ["lock", "config.yaml"]])
def test_leftovers_of_a_job_killed_before_its_start_are_accepted(tmp_path: Path, left):
    for name in left:
        (tmp_path / name).write_text("mine" if name == "config.yaml" else "")
    check_output(tmp_path, "mine")
    unlock(lock_run_folder(tmp_path, "mine"))
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    assert (tmp_path / "config.yaml").read_text() == "mine"


@pytest.mark.parametrize("file", ["config.yaml", "samples.png"])
def test_leftovers_with_another_config_or_file_are_refused(tmp_path: Path, file: str):
    (tmp_path / "lock").write_text("")
    (tmp_path / "config.yaml").write_text("mine")
    (tmp_path / file).write_text("another")
    for attempt in (lambda: check_output(tmp_path, "mine"), lambda: lock_run_folder(tmp_path, "mine")):
        with pytest.raises(ValueError, match=r"already contains files|taken by another run"):
            attempt()
    assert (tmp_path / file).read_text() == "another"


def test_unfinished_run_error_says_how_to_resume(tmp_path: Path):
    for name in ("config.yaml", "recipe.json"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"already contains an unfinished run\. Continue it with resume=true"):
        check_output(tmp_path, "mine")


def test_run_finished_meanwhile_does_not_resume(tmp_path: Path):
    (tmp_path / "checkpoint.ckpt").write_text("")
    with pytest.raises(ValueError, match="is finished"):
        lock_run_folder(tmp_path, "config", resume=True)
    assert (tmp_path / "checkpoint.ckpt").exists()


def test_job_that_fails_to_start_restores_its_folder(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("first")
    for folder, resume in (("run", True), ("new", False)):
        with pytest.raises(SystemExit), undo_on_error(lock_run_folder(tmp_path / folder, "mine", resume)):
            raise SystemExit
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit), undo_on_error(lock_run_folder(tmp_path / "empty", "mine")):
        raise SystemExit
    assert list((tmp_path / "empty").iterdir()) == []


def test_bucket_url_is_not_a_folder():
    with pytest.raises(ValueError, match="s3://bucket/run"):
        resolve("s3://bucket/run")


def test_second_report_is_numbered_and_nothing_is_overwritten(tmp_path: Path):
    names = []
    for _ in range(3):
        path = new_path(tmp_path, "evaluation", ".json")
        write_json(path, {})
        names.append(path.name)
    assert names == ["evaluation.json", "evaluation-2.json", "evaluation-3.json"]
    with pytest.raises(FileExistsError):
        write_json(tmp_path / "evaluation.json", {})


def test_data_set_folder_is_exclusive_and_its_lock_is_not_content(tmp_path: Path):
    place = Storage(str(tmp_path / "set"))
    with locked(place):
        assert read_shard_set(place) is None
        for _ in range(2):  # the first refusal does not remove the lock
            with pytest.raises(ValueError, match=r"^Another job is using '.*set'\."), locked(place):
                raise AssertionError("locked twice")
    assert not (tmp_path / "set").exists()  # nothing was written
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / ".writing-lock").touch()  # left by a killed job
    with locked(Storage(str(tmp_path / "killed"))):
        assert read_shard_set(Storage(str(tmp_path / "killed"))) is None
    assert list((tmp_path / "killed").iterdir()) == []


def test_uploaded_inputs_are_found_and_others_are_below_home(tmp_path: Path, monkeypatch):
    package = tmp_path / "working_dir_files" / "_ray_pkg_1"
    (package / "photos").mkdir(parents=True)
    monkeypatch.chdir(package)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert resolve_input("photos") == package / "photos"
    assert resolve_input("other") == tmp_path / "home" / "other"
    assert resolve_input("~/other") == tmp_path / "home" / "other"
    with pytest.raises(ValueError, match=r"'s3://b/photos' is a URL"):
        resolve_input("s3://b/photos")
    (package / "loop").symlink_to("loop")
    with pytest.raises(ValueError, match=r"'.*loop' is not a valid path: Symlink loop .*\. Choose another one\.$"):
        resolve_input(str(package / "loop"))
