"""Classifier-free guidance where diffusers' pipelines have no setting for it: by sample, and by step.

Both are for pipelines that are guided in pairs: see `generation.recipes.pipeline_traits`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._pytree import tree_map


class GuidanceScales(float):
    """One scale a sample where a pipeline expects a number, which it multiplies by eps(prompt) - eps(null)."""

    def __new__(cls, scales: Sequence[float]) -> "GuidanceScales":
        """Be the largest of the scales to whoever asks whether there is guidance at all."""
        return super().__new__(cls, max(scales))

    def __init__(self, scales: Sequence[float]) -> None:
        self.scales = torch.tensor(scales, dtype=torch.float32)

    def __mul__(self, differences: Any) -> Any:
        """Return `differences` [N, ...], each times its own scale."""
        self.scales = self.scales.to(differences)  # copied at the first step alone
        return self.scales.view(-1, *[1] * (differences.ndim - 1)) * differences


def embed_own_scales(pipeline: Any, scales: GuidanceScales) -> None:
    """Let a pipeline whose denoiser takes the guidance scale as an input (arXiv 2310.04378) embed one a sample."""
    embed = type(pipeline).get_guidance_scale_embedding
    pipeline.get_guidance_scale_embedding = lambda _, *size, **kind: embed(pipeline, scales.scales - 1, *size, **kind)


class IntervalGuidance:
    """A denoiser's `forward` that leaves out the null prompt's half outside an interval of steps (arXiv 2404.07724).

    A pipeline with guidance gives the denoiser 2N rows, the null prompt's before the prompts'. Outside the interval the
    prompts' half alone is computed and stands for both: their difference, and so guidance, is zero.
    """

    def __init__(self, forward: Callable[..., Any], interval: tuple[float, float], pipeline: Any) -> None:
        """Take the denoiser's own `forward`, the interval in shares of the steps, and the pipeline that calls it."""
        self.forward = forward
        self.interval = interval
        self.pipeline = pipeline
        self.step = 0
        self.num_guided = 0

    @contextmanager
    def within_interval(self, num_guided: int) -> Iterator[None]:
        """Keep to the interval in one call of the pipeline, for so many samples with guidance."""
        self.step, self.num_guided = 0, num_guided
        try:
            yield
        finally:
            self.num_guided = 0

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        """Return what the denoiser makes of all rows, computed for half of them where that is enough."""
        share = self.step / len(self.pipeline.scheduler.timesteps)
        self.step += 1
        if not self.num_guided or self.interval[0] <= share < self.interval[1]:
            return self.forward(*arguments, **settings)
        prompts_half = _rows_changed(2 * self.num_guided, lambda rows: rows[self.num_guided :])
        twice = _rows_changed(self.num_guided, lambda rows: torch.cat([rows, rows]))
        arguments, settings = tree_map(prompts_half, (arguments, settings))
        return tree_map(twice, self.forward(*arguments, **settings))


def _rows_changed(num_rows: int, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Any], Any]:
    """Return what changes a tensor of so many rows and leaves all else as it is."""
    return lambda value: change(value) if isinstance(value, torch.Tensor) and value.shape[:1] == (num_rows,) else value
