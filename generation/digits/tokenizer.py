"""A CLIP tokenizer with a vocabulary learned from a few prompts.

Works on text only.
"""

import json
from collections.abc import Sequence

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

MAX_TOKENS = 64
"""Maximum prompt length with start and end tokens; longer text is truncated."""

WORD_END = "</w>"
"""CLIP's suffix of a word's last token."""

MAX_VOCABULARY = 4000
"""More than the prompts need, so that each of their words becomes one token."""


def train_tokenizer(prompts: Sequence[str]) -> CLIPTokenizer:
    """Return a lowercasing byte-level tokenizer in which each word of `prompts` is one token."""
    merges = _learn_merges(prompts)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(letter + WORD_END for letter in letters), *dict.fromkeys(a + b for a, b in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,  # pyright: ignore[reportArgumentType]
        model_max_length=MAX_TOKENS,
    )


def _learn_merges(prompts: Sequence[str]) -> list[tuple[str, str]]:
    """Return byte-pair merges in the order learned, with CLIP's word splitting."""
    clip = CLIPTokenizer().backend_tokenizer
    learner = Tokenizer(models.BPE(end_of_word_suffix=WORD_END))
    learner.normalizer, learner.pre_tokenizer = clip.normalizer, clip.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCABULARY, min_frequency=1, end_of_word_suffix=WORD_END, show_progress=False
    )
    learner.train_from_iterator(prompts, trainer)
    return [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]
