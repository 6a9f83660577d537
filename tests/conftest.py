"""Recipes and settings that tests share; a Ray cluster for those that need one."""

import pytest

from generation.config import GenerationConfig, RecipeConfig
from generation.recipe import Recipe, build_recipe

ON_CPU = GenerationConfig(gpus_per_actor=0, cpus_per_actor=0.1, batch_size=4)


@pytest.fixture(scope="session")
def painted() -> Recipe:
    """Ten classes, 16 px, no model."""
    return build_recipe(RecipeConfig(generator="painted", image_size=16, num_inference_steps=1))


@pytest.fixture(scope="session")
def digits() -> Recipe:
    """The embedded model at a few steps."""
    return build_recipe(RecipeConfig(image_size=32, num_inference_steps=4, guidance_scale=(1.0,)))


@pytest.fixture(scope="session")
def ray_cluster():
    """One local cluster for the session, whichever others run on this machine."""
    import ray

    from ray_jobs.cluster import start_local

    start_local()
    yield ray
    ray.shutdown()
