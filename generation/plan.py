"""From a sample's index to what it shows.

A plan is a pure function of `(recipe, index)`. It knows no actor, no epoch and no clock, so sample 7 has the same
label, prompt and noise on one GPU or on sixty-four, live or from a shard, today or after a restart.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from generation.prompts import needs_background, render_prompt
from generation.recipe import Recipe

LABEL_STREAM, NOISE_STREAM, PROMPT_STREAM = range(3)
"""Second key word of the counter-based generator: what a draw is for."""

FIRST_HELD_OUT_INDEX = 2**40
"""Samples from here on are never trained on: they tell how training goes without a look at real images."""


@dataclass(frozen=True)
class SamplePlan:
    """What decides a sample before it exists."""

    index: int
    attempt: int
    """0, and one more for each refused image."""

    label: int
    prompt: str
    noise_seed: int
    """64 random bits; the image's initial noise follows from them alone."""

    guidance_scale: float
    num_inference_steps: int


def plan_sample(recipe: Recipe, index: int, attempt: int = 0) -> SamplePlan:
    """Return the plan of sample `index` (0 or more); a further attempt changes the noise and nothing else."""
    if index < 0:
        raise ValueError(f"Sample index {index} is negative; indices start at 0.")
    num_classes = recipe.label_space.num_classes
    run, position = divmod(index, num_classes)
    label = _label_order(recipe.seed, run, num_classes)[position]
    return SamplePlan(
        index=index,
        attempt=attempt,
        label=label,
        prompt=render_prompt(recipe.prompt, recipe.label_space.classes[label], _background(recipe, index)),
        noise_seed=int(_counter(recipe.seed, NOISE_STREAM, index, attempt).random_raw()),
        guidance_scale=recipe.guidance_scale,
        num_inference_steps=recipe.num_inference_steps,
    )


@lru_cache(maxsize=256)
def _label_order(seed: int, run: int, num_classes: int) -> tuple[int, ...]:
    """Return the labels of the aligned run of `num_classes` indices number `run`: each label once."""
    order = np.random.Generator(_counter(seed, LABEL_STREAM, run)).permutation(num_classes)
    return tuple(order.tolist())


def _background(recipe: Recipe, index: int) -> str:
    if not needs_background(recipe.prompt):
        return ""
    draw = np.random.Generator(_counter(recipe.seed, PROMPT_STREAM, index)).integers(len(recipe.backgrounds))
    return recipe.backgrounds[draw]


def _counter(seed: int, stream: int, index: int, attempt: int = 0) -> np.random.Philox:
    """Return a generator that is a function of its arguments alone; word 0 of the counter is the generator's own."""
    return np.random.Philox(
        key=np.array([seed, stream], dtype=np.uint64), counter=np.array([0, index, attempt, 0], dtype=np.uint64)
    )
