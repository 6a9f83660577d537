"""A cache of prompt embeddings for recipes whose prompts repeat, as class prompts do.

A cached prompt is encoded alone, so its image does not depend on the batch in which it first occurred. Without the
cache, the pipeline encodes a batch of prompts at once.
"""

import inspect
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from generation.recipes.pipeline_traits import kind_of
from generation.recipes.plan import SamplePlan


class PromptCache:
    """The embeddings of all prompts of one pipeline, each encoded at first use."""

    def __init__(self, pipeline: Any, is_enabled: bool) -> None:
        self.pipeline = pipeline
        self.names = kind_of(type(pipeline).__name__).embeddings if is_enabled else ()
        self._encode = cache(self._encode_uncached)
        self._settings = _settings(pipeline) if self.names else {}

    def arguments(self, plans: Sequence[SamplePlan], guided: bool) -> dict[str, Any]:
        """Return the prompt arguments of a pipeline call: texts, or cached embeddings."""
        if not self.names:
            prompts: dict[str, Any] = {"prompt": [plan.prompt for plan in plans]}
            if plans[0].negative_prompt:  # pipelines differ in the value for none
                prompts["negative_prompt"] = [plan.negative_prompt for plan in plans]
            return prompts
        positives = [self._encode(plan.prompt, "", False) for plan in plans]
        nulls = [self._encode("", plan.negative_prompt, True) for plan in plans] if guided else []
        embedded: dict[str, Any] = {}
        for i, name in enumerate(self.names):
            rows = [row[i] for row in (nulls if name.startswith("negative") else positives)]
            if rows:
                embedded[name] = torch.cat(rows)
        return embedded | {"negative_prompt": None}  # some pipelines reject their own default beside embeddings

    def bytes_when_full(self, plan: SamplePlan, num_prompts: int) -> int:
        """Return the device memory of `num_prompts` cached prompts, in bytes; 0 if the cache is off."""
        if not self.names:
            return 0
        return num_prompts * sum(part.nbytes for part in self._encode(plan.prompt, "", False) if part is not None)

    def _encode_uncached(self, prompt: str, negative_prompt: str, guided: bool) -> tuple[Any, ...]:
        return self.pipeline.encode_prompt(
            prompt=prompt,
            device=self.pipeline.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=guided,
            **({"negative_prompt": negative_prompt} if negative_prompt else {}),
            **self._settings,
        )


def _settings(pipeline: Any) -> dict[str, Any]:
    """Return the arguments that make `encode_prompt` match the pipeline's own call."""
    settings = {"prompt_2": None, "prompt_3": None, "clean_caption": False}
    known = inspect.signature(pipeline.encode_prompt).parameters
    return {name: value for name, value in settings.items() if name in known}
