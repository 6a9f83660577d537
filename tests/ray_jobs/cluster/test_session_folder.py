"""Where a local Ray can keep its session."""

import os
from pathlib import Path

import pytest

from ray_jobs.cluster.session_folder import check_session_folder


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("setting", ["RAY_TMPDIR", "TMPDIR"])
def test_a_path_too_long_for_rays_sockets_is_named_with_its_setting(setting: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "getpid", lambda: 4194304)
    # below it: /ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store, 68 bytes
    monkeypatch.setenv(setting, "/tmp/" + "x" * 35)
    with pytest.raises(
        ValueError, match=rf"^{setting} is '/tmp/x{{35}}', which is too long.* have 108 bytes.* Set RAY_TMPDIR"
    ):
        check_session_folder()


def test_the_longest_path_that_rays_sockets_allow_is_taken(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "getpid", lambda: 4194304)
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "x" * 34)
    check_session_folder()


def test_a_folder_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_TMPDIR", "/proc")
    with pytest.raises(ValueError, match=r"^RAY_TMPDIR is '/proc', but '/proc' cannot be written: .* Set RAY_TMPDIR"):
        check_session_folder()


def test_a_file_in_the_way_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TMPDIR", "/dev/null")
    with pytest.raises(ValueError, match=r"^TMPDIR is '/dev/null', but '/dev/null' is not a folder"):
        check_session_folder()


def test_a_relative_folder_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_TMPDIR", "tmp")
    with pytest.raises(ValueError, match=r"^RAY_TMPDIR is 'tmp', which is not an absolute path"):
        check_session_folder()
