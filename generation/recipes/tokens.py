"""Count a prompt's tokens with the pipeline's own tokenizers; text encoders truncate longer prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from generation.recipes.model_files import find_local
from generation.recipes.pipeline_traits import traits_of
from generation.recipes.recipe import Recipe

SUBFOLDERS = ("tokenizer", "tokenizer_2", "tokenizer_3")
"""Subfolders of tokenizers in diffusers' layout."""


@dataclass(frozen=True)
class TokenCounter:
    """A model's tokenizers by subfolder, with their limits."""

    tokenizers: dict[str, PreTrainedTokenizerBase]
    limits: dict[str, int]
    """Maximum number of tokens per text encoder, start and end tokens included: 77 for CLIP."""

    def count(self, prompts: Sequence[str]) -> dict[str, np.ndarray]:
        """Return token counts int [N] per tokenizer, start and end tokens included."""
        ids = {name: each(list(prompts), verbose=False)["input_ids"] for name, each in self.tokenizers.items()}
        return {name: np.array([len(row) for row in rows]) for name, rows in ids.items()}


def open_token_counter(recipe: Recipe) -> TokenCounter | None:
    """Return the token counter of the recipe's model; None if its tokenizers are not on this machine."""
    tokenizers = {name: _load(recipe, name) for name in SUBFOLDERS} if recipe.model else {}
    present = {name: tokenizer for name, tokenizer in tokenizers.items() if tokenizer is not None}
    if not present:
        return None
    read = traits_of(recipe).tokens_read
    return TokenCounter(present, {name: read.get(name, each.model_max_length) for name, each in present.items()})


def _load(recipe: Recipe, subfolder: str) -> PreTrainedTokenizerBase | None:
    folder: Path | None = find_local(recipe.model)
    if folder is not None and not (folder / subfolder).is_dir():
        return None
    try:
        return AutoTokenizer.from_pretrained(
            str(folder or recipe.model),
            subfolder=subfolder,
            revision=None if folder else recipe.revision,
            local_files_only=True,
        )
    except (OSError, ValueError):
        return None
