"""User folders with the names of Figment's packages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from generation.recipes.model_files import PROJECT_ROOT
from ray_jobs.cli.own_packages import other_package


def python_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(PROJECT_ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("file", "name"),
    [("training/__init__.py", "training"), ("evaluation.py", "evaluation"), ("generation/__init__.py", "generation")],
)
def test_package_that_hides_ours_is_one_line(file: str, name: str, tmp_path: Path):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    place = str(tmp_path / file).removesuffix("/__init__.py")
    ended = python_in(tmp_path, "-m", "ray_jobs.plan")
    assert ended.returncode == 2
    assert ended.stderr == (
        f"error: '{place}' hides Figment's package '{name}', because Python searches there first. Rename it, or "
        "start the command in another folder.\n"
    )


def test_folder_without_modules_hides_nothing(tmp_path: Path):
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "image.png").touch()
    script = "import pathlib, ray_jobs as ours; from ray_jobs.cli.own_packages import other_package as other; "
    script += "print(other(pathlib.Path(ours.__file__).parents[1]))"
    assert python_in(tmp_path, "-c", script).stdout == "None\n"


def test_folder_that_hides_a_package_is_returned(tmp_path: Path, monkeypatch):
    assert other_package(PROJECT_ROOT) is None
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr("ray_jobs.cli.own_packages.PACKAGES", ("elsewhere",))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert other_package(PROJECT_ROOT) == ("elsewhere", str(tmp_path / "elsewhere"))
