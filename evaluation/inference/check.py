"""A recipe's check, for jobs: torch is imported only where one is opened."""

from generation.config import GenerationConfig
from generation.engine.actor import Scorer
from generation.recipes.labels import LabelSpace
from generation.recipes.recipe import Recipe

OPENED: set[tuple[str, str, LabelSpace]] = set()
"""Checks that this process has opened, each with its revision and the recipe's classes."""


def build_scorer(recipe: Recipe, config: GenerationConfig, gives_soft_labels: bool = False) -> Scorer:
    """Return the scorer of a recipe with a check, on a generator's device; ValueError with the remedy if that fails."""
    from evaluation.inference.scorer import CheckScorer

    return CheckScorer(recipe, config, gives_soft_labels)


def check_scorer(recipe: Recipe) -> None:
    """Raise ValueError with the remedy if the recipe has a check that cannot be opened or lacks a class."""
    key = recipe.check, recipe.check_revision, recipe.label_space
    if recipe.check and key not in OPENED:
        from evaluation.inference.scorer import open_check

        open_check(recipe)
        OPENED.add(key)
