"""How a job ends that cannot go on."""

import pytest

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


def test_an_error_that_is_not_the_users_keeps_its_trace():
    with pytest.raises(ZeroDivisionError), errors_at_work():
        raise ZeroDivisionError
