"""How a failing job ends."""

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
from ray_jobs.cli.errors import errors_at_work, one_line, user_errors
from ray_jobs.cli.termination import TERMINATION, Termination


class ExitWithLine(Termination):
    """Raises SystemExit with the line to print, and leaves this process's signals alone."""

    def begin(self, number: signal.Signals) -> NoReturn:
        raise SystemExit(f"{number.name}: {self.hint}")


def test_ctrl_c_prints_what_the_outer_context_keeps(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ray_jobs.cli.errors.TERMINATION", ExitWithLine())
    with pytest.raises(SystemExit) as ended, errors_at_work("The shards are stored."), errors_at_work():
        raise KeyboardInterrupt
    assert ended.value.code == "SIGINT: The shards are stored."


def test_text_added_by_ray_data_is_not_printed(capsys: pytest.CaptureFixture[str]):
    added = "Failed to apply UDF transform after 1/1 attempts (total backoff 0.0s).\nTo change retry attempts, ..."
    with pytest.raises(SystemExit), errors_at_work():
        raise StorageError(f"'a.tar' cannot be written. Make room.\n{added}")
    assert capsys.readouterr().err == "error: 'a.tar' cannot be written. Make room.\n"


def test_error_that_does_not_end_the_job_is_one_line(tmp_path: Path):
    lost = StorageError("'a.tar' cannot be written.\nMake room.")
    assert one_line(RayTaskError("f", "trace", lost).as_instanceof_cause(), tmp_path) == (
        "'a.tar' cannot be written. Make room."
    )
    assert one_line(ValueError("training.reuse is 0.\nUse 1."), tmp_path) == "training.reuse is 0. Use 1."
    assert not list(tmp_path.iterdir())
    line = one_line(ZeroDivisionError("nothing"), tmp_path)
    assert line == f"ZeroDivisionError: nothing The full traceback is in {tmp_path / 'error.log'}."


def test_unexpected_error_stores_its_traceback_in_the_runs_folder(tmp_path: Path):
    with pytest.raises(ZeroDivisionError) as raised, user_errors(), errors_at_work("Resume it.", tmp_path):
        raise ZeroDivisionError("nothing")
    (path,) = tmp_path.iterdir()
    assert path.name == "error.log"
    assert path.read_text().rstrip().endswith("ZeroDivisionError: nothing")
    assert traceback.format_exception(raised.value)[-1] == f"The full traceback is in {path}. Resume it.\n"


def test_characters_the_terminal_cannot_encode_are_escaped(monkeypatch: pytest.MonkeyPatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    with user_errors():
        print("writing to größe", flush=True)
    assert terminal.buffer.getvalue() == b"writing to gr\\xf6\\xdfe\n"  # pyright: ignore[reportAttributeAccessIssue]


def test_traceback_without_a_runs_folder_is_stored_in_a_temporary_one(tmp_path: Path):
    with pytest.raises(ZeroDivisionError) as raised, errors_at_work("", tmp_path / "not there"):
        raise ZeroDivisionError
    (note,) = raised.value.__notes__
    path = Path(note.removeprefix("The full traceback is in ").removesuffix("."))
    assert path.read_text().rstrip().endswith("ZeroDivisionError")
    assert not (tmp_path / "not there").exists()


@pytest.mark.parametrize("error", [ZeroDivisionError(), ValueError("late")])
def test_errors_after_sigterm_print_nothing(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(TERMINATION, "has_begun", True)
    monkeypatch.setattr(TERMINATION, "status", 143)
    with pytest.raises(SystemExit) as ended, user_errors():
        raise error
    assert ended.value.code == 143
    assert capsys.readouterr().err == ""


def of_a_worker(error: Exception) -> Exception:
    """Return a worker's error as the driver receives it, after it crossed processes."""
    arrived = pickle.loads(pickle.dumps(error))
    return RayTaskError("train", "a trace", arrived).as_instanceof_cause()


def full(path: str | None = "/run/step-8.ckpt") -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


LINES = {
    "worker": (
        of_a_worker(full()),
        "'/run/step-8.ckpt' cannot be written: No space left on device. Free some space. Resume with resume=true.",
    ),
    "quota": (
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "/run/a"),
        "'/run/a' cannot be written: Disk quota exceeded. Free some space. Resume with resume=true.",
    ),
    "nameless": (
        full(None),
        "A file cannot be written: No space left on device. Free some space. Resume with resume=true.",
    ),
    "read-only": (
        OSError(errno.EROFS, os.strerror(errno.EROFS), "/run/a"),
        "'/run/a' cannot be used: Read-only file system. Use another path, or give this account access. "
        "Resume with resume=true.",
    ),
    "spilled": (
        of_a_worker(OutOfDiskError("no room")),
        "Ray's object store and the disk that it spills to are full. Free space in each node's RAY_TMPDIR, or /tmp. "
        "Resume with resume=true.",
    ),
}


@pytest.mark.parametrize("kind", LINES)
def test_full_or_forbidden_disk_at_work_is_one_line_with_the_path(kind: str, capsys: pytest.CaptureFixture[str]):
    error, line = LINES[kind]
    with pytest.raises(SystemExit) as ended, errors_at_work("Resume with resume=true."):
        raise error
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {line}\n"


def test_full_disk_before_the_work_is_one_line(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit), user_errors():
        raise full()
    line = "error: '/run/step-8.ckpt' cannot be written: No space left on device. Free some space.\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("context", [user_errors, errors_at_work])
def test_storage_errors_message_wins_over_its_cause(context, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit), context():
        raise StorageError("The set is full. Make room.") from full()
    assert capsys.readouterr().err == "error: The set is full. Make room.\n"


def test_value_errors_message_wins_over_its_cause(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit), user_errors():
        raise ValueError("Use another file.") from PermissionError(errno.EACCES, "Permission denied", "/a")
    assert capsys.readouterr().err == "error: Use another file.\n"


def test_permission_error_without_a_file_is_not_a_disk_error():
    with pytest.raises(PermissionError), errors_at_work():
        raise PermissionError(errno.EPERM, "Operation not permitted")
