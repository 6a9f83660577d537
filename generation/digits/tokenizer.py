"""A CLIP tokenizer whose vocabulary is learnt from a few prompts.

It knows text alone: no classes, images or networks.
"""

import json
from collections.abc import Sequence

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

MAX_TOKENS = 64
"""Longest prompt with its start and end; longer text is cut off."""

WORD_END = "</w>"
"""CLIP's mark on a word's last token."""

LARGEST_VOCABULARY = 4000
"""More than the prompts can fill, so that every word of theirs becomes one token."""


def train_tokenizer(prompts: Sequence[str]) -> CLIPTokenizer:
    """Return a lower-casing byte-level tokenizer that has each word of `prompts` as one token."""
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
    """Return byte-pair merges in the order learnt, split into words as CLIP does."""
    clip = CLIPTokenizer().backend_tokenizer
    learner = Tokenizer(models.BPE(end_of_word_suffix=WORD_END))
    learner.normalizer, learner.pre_tokenizer = clip.normalizer, clip.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=LARGEST_VOCABULARY, min_frequency=1, end_of_word_suffix=WORD_END, show_progress=False
    )
    learner.train_from_iterator(prompts, trainer)
    return [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]
