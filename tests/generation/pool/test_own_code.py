"""The code and environment of generator actors, on a cluster that another job used first."""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import ray

from generation.pool import own_code
from generation.pool.own_code import code_of_driver, packages_sha256, use
from generation.pool.service import GenerationService
from generation.recipes.model_files import PROJECT_ROOT
from generation.stream.stream import fetch_samples
from tests.support.settings import TWO_ACTORS

PACKAGES = ("generation", "training", "evaluation", "ray_jobs")

INVERTED = """

_paint = PaintedGenerator.paint
PaintedGenerator.paint = lambda self, plan: 255 - _paint(self, plan)
"""

DRIVER = """
import sys
import numpy as np
from generation.config import GenerationConfig
from generation.recipes.config import RecipeConfig
from generation.recipes.recipe import build_recipe
from generation.pool.service import start_generation
from generation.stream.stream import fetch_samples
from ray_jobs.cluster.connect import connect

connect()
recipe = build_recipe(RecipeConfig(generator="painted", image_size=16, num_inference_steps=1))
config = GenerationConfig(min_actors=1, max_actors=1, gpus_per_actor=0, cpus_per_actor=0.01, batch_size=4)
with start_generation(recipe, config) as service:
    np.save(sys.argv[1], fetch_samples(service, config, range(4))["image"])
"""


def copied_code(folder: Path) -> Path:
    """Copy all packages to a folder, with a painted generator that inverts its images."""
    for package in PACKAGES:
        shutil.copytree(PROJECT_ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "generation" / "engine" / "painted_generator.py").open("a") as file:
        file.write(INVERTED)
    return folder


@pytest.mark.ray
@pytest.mark.nightly
def test_actors_run_their_own_jobs_code(painted_pool: GenerationService, tmp_path: Path):
    code, images = copied_code(tmp_path / "code"), tmp_path / "images.npy"
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address, "PYTHONPATH": ""}
    driver = [sys.executable, "-c", DRIVER, str(images)]
    done = subprocess.run(driver, cwd=code, env=environment, check=True, timeout=120, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    np.testing.assert_array_equal(np.load(images), 255 - fetch_samples(painted_pool, TWO_ACTORS, range(4))["image"])


@pytest.fixture
def restored_modules():
    modules, path, folder = dict(sys.modules), list(sys.path), Path.cwd()
    yield
    os.chdir(folder)
    sys.path[:] = path
    for name in [name for name in sys.modules if name.partition(".")[0] in own_code.PACKAGES]:
        del sys.modules[name]
    sys.modules.update({name: module for name, module in modules.items() if name not in sys.modules})


def in_environment(monkeypatch: pytest.MonkeyPatch, **runtime_env: object) -> None:
    """Give this process a runtime environment, as a Ray actor has."""
    context = SimpleNamespace(runtime_env=runtime_env)
    monkeypatch.setattr(own_code.ray, "get_runtime_context", lambda: context)


@pytest.fixture
def other_code(tmp_path: Path) -> Path:
    """Return a folder with empty packages."""
    for package in own_code.PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    return tmp_path


def imported_from() -> Path:
    return Path(str(importlib.import_module("generation").__file__)).parents[1]


@pytest.mark.usefixtures("restored_modules")
def test_actor_imports_the_drivers_code(monkeypatch: pytest.MonkeyPatch, other_code: Path):
    in_environment(monkeypatch)
    code = own_code.JobCode(str(other_code), packages_sha256(other_code), {})
    monkeypatch.setitem(sys.modules, "training.anothers", os)
    use(code)
    assert imported_from() == other_code
    assert "training.anothers" not in sys.modules
    (other_code / "evaluation" / "new.py").touch()
    with pytest.raises(ValueError, match=r"^Figment's code in .* differs from the driver's .* Install the same"):
        use(code)


@pytest.mark.usefixtures("restored_modules")
def test_working_directory_of_another_job_is_ignored(monkeypatch: pytest.MonkeyPatch, other_code: Path):
    in_environment(monkeypatch, working_dir="gcs://of_another_job.zip")
    monkeypatch.chdir(other_code)
    use(code_of_driver({}))
    assert imported_from() == PROJECT_ROOT


@pytest.mark.usefixtures("restored_modules")
def test_environment_variables_of_another_job_are_removed(monkeypatch: pytest.MonkeyPatch):
    in_environment(monkeypatch, env_vars={"OWN": "1", "ANOTHERS": "secret", "RAY_SERVE_X": "1"})
    for name in ("OWN", "ANOTHERS", "RAY_SERVE_X"):
        monkeypatch.setenv(name, "1")
    use(code_of_driver({"env_vars": {"OWN": "1"}}))
    assert [name in os.environ for name in ("OWN", "ANOTHERS", "RAY_SERVE_X")] == [True, False, True]


def test_variable_changed_by_another_job_is_reset_to_the_nodes_value():
    script = (
        "import os; from generation.pool.own_code import _restore; os.environ['HF_HOME'] = 'of another job';"
        "_restore(['HF_HOME']); print(os.environ['HF_HOME'])"
    )
    worker = [sys.executable, "-c", script]
    node = [sys.executable, "-c", f"import subprocess; subprocess.run({worker}, check=True)"]
    done = subprocess.run(
        node, env=os.environ | {"HF_HOME": "/of/the/node"}, cwd=PROJECT_ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout == "/of/the/node\n"


@pytest.mark.usefixtures("restored_modules")
def test_packages_of_another_job_are_refused(monkeypatch: pytest.MonkeyPatch):
    in_environment(monkeypatch, pip={"packages": ["diffusers==0.30"]})
    with pytest.raises(ValueError, match=r"^Generator actors would inherit 'pip' from .* Run serve shutdown"):
        use(code_of_driver({}))
    use(code_of_driver({"pip": ["diffusers==0.30"]}))
