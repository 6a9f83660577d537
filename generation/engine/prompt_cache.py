"""What the text encoders make of prompts, kept where they come again and again, as class prompts do.

A kept prompt was encoded alone: its image does not depend on the batch in which it was first seen. Prompts that are not
kept are left to the pipeline, which encodes a batch at once.
"""

import inspect
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from generation.recipes.pipeline_traits import kind_of
from generation.recipes.plan import SamplePlan


class PromptCache:
    """All prompts of one pipeline, encoded when they first come."""

    def __init__(self, pipeline: Any, keeps: bool) -> None:
        self.pipeline = pipeline
        self.names = kind_of(type(pipeline).__name__).embeddings if keeps else ()
        self._encode = cache(self._encode_anew)
        self._settings = _settings(pipeline) if self.names else {}

    def arguments(self, plans: Sequence[SamplePlan], guided: bool) -> dict[str, Any]:
        """Return the arguments of a pipeline call that say what to draw."""
        if not self.names:
            prompts: dict[str, Any] = {"prompt": [plan.prompt for plan in plans]}
            if plans[0].negative_prompt:  # pipelines differ in what stands for none
                prompts["negative_prompt"] = [plan.negative_prompt for plan in plans]
            return prompts
        wanted = [self._encode(plan.prompt, "", False) for plan in plans]
        nulls = [self._encode("", plan.negative_prompt, True) for plan in plans] if guided else []
        embedded: dict[str, Any] = {}
        for i, name in enumerate(self.names):
            parts = [row[i] for row in (nulls if name.startswith("negative") else wanted)]
            if parts:
                embedded[name] = torch.cat(parts)
        return embedded | {"negative_prompt": None}  # some pipelines have another default, which they refuse beside it

    def bytes_when_full(self, plan: SamplePlan, num_prompts: int) -> int:
        """Return what the embeddings of so many prompts take on the device, if they are kept."""
        if not self.names:
            return 0
        return num_prompts * sum(part.nbytes for part in self._encode(plan.prompt, "", False) if part is not None)

    def _encode_anew(self, prompt: str, negative_prompt: str, guided: bool) -> tuple[Any, ...]:
        return self.pipeline.encode_prompt(
            prompt=prompt,
            device=self.pipeline.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=guided,
            **({"negative_prompt": negative_prompt} if negative_prompt else {}),
            **self._settings,
        )


def _settings(pipeline: Any) -> dict[str, Any]:
    """Return what `encode_prompt` must be told for it to do as the pipeline's call, told the same, would."""
    settings = {"prompt_2": None, "prompt_3": None, "clean_caption": False}
    known = inspect.signature(pipeline.encode_prompt).parameters
    return {name: value for name, value in settings.items() if name in known}
