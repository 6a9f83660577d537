"""Why a file is not in what a submitted job uploaded."""

import json
from pathlib import Path

import pytest

from ray_jobs.cli.errors import user_errors
from ray_jobs.cli.uploads import not_uploaded


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A submitted job's copy of the working directory, where this process is."""
    folder = tmp_path / "working_dir_files" / "_ray_pkg_1"
    folder.mkdir(parents=True)
    (folder / ".gitignore").write_text("# large\n*.jpg\n!kept.jpg\n/photos/\n")
    (folder / ".rayignore").write_text("/data/\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return folder


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("a.jpg", "'*.jpg' in .gitignore"),
        ("photos", "'/photos/' in .gitignore"),
        ("data/birds/one.png", "'/data/' in .rayignore"),
        (".git/config", "Ray's own rule '.git'"),
    ],
)
def test_the_rule_and_its_file_are_named(package: Path, path: str, rule: str):
    assert f" '{path}' was not uploaded with the job: {rule} excludes it." in not_uploaded(f"'{path}' is not there.")


def test_a_path_that_a_job_looks_for_in_the_home_folder_is_one_of_the_working_directory(package: Path, tmp_path: Path):
    message = f"'{tmp_path / 'home' / 'data' / 'birds'}' is not there."
    assert "'data/birds' was not uploaded with the job: '/data/' in .rayignore" in not_uploaded(message)


def test_a_long_text_between_quotes_is_no_path(package: Path):
    assert not_uploaded(f"Sample 7 was refused: '{'a photo ' * 40}'.") == ""


def test_an_ignore_file_in_a_folder_counts_from_there(package: Path):
    (package / "classes").mkdir()
    (package / "classes" / ".gitignore").write_text("*.csv\n")
    assert "'*.csv' in classes/.gitignore" in not_uploaded("'classes/birds.csv' is not there.")
    assert not_uploaded("'birds.csv' is not there.") == ""


def test_what_the_jobs_environment_excludes_is_named(package: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": {"excludes": ["words"]}}))
    assert "'words' in the runtime environment's excludes" in not_uploaded("'words/list.txt' is not there.")


@pytest.mark.parametrize(
    "message", ["'kept.jpg' is not there.", "'other' is not there.", "'https://x/a.jpg' is not there.", "no path"]
)
def test_nothing_is_said_of_what_no_rule_keeps_back(package: Path, message: str):
    assert not_uploaded(message) == ""


def test_nothing_is_said_of_what_is_there_or_is_to_be_written(package: Path):
    (package / "a.jpg").write_text("")
    assert not_uploaded("'a.jpg' is no image.") == ""
    assert not_uploaded("output 'data/run' cannot be made.") == ""


def test_nothing_is_said_outside_a_submitted_job(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".gitignore").write_text("*.jpg\n")
    assert not_uploaded("'a.jpg' is not there.") == ""


def test_a_jobs_error_ends_with_the_rule(package: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit), user_errors():
        raise ValueError("'data/birds' is not there.")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: 'data/birds' is not there. 'data/birds' was not uploaded with the job: '/data/' in")
