"""The folder of a local Ray's session."""

import os
from pathlib import Path

import pytest

from ray_jobs.cluster.session_folder import check_session_folder


@pytest.fixture(autouse=True)
def no_folder_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("setting", ["RAY_TMPDIR", "TMPDIR"])
def test_too_long_session_path_error_names_the_setting(setting: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "getpid", lambda: 4194304)
    # below it: /ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store, 68 bytes
    monkeypatch.setenv(setting, "/tmp/" + "x" * 35)
    with pytest.raises(
        ValueError, match=rf"^{setting} is '/tmp/x{{35}}', which is too long.* have 108 bytes.* Set RAY_TMPDIR"
    ):
        check_session_folder()


def test_longest_allowed_session_path_is_accepted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "getpid", lambda: 4194304)
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "x" * 34)
    check_session_folder()


def test_unwritable_session_folder_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_TMPDIR", "/proc")
    with pytest.raises(ValueError, match=r"^RAY_TMPDIR is '/proc', but '/proc' cannot be written: .* Set RAY_TMPDIR"):
        check_session_folder()


def test_file_in_the_way_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TMPDIR", "/dev/null")
    with pytest.raises(ValueError, match=r"^TMPDIR is '/dev/null', but '/dev/null' is not a folder"):
        check_session_folder()


def test_relative_session_folder_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_TMPDIR", "tmp")
    with pytest.raises(ValueError, match=r"^RAY_TMPDIR is 'tmp', which is not an absolute path"):
        check_session_folder()
