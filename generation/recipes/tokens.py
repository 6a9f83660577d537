"""How many tokens a prompt takes, counted by the pipeline's own tokenizers: text encoders cut off what is too long."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from generation.recipes.model_files import find_local
from generation.recipes.pipeline_traits import traits_of
from generation.recipes.recipe import Recipe

SUBFOLDERS = ("tokenizer", "tokenizer_2", "tokenizer_3")
"""Where diffusers' pipelines keep them."""


class TokenCounter:
    """Counts with each of a model's tokenizers."""

    def __init__(self, tokenizers: dict[str, PreTrainedTokenizerBase], read: Mapping[str, int]) -> None:
        """Take tokenizers by their subfolder, and how many tokens a pipeline reads where it is not what they say."""
        self.tokenizers = tokenizers
        self.read = read

    @property
    def limits(self) -> dict[str, int]:
        """Tokens that each text encoder reads, begin and end included: 77 for CLIP."""
        return {name: self.read.get(name, each.model_max_length) for name, each in self.tokenizers.items()}

    def count(self, prompts: Sequence[str]) -> dict[str, np.ndarray]:
        """Return for each tokenizer int [N], begin and end included."""
        return {name: _count(tokenizer, prompts) for name, tokenizer in self.tokenizers.items()}


def _count(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> np.ndarray:
    return np.array([len(ids) for ids in tokenizer(list(prompts), verbose=False)["input_ids"]])


def open_token_counter(recipe: Recipe) -> TokenCounter | None:
    """Return the counter of the recipe's model, None where its tokenizers are not on this machine."""
    tokenizers = {name: _load(recipe, name) for name in SUBFOLDERS} if recipe.model else {}
    present = {name: tokenizer for name, tokenizer in tokenizers.items() if tokenizer is not None}
    return TokenCounter(present, traits_of(recipe).tokens_read) if present else None


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
