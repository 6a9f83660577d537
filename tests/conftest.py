"""Session fixtures: recipes, one Ray cluster, pools and a trained run."""

import os
from collections.abc import Iterator

import pytest

from generation.recipes.config import RecipeConfig
from generation.recipes.recipe import Recipe, build_recipe
from tests.support import leftovers
from tests.support.settings import TWO_ACTORS, TWO_ACTORS_OF_8

IS_FIRST = leftovers.MARK not in os.environ
"""Whether this process started the session; pytest-xdist workers inherit the mark from it."""

TEMP_FOLDER = leftovers.own_temp_folder() if IS_FIRST else None
leftovers.mark_processes()
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # threads of Ray Serve outlive ray.shutdown() and would start Ray again

HAS_FAILED = pytest.StashKey[bool]()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Record whether a test failed; the temporary folder with Ray's logs is then kept."""
    session.config.stash[HAS_FAILED] = bool(session.testsfailed)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the session's temporary folder, including Ray's sessions and pytest's folders."""
    if TEMP_FOLDER is None:
        return
    if config.stash.get(HAS_FAILED, False):
        print(f"Logs and folders of the session are kept in {TEMP_FOLDER}")
    else:
        leftovers.remove(TEMP_FOLDER)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Fail at the session's end if it left a process or a shared-memory file behind."""
    before = leftovers.shared_memory()
    yield
    assert leftovers.wait_for_marked_processes() == []
    assert leftovers.shared_memory() <= before


@pytest.fixture(scope="session")
def painted() -> Recipe:
    """Recipe without a model: ten classes, 16 px."""
    return build_recipe(RecipeConfig(generator="painted", image_size=16, num_inference_steps=1))


@pytest.fixture(scope="session")
def digits() -> Recipe:
    """Recipe of the embedded model with four steps."""
    return build_recipe(RecipeConfig(image_size=32, num_inference_steps=4, guidance_scale=(1.0,)))


@pytest.fixture(scope="session")
def ray_cluster():
    """One local cluster for the session, independent of others on this machine."""
    import ray

    from ray_jobs.cluster.connect import start_local

    start_local()
    yield ray
    ray.shutdown()


@pytest.fixture(scope="session")
def painted_pool(painted: Recipe, ray_cluster):
    """Two generator actors of `painted` with batches of 16, for tests that neither kill nor resize them."""
    from generation.pool.service import start_generation

    with start_generation(painted, TWO_ACTORS) as service:
        yield service


@pytest.fixture(scope="session")
def guarded_digits(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Recipe of the embedded model with four steps and a safety checker that flags 20% of its images."""
    from tests.support.tiny_models import save_with_safety_checker

    folder = tmp_path_factory.mktemp("models") / "guarded"
    save_with_safety_checker(folder, flagged_share=0.2)
    return build_recipe(
        RecipeConfig(
            model=str(folder), safety_checker=True, image_size=32, num_inference_steps=4, guidance_scale=(1.0,)
        )
    )


@pytest.fixture(scope="session")
def digits_pool(guarded_digits: Recipe, ray_cluster):
    """Two generator actors of `guarded_digits` with batches of 8."""
    from generation.pool.service import start_generation

    with start_generation(guarded_digits, TWO_ACTORS_OF_8) as service:
        yield service


@pytest.fixture(scope="session")
def trained_run(ray_cluster, tmp_path_factory: pytest.TempPathFactory):
    """The demo's run, shortened to an eighth of its images."""
    from tests.support.trained_run import train_demo

    return train_demo(tmp_path_factory.mktemp("runs") / "demo")
