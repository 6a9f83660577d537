"""How a job ends that cannot go on."""

import traceback
from pathlib import Path

import pytest

from ray_jobs.termination import TERMINATION
from ray_jobs.user_errors import errors_at_work, user_errors


def test_ctrl_c_at_work_ends_in_one_line_with_what_is_kept(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended, errors_at_work("The shards stay."):
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted. The shards stay.\n"


def test_ctrl_c_before_the_work_ends_in_one_line(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended, user_errors():
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted.\n"


def test_ctrl_c_in_a_part_of_the_work_says_what_the_whole_keeps(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit), errors_at_work("The shards stay."), user_errors():
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "interrupted. The shards stay.\n"


def test_an_error_that_nobody_foresaw_keeps_its_trace_in_the_runs_folder_and_says_so_last(tmp_path: Path):
    with pytest.raises(ZeroDivisionError) as raised, user_errors(), errors_at_work("It goes on.", tmp_path):
        raise ZeroDivisionError("nothing")
    (path,) = tmp_path.iterdir()
    assert path.name == "error.log"
    assert path.read_text().rstrip().endswith("ZeroDivisionError: nothing")
    assert traceback.format_exception(raised.value)[-1] == f"The whole trace is in {path}. It goes on.\n"


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
    with pytest.raises(SystemExit) as ended, user_errors():
        raise error
    assert ended.value.code == 143
    assert capsys.readouterr().err == ""
