"""Plan a sample: label, prompt and noise from its index.

A plan is a pure function of `(recipe, index)`. It depends on no actor, epoch or clock, so sample 7 has the same
label, prompt and noise on one GPU or on sixty-four, live or from a shard, today or after a restart. Sets are nested:
for every N, the first N indices are the N-image set.
"""

import dataclasses
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np

from generation.random_streams import Purpose, bits, stream
from generation.recipes.prompts import fields_of
from generation.recipes.recipe import Recipe

TEMPLATE_DRAW, GUIDANCE_DRAW = 0, 4
FIELD_DRAWS = {"hypernym": 1, "background": 2, "caption": 3}
"""Which 64-bit word of the prompt stream makes each choice; adding a choice does not change the others."""

NUM_INDICES = 2**63
"""Sample indices are 0 to `NUM_INDICES - 1`, which fits an int64."""

FIRST_HELD_OUT_INDEX = 2**40
"""Samples from this index on are never trained on; they validate training without real images."""


@dataclass(frozen=True)
class SamplePlan:
    """Everything that determines a sample before it is generated."""

    index: int
    attempt: int
    """Number of refused images before this attempt."""

    label: int
    template: str
    prompt: str
    negative_prompt: str
    noise_seed: int
    """64 random bits that alone determine the initial noise."""

    guidance_scale: float
    num_inference_steps: int


def plan_sample(recipe: Recipe, index: int, attempt: int = 0) -> SamplePlan:
    """Return the plan of sample `index` (0 or more); another `attempt` changes only the noise."""
    if not 0 <= index < NUM_INDICES:
        raise ValueError(f"Sample index {index} is out of range; indices are 0 to {NUM_INDICES - 1}.")
    block, position = divmod(index, recipe.label_space.num_classes)
    label = _labels_of_block(recipe.seed, block, recipe.label_space.num_classes, recipe.class_weights)[position]
    words = _prompt_words(recipe, index)
    template = recipe.templates[_pick(words[TEMPLATE_DRAW], len(recipe.templates), recipe.template_weights)]
    return SamplePlan(
        index=index,
        attempt=attempt,
        label=label,
        template=template,
        prompt=template.format(**_fields(recipe, label, words)),
        negative_prompt=recipe.negative_prompt,
        noise_seed=int(bits(Purpose.NOISE_SEEDS, recipe.seed, index, attempt).random_raw()),
        guidance_scale=_guidance_scale(recipe, words[GUIDANCE_DRAW]),
        num_inference_steps=recipe.num_inference_steps,
    )


def num_prompts(recipe: Recipe) -> int:
    """Return the number of possible prompts; equal texts from different choices count separately."""
    choices = [field_choices(recipe, label) for label in range(recipe.label_space.num_classes)]
    return sum(
        math.prod(len(of_label[field]) for field in fields)
        for fields in map(fields_of, recipe.templates)
        for of_label in choices
    )


def field_choices(recipe: Recipe, label: int) -> dict[str, Sequence[str]]:
    """Return the possible texts of each template field; empty if the class or recipe lacks them."""
    entry = recipe.label_space.classes[label]
    hypernyms = entry.hypernyms
    return {
        "class_name": (entry.class_name,),
        "lemmas": (", ".join(entry.lemmas) if recipe.lemmas == "all" else entry.class_name,),
        "definition": (entry.definition,),
        "hypernym": {"first": hypernyms[:1], "random": hypernyms, "all": (", ".join(hypernyms),)}[recipe.hypernym],
        "background": recipe.backgrounds_by_label[label],
        "caption": recipe.captions[label] if recipe.captions else (),
    }


def describe_sample(recipe: Recipe, plan: SamplePlan) -> dict[str, Any]:
    """Return a sample's metadata as JSON values."""
    entry = recipe.label_space.classes[plan.label]
    fields = _fields(recipe, plan.label, _prompt_words(recipe, plan.index))
    return {
        **dataclasses.asdict(plan),
        "fields": {name: fields[name] for name in sorted(fields_of(plan.template))},
        "class_name": entry.class_name,
        "wnid": entry.wnid,
        "synset": entry.synset,
        "definition": entry.definition,
        "hypernyms": list(entry.hypernyms),
        "model": recipe.model or recipe.generator,
        "revision": recipe.revision,
        "image_size": recipe.image_size,
        "recipe_sha256": recipe.sha256,
    }


@lru_cache(maxsize=256)
def _labels_of_block(seed: int, block: int, num_classes: int, weights: tuple[float, ...]) -> Sequence[int]:
    """Return the shuffled labels of block number `block`; a block is `num_classes` consecutive indices.

    Each label occurs once. With weights, it occurs as often as its share of the block, rounded up or down at random so
    that the mean is exact (systematic sampling).
    """
    random = stream(Purpose.LABELS, seed, block)
    order = random.permutation(num_classes)
    if not weights:
        return order.tolist()
    shares = np.cumsum(weights) / np.sum(weights)
    return np.searchsorted(shares[:-1], (order + random.random()) / num_classes, side="right").tolist()


def _prompt_words(recipe: Recipe, index: int) -> Sequence[int]:
    """Return a 64-bit random word for each choice."""
    return bits(Purpose.PROMPTS, recipe.seed, index).random_raw(5).tolist()


def _fields(recipe: Recipe, label: int, words: Sequence[int]) -> dict[str, str]:
    """Return the text of each template field."""
    return {
        field: texts[_pick(words[FIELD_DRAWS.get(field, 0)], len(texts))] if texts else ""
        for field, texts in field_choices(recipe, label).items()
    }


def _guidance_scale(recipe: Recipe, word: int) -> float:
    scales = recipe.guidance_scale
    if recipe.guidance_draw == "between":
        return scales[0] + (scales[1] - scales[0]) * (word / 2**64)
    return scales[_pick(word, len(scales))]


def _pick(word: int, num_choices: int, weights: tuple[float, ...] = ()) -> int:
    """Map 64 random bits to `0 .. num_choices - 1`, with probabilities proportional to the weights."""
    if not weights:
        return word * num_choices >> 64
    return min(bisect_right(_cumulative(weights), word / 2**64), num_choices - 1)


@lru_cache(maxsize=16)
def _cumulative(weights: tuple[float, ...]) -> Sequence[float]:
    return list(accumulate(weights))
