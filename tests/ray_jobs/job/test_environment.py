"""Commit, machine and date of a measurement."""

import subprocess
from datetime import date
from pathlib import Path

import pytest

from ray_jobs.job import environment as environment_module
from ray_jobs.job.environment import commit, environment


def test_commit_is_unknown_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit() == "unknown"
    assert environment()["date"] == date.today().isoformat()


def test_commit_is_unknown_outside_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(environment_module, "PROJECT_ROOT", tmp_path)
    assert commit() == "unknown"


def test_commit_of_a_repository_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    subprocess.run(["git", *identity, "commit", "--quiet", "--allow-empty", "-m", "First"], cwd=tmp_path, check=True)
    command = ["git", "rev-parse", "HEAD"]
    full_hash = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    monkeypatch.setattr(environment_module, "PROJECT_ROOT", tmp_path)
    assert len(commit()) >= 7
    assert full_hash.startswith(commit())
