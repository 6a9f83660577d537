"""Classifier-free guidance that diffusers' pipelines have no setting for: a scale per sample, an interval of steps.

Both work with pipelines that are guided in pairs: see `generation.recipes.pipeline_traits`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._pytree import tree_map


class GuidanceScales(float):
    """One scale per sample, in place of the number that a pipeline multiplies by eps(prompt) - eps(null)."""

    def __new__(cls, scales: Sequence[float]) -> "GuidanceScales":
        """Compare as the largest scale, by which pipelines decide whether there is guidance."""
        return super().__new__(cls, max(scales))

    def __init__(self, scales: Sequence[float]) -> None:
        self.scales = torch.tensor(scales, dtype=torch.float32)

    def __mul__(self, differences: Any) -> Any:
        """Return `differences` [N, ...], each multiplied by its own scale."""
        self.scales = self.scales.to(differences)  # copied only in the first step
        return self.scales.view(-1, *[1] * (differences.ndim - 1)) * differences


def embed_own_scales(pipeline: Any, scales: GuidanceScales) -> None:
    """Make a pipeline whose denoiser takes the guidance scale as an input (arXiv 2310.04378) embed one per sample."""
    embed = type(pipeline).get_guidance_scale_embedding
    pipeline.get_guidance_scale_embedding = lambda _, *size, **kind: embed(pipeline, scales.scales - 1, *size, **kind)


class IntervalGuidance:
    """A denoiser's `forward` that skips the null prompt's half outside an interval of steps (arXiv 2404.07724).

    A pipeline with guidance passes 2N rows to the denoiser, those of the null prompt first. Outside the interval only
    the prompts' half is computed and used for both, so that their difference, and thus guidance, is zero.
    """

    def __init__(self, forward: Callable[..., Any], interval: tuple[float, float], pipeline: Any) -> None:
        """Take the denoiser's own `forward`, the interval as fractions of the steps, and the calling pipeline."""
        self.forward = forward
        self.interval = interval
        self.pipeline = pipeline
        self.step = 0
        self.num_guided = 0

    @contextmanager
    def within_interval(self, num_guided: int) -> Iterator[None]:
        """Apply the interval during one pipeline call with `num_guided` guided samples; 0 turns it off."""
        self.step, self.num_guided = 0, num_guided
        try:
            yield
        finally:
            self.num_guided = 0

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        """Return the denoiser's output for all rows; outside the interval only half of them are computed."""
        share = self.step / len(self.pipeline.scheduler.timesteps)
        self.step += 1
        if not self.num_guided or self.interval[0] <= share < self.interval[1]:
            return self.forward(*arguments, **settings)
        prompts_half = _for_rows(2 * self.num_guided, lambda rows: rows[self.num_guided :])
        twice = _for_rows(self.num_guided, lambda rows: torch.cat([rows, rows]))
        arguments, settings = tree_map(prompts_half, (arguments, settings))
        return tree_map(twice, self.forward(*arguments, **settings))


def _for_rows(num_rows: int, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Any], Any]:
    """Return a function that applies `change` to tensors of `num_rows` rows and returns other values unchanged."""
    return lambda value: change(value) if isinstance(value, torch.Tensor) and value.shape[:1] == (num_rows,) else value
