"""What the text encoders make of prompts, kept where they come again and again, as class prompts do.

A kept prompt was encoded alone: its image does not depend on the batch in which it was first seen. Prompts that are not
kept are left to the pipeline, which encodes a batch at once.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from generation.plan import SamplePlan

PAIR = ("prompt_embeds", "negative_prompt_embeds")
POOLED = ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")
MASKED = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask")
RETURNED = {
    "StableDiffusionPipeline": PAIR,
    "LatentConsistencyModelPipeline": PAIR,
    "StableDiffusionXLPipeline": (*PAIR, *POOLED),
    "StableDiffusion3Pipeline": (*PAIR, *POOLED),
    "PixArtAlphaPipeline": MASKED,
    "PixArtSigmaPipeline": MASKED,
}
"""What `encode_prompt` returns, as the pipeline's call names it. No other pipeline's prompts are kept."""


class PromptCache:
    """All prompts of one pipeline, encoded when they first come."""

    def __init__(self, pipeline: Any, keeps: bool) -> None:
        """Take the pipeline, and whether prompts are few enough to be kept."""
        self.pipeline = pipeline
        self.names = RETURNED.get(type(pipeline).__name__) if keeps else None
        self._encode = cache(self._encode_anew)

    def arguments(self, plans: Sequence[SamplePlan], guided: bool) -> dict[str, Any]:
        """Return the arguments of a pipeline call that say what to draw."""
        if self.names is None:
            prompts: dict[str, Any] = {"prompt": [plan.prompt for plan in plans]}
            if plans[0].negative_prompt:  # pipelines differ in what stands for none
                prompts["negative_prompt"] = [plan.negative_prompt for plan in plans]
            return prompts
        rows = [self._encode(plan.prompt, plan.negative_prompt, guided) for plan in plans]
        columns = zip(self.names, zip(*rows, strict=True), strict=True)
        embedded = {name: torch.cat(column) for name, column in columns if column[0] is not None}
        return embedded | {"negative_prompt": None}  # some pipelines have another default, which they refuse beside it

    def _encode_anew(self, prompt: str, negative_prompt: str, guided: bool) -> tuple[torch.Tensor | None, ...]:
        return self.pipeline.encode_prompt(
            prompt=prompt,
            device=self.pipeline.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=guided,
            **({"negative_prompt": negative_prompt} if negative_prompt else {}),
        )
