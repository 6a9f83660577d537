"""Checks for recipes that would silently train a wrong classifier: a warning or an error before actors start."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from string import Formatter

from generation.recipes.config import RecipeConfig
from generation.recipes.labels import check_no_duplicate_class, load_label_space
from generation.recipes.lora_keys import check_headers
from generation.recipes.model_files import PROJECT_ROOT, find_local
from generation.recipes.pipeline_traits import check_scheduler, traits_of, without_effect
from generation.recipes.plan import SamplePlan, field_choices, plan_sample
from generation.recipes.prompts import CLASS_FIELDS, fields_of
from generation.recipes.recipe import Recipe

EMBEDDED_MODEL = PROJECT_ROOT / "generation" / "digits" / "model"

NUM_CHECKED_PROMPTS = 1_000
"""Number of prompts checked: those of the first samples."""

SHORT_TEXT_LENGTH = 60
"""A text of up to this many characters fits every text encoder; the embedded model's is the shortest, at 64 tokens."""

MAX_EXAMPLES = 3

FIELD_OF_SETTING = {
    "backgrounds": "background",
    "backgrounds_file": "background",
    "captions_file": "caption",
    "hypernym": "hypernym",
    "lemmas": "lemmas",
}
"""The template field without which a setting has no effect."""


def check_recipe(recipe: Recipe, settings: RecipeConfig) -> list[str]:
    """Return warnings about a recipe; raise ValueError if all of its images would be useless.

    `settings` are those that the recipe was built from, or the defaults if it was read from a file.
    """
    check_model_knows(recipe)
    check_headers(recipe)
    traits = traits_of(recipe)
    check_scheduler(recipe, traits.scheduler)
    return [
        *_duplicate_classes(recipe),
        *_same_prompts(recipe),
        *_cut_prompts(recipe),
        *without_effect(recipe, traits),
        *_unused_words(recipe, settings),
    ]


def check_model_knows(recipe: Recipe) -> None:
    """Raise ValueError if the embedded digits model does not know one of the classes."""
    folder = find_local(recipe.model)
    if folder is None or not os.path.samefile(folder, EMBEDDED_MODEL):
        return
    known = load_label_space("digits").class_names
    unknown = [name for name in recipe.label_space.class_names if name not in known]
    if unknown:
        raise ValueError(
            f"recipe.model is the embedded digits model, which knows {', '.join(known)} and not '{unknown[0]}'. Set "
            "recipe.model to a model that knows your classes, or recipe.label_space=digits."
        )


def labels_with_same_prompts(recipe: Recipe) -> list[list[int]]:
    """Return groups of labels that have identical prompts, in label order."""
    fields = sorted(fields_of(*recipe.templates))
    groups = defaultdict[tuple, list[int]](list)
    for label in range(recipe.label_space.num_classes):
        choices = field_choices(recipe, label)
        groups[tuple(tuple(choices[name]) for name in fields)].append(label)
    return [labels for labels in groups.values() if len(labels) > 1]


def _duplicate_classes(recipe: Recipe) -> Iterator[str]:
    """Yield duplicate classes, which older recipes may contain and class files must not."""
    try:
        check_no_duplicate_class(recipe.label_space)
    except ValueError as error:
        yield str(error)


def _same_prompts(recipe: Recipe) -> Iterator[str]:
    groups = labels_with_same_prompts(recipe)
    for labels in groups[:MAX_EXAMPLES]:
        names = ", ".join(str(label) for label in labels)
        class_name = recipe.label_space.classes[labels[0]].class_name
        yield (
            f"labels {names} ('{class_name}') have the same prompts, so no classifier can distinguish them; add "
            "{definition} or {hypernym} to recipe.templates"
        )
    if len(groups) > MAX_EXAMPLES:
        yield f"{len(groups) - MAX_EXAMPLES} more groups of labels have the same prompts"


def _unused_words(recipe: Recipe, settings: RecipeConfig) -> Iterator[str]:
    """Yield settings of prompt fields that no template uses."""
    default = RecipeConfig()
    for setting, field in FIELD_OF_SETTING.items():
        if getattr(settings, setting) != getattr(default, setting) and field not in fields_of(*recipe.templates):
            yield f"recipe.{setting} has no effect: no template uses {{{field}}}"


def _cut_prompts(recipe: Recipe) -> Iterator[str]:
    """Yield the share of prompts truncated before the class name; raise ValueError if all are."""
    starts = [_up_to_class(recipe, plan_sample(recipe, index)) for index in range(NUM_CHECKED_PROMPTS)]
    long = [start for start in starts if len(start) > SHORT_TEXT_LENGTH]
    num_cut, limits = _num_cut(recipe, long) if long else (0, "")
    if num_cut == len(starts):
        raise ValueError(
            f"All prompts are truncated before the class name: the text encoder reads {limits}. Shorten recipe.prefix "
            "or put the class first in recipe.templates."
        )
    if num_cut:
        share = num_cut / len(starts)
        yield f"{share:.1%} of the prompts are truncated before the class name: the text encoder reads {limits}"


def _up_to_class(recipe: Recipe, plan: SamplePlan) -> str:
    """Return a prompt up to the end of the class name, or up to the first class field if the name is not in it."""
    before, name, _ = plan.prompt.partition(recipe.label_space.classes[plan.label].class_name)
    if name:
        return before + name
    parts = list(Formatter().parse(plan.template))
    first = next(i for i, (_, field, _, _) in enumerate(parts) if field in CLASS_FIELDS)
    return "".join(literal for literal, _, _, _ in parts[: first + 1])


def _num_cut(recipe: Recipe, starts: Sequence[str]) -> tuple[int, str]:
    """Return how many texts all text encoders truncate, and the encoders' limits in words."""
    from generation.recipes.tokens import open_token_counter  # imports transformers

    counter = open_token_counter(recipe)
    if counter is None:
        return 0, ""
    is_cut = [counts > counter.limits[name] for name, counts in counter.count(starts).items()]
    limits = " and ".join(f"{limit} tokens" for limit in counter.limits.values())
    return sum(all(each) for each in zip(*is_cut, strict=True)), limits
