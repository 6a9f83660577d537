"""How a job ends that cannot go on."""

import errno
import io
import os
import pickle
import signal
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import pytest
from ray.exceptions import OutOfDiskError, RayTaskError

from generation.shards.storage import StorageError
from ray_jobs.cli.errors import errors_at_work, user_errors
from ray_jobs.cli.termination import TERMINATION, Termination


class ToldAtOnce(Termination):
    """Ends by what would be told, without touching this process's signals."""

    def begin(self, number: signal.Signals) -> NoReturn:
        raise SystemExit(f"{number.name}: {self.kept}")


def test_ray_trains_ctrl_c_in_a_part_of_the_work_says_what_the_whole_keeps(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ray_jobs.cli.errors.TERMINATION", ToldAtOnce())
    with pytest.raises(SystemExit) as ended, errors_at_work("The shards stay."), errors_at_work():
        raise KeyboardInterrupt
    assert ended.value.code == "SIGINT: The shards stay."


def test_what_ray_data_adds_to_a_message_is_not_told(capsys: pytest.CaptureFixture[str]):
    added = "Failed to apply UDF transform after 1/1 attempts (total backoff 0.0s).\nTo change retry attempts, ..."
    with pytest.raises(SystemExit), errors_at_work():
        raise StorageError(f"'a.tar' cannot be written. Make room.\n{added}")
    assert capsys.readouterr().err == "error: 'a.tar' cannot be written. Make room.\n"


def test_an_error_that_nobody_foresaw_keeps_its_trace_in_the_runs_folder_and_says_so_last(tmp_path: Path):
    with pytest.raises(ZeroDivisionError) as raised, user_errors(), errors_at_work("It goes on.", tmp_path):
        raise ZeroDivisionError("nothing")
    (path,) = tmp_path.iterdir()
    assert path.name == "error.log"
    assert path.read_text().rstrip().endswith("ZeroDivisionError: nothing")
    assert traceback.format_exception(raised.value)[-1] == f"The whole trace is in {path}. It goes on.\n"


def test_a_name_that_the_terminal_cannot_encode_is_printed_with_escapes(monkeypatch: pytest.MonkeyPatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    with user_errors():
        print("writing to größe", flush=True)
    assert terminal.buffer.getvalue() == b"writing to gr\\xf6\\xdfe\n"  # pyright: ignore[reportAttributeAccessIssue]


def test_a_trace_without_a_runs_folder_is_kept_in_a_temporary_one(tmp_path: Path):
    with pytest.raises(ZeroDivisionError) as raised, errors_at_work("", tmp_path / "not there"):
        raise ZeroDivisionError
    (note,) = raised.value.__notes__
    path = Path(note.removeprefix("The whole trace is in ").removesuffix("."))
    assert path.read_text().rstrip().endswith("ZeroDivisionError")
    assert not (tmp_path / "not there").exists()


@pytest.mark.parametrize("error", [ZeroDivisionError(), ValueError("late")])
def test_what_fails_because_of_a_sigterm_adds_nothing_to_its_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(TERMINATION, "has_begun", True)
    monkeypatch.setattr(TERMINATION, "status", 143)
    with pytest.raises(SystemExit) as ended, user_errors():
        raise error
    assert ended.value.code == 143
    assert capsys.readouterr().err == ""


def of_a_worker(error: Exception) -> Exception:
    """Return what the driver gets of an error in a worker: it has crossed processes."""
    arrived = pickle.loads(pickle.dumps(error))
    return RayTaskError("train", "a trace", arrived).as_instanceof_cause()


def full(path: str | None = "/run/step-8.ckpt") -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


LINES = {
    "worker": (
        of_a_worker(full()),
        "'/run/step-8.ckpt' cannot be written: No space left on device. Make room. resume=true goes on.",
    ),
    "quota": (
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "/run/a"),
        "'/run/a' cannot be written: Disk quota exceeded. Make room. resume=true goes on.",
    ),
    "nameless": (full(None), "A file cannot be written: No space left on device. Make room. resume=true goes on."),
    "read-only": (
        OSError(errno.EROFS, os.strerror(errno.EROFS), "/run/a"),
        "'/run/a' cannot be used: Read-only file system. Give another place, or this account the right to it. "
        "resume=true goes on.",
    ),
    "spilled": (
        of_a_worker(OutOfDiskError("no room")),
        "Ray's memory for objects and the disk beside it are full. Make room in RAY_TMPDIR of each node, or /tmp. "
        "resume=true goes on.",
    ),
}


@pytest.mark.parametrize("kind", LINES)
def test_a_full_or_forbidden_disk_at_work_is_one_line_with_the_place(kind: str, capsys: pytest.CaptureFixture[str]):
    error, line = LINES[kind]
    with pytest.raises(SystemExit) as ended, errors_at_work("resume=true goes on."):
        raise error
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {line}\n"


def test_a_full_disk_before_the_work_is_one_line_too(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit), user_errors():
        raise full()
    assert (
        capsys.readouterr().err == "error: '/run/step-8.ckpt' cannot be written: No space left on device. Make room.\n"
    )


@pytest.mark.parametrize("context", [user_errors, errors_at_work])
def test_what_was_told_of_an_error_of_the_disk_is_not_told_anew(context, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit), context():
        raise StorageError("The set is full. Make room.") from full()
    assert capsys.readouterr().err == "error: The set is full. Make room.\n"


def test_a_users_mistake_is_told_and_not_what_it_was_found_by(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit), user_errors():
        raise ValueError("Give another file.") from PermissionError(errno.EACCES, "Permission denied", "/a")
    assert capsys.readouterr().err == "error: Give another file.\n"


def test_an_error_of_the_network_is_none_of_a_disk():
    with pytest.raises(PermissionError), errors_at_work():
        raise PermissionError(errno.EPERM, "Operation not permitted")
