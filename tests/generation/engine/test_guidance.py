import dataclasses

import numpy as np
import pytest
import torch

from generation.engine.diffusers_generator import DiffusersGenerator
from generation.engine.guidance import GuidanceScales
from generation.recipes.config import RecipeConfig
from generation.recipes.plan import plan_sample
from generation.recipes.recipe import Recipe
from tests.support.images import MAX_LEVELS_APART, apart
from tests.support.settings import ON_CPU


def test_each_sample_has_its_own_guidance_scale():
    differences = torch.tensor([[1.0, 2.0], [3.0, -4.0]])
    assert (GuidanceScales([2.0, 0.5]) * differences).tolist() == [[2.0, 4.0], [1.5, -2.0]]
    assert GuidanceScales([1.0, 1.5]) > 1


def images_and_rows(recipe: Recipe) -> tuple[np.ndarray, list[int]]:
    """Return the images of three samples, and the number of rows that the denoiser computes in each of four steps."""
    generator = DiffusersGenerator(recipe, ON_CPU)
    rows = []
    owner = generator.guidance or generator.denoiser
    forward = owner.forward
    owner.forward = lambda sample, *rest, **settings: rows.append(len(sample)) or forward(sample, *rest, **settings)
    plans = [plan_sample(recipe, index) for index in range(3)]
    return generator.generate(plans).images_nhwc, rows


def test_steps_outside_the_guidance_interval_compute_no_guidance(digits: Recipe):
    guided = dataclasses.replace(digits, guidance_scale=(4.0,))
    all_images, all_rows = images_and_rows(guided)
    some_images, some_rows = images_and_rows(dataclasses.replace(guided, guidance_interval=(0.25, 0.75)))
    assert all_rows == [6, 6, 6, 6]
    assert some_rows == [3, 6, 6, 3]
    assert apart(all_images, some_images) > 10

    none_images, none_rows = images_and_rows(dataclasses.replace(guided, guidance_interval=(0.99, 1.0)))
    assert none_rows == [3, 3, 3, 3]
    unguided, _ = images_and_rows(dataclasses.replace(digits, guidance_scale=(1.0,)))
    assert apart(none_images, unguided) <= MAX_LEVELS_APART


def test_reversed_interval_is_refused():
    with pytest.raises(ValueError, match=r"guidance_interval is 0\.7, 0\.1; use two ascending fractions"):
        RecipeConfig(guidance_interval=(0.7, 0.1))
