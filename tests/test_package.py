"""The package that `ray job submit --working-dir .` uploads, built with Ray's packaging code."""

import os
import shutil
from pathlib import Path
from zipfile import ZipFile

import pytest
from ray._private.runtime_env.packaging import create_package
from ray._private.runtime_env.working_dir import upload_working_dir_if_needed

from generation.recipes.model_files import PROJECT_ROOT

WORK_FILES = (
    ".venv/lib/torch.so",
    "env/lib/torch.so",
    ".git/objects/pack",
    "runs/digits/checkpoint.ckpt",
    "runs/digits/outputs/digits-guesses.parquet",
    "runs/set/shard-000000.tar",
    "data/imagenet/photograph.jpg",
    "wandb/run/log",
    "best.ckpt",
)
"""Files that accumulate in a working directory; each has 1 MB in the test."""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of a used working directory."""
    folder = tmp_path_factory.mktemp("work") / "figment"
    shutil.copytree(PROJECT_ROOT, folder, ignore=shutil.ignore_patterns(".git", ".venv", "runs"))
    for name in WORK_FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(os.urandom(1_000_000))
    target = tmp_path_factory.mktemp("package") / "package.zip"

    def pack(working_dir: str, excludes: list[str] | None, is_file: bool = False) -> None:
        assert not is_file
        create_package(working_dir, target, include_gitignore=True, excludes=excludes)

    upload_working_dir_if_needed({"working_dir": str(folder)}, include_gitignore=True, upload_fn=pack)
    return target


def test_package_is_below_6_mb_without_environment_and_runs(package: Path):
    assert package.stat().st_size < 6_000_000
    names = set(ZipFile(package).namelist())
    assert not names.intersection(WORK_FILES)
    assert not any(name.startswith(("docs/", "tests/")) for name in names)


def test_package_has_the_files_that_jobs_read(package: Path):
    assert set(ZipFile(package).namelist()) >= {
        "ray_jobs/train.py",
        "ray_jobs/configs/digits.yaml",
        "generation/data/imagenet1k.json",
        "generation/digits/model/unet/diffusion_pytorch_model.safetensors",
    }
