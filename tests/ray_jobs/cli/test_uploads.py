"""Why a file is missing from a submitted job's upload."""

import json
from pathlib import Path

import pytest

from ray_jobs.cli.errors import user_errors
from ray_jobs.cli.uploads import not_uploaded


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A submitted job's copy of the working directory, as the current folder."""
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
def test_rule_and_its_file_are_named(package: Path, path: str, rule: str):
    assert f" '{path}' was not uploaded with the job: {rule} excludes it." in not_uploaded(f"'{path}' is not there.")


def test_path_in_the_home_folder_is_matched_to_the_working_directory(package: Path, tmp_path: Path):
    message = f"'{tmp_path / 'home' / 'data' / 'birds'}' is not there."
    assert "'data/birds' was not uploaded with the job: '/data/' in .rayignore" in not_uploaded(message)


def test_long_text_between_quotes_is_not_a_path(package: Path):
    assert not_uploaded(f"Sample 7 was refused: '{'a photo ' * 40}'.") == ""


def test_ignore_file_in_a_folder_applies_from_there(package: Path):
    (package / "classes").mkdir()
    (package / "classes" / ".gitignore").write_text("*.csv\n")
    assert "'*.csv' in classes/.gitignore" in not_uploaded("'classes/birds.csv' is not there.")
    assert not_uploaded("'birds.csv' is not there.") == ""


def test_excludes_of_the_runtime_environment_are_named(package: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": {"excludes": ["words"]}}))
    assert "'words' in the runtime environment's excludes" in not_uploaded("'words/list.txt' is not there.")


@pytest.mark.parametrize(
    "message", ["'kept.jpg' is not there.", "'other' is not there.", "'https://x/a.jpg' is not there.", "no path"]
)
def test_message_without_an_excluded_path_is_unchanged(package: Path, message: str):
    assert not_uploaded(message) == ""


def test_existing_files_and_outputs_are_not_explained(package: Path):
    (package / "a.jpg").write_text("")
    assert not_uploaded("'a.jpg' is not an image.") == ""
    assert not_uploaded("output 'data/run' cannot be created.") == ""


def test_nothing_is_explained_outside_a_submitted_job(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".gitignore").write_text("*.jpg\n")
    assert not_uploaded("'a.jpg' is not there.") == ""


def test_error_line_ends_with_the_rule(package: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit), user_errors():
        raise ValueError("'data/birds' is not there.")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: 'data/birds' is not there. 'data/birds' was not uploaded with the job: '/data/' in")
