"""Images from a diffusers text-to-image pipeline. Only this file and the scripts of digits/ import diffusers.

Each image starts from noise of its own, drawn from the plan's noise seed by a counter-based generator on the CPU: it is
the same alone, in a batch, and on any device. (`torch.Generator` on the CPU keeps only the low 32 bits of a seed: of
100,000 samples two would likely share their noise.)
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.auto_pipeline import AutoPipelineForText2Image
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from diffusers.utils import logging as diffusers_logging

from generation.config import GenerationConfig
from generation.generator import GeneratedImages
from generation.model_files import find_model_folder
from generation.plan import SamplePlan, num_prompts, plan_sample
from generation.prompt_cache import PromptCache
from generation.recipe import Recipe

SCHEDULERS = {
    "pndm": PNDMScheduler,
    "ddim": DDIMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "euler_ancestral": EulerAncestralDiscreteScheduler,
    "unipc": UniPCMultistepScheduler,
    "lcm": LCMScheduler,
}
"""By the names of `recipe.scheduler`."""


COMPILE_OPTIONS: dict[str, Any] = {"freezing": True}
"""Weights do not change: their layout is chosen once, when they are compiled."""


class GuidanceScales(float):
    """One scale a sample where a pipeline expects a number, which it multiplies by eps(prompt) - eps(null)."""

    def __new__(cls, scales: Sequence[float]) -> "GuidanceScales":
        """Be the largest of the scales to whoever asks whether there is guidance at all."""
        return super().__new__(cls, max(scales))

    def __init__(self, scales: Sequence[float]) -> None:
        """Take one scale a sample."""
        self.scales = scales

    def __mul__(self, differences: Any) -> Any:
        """Return `differences` [N, C, h, w], each times its own scale."""
        return torch.tensor(self.scales).to(differences)[:, None, None, None] * differences


class DiffusersGenerator:
    """One text-to-image pipeline on one device, loaded once."""

    def __init__(self, recipe: Recipe, config: GenerationConfig) -> None:
        """Load the recipe's model and make it as fast as asked; ValueError with the remedy if it cannot be loaded."""
        self.generated_size, self.image_size = recipe.generated_size, recipe.image_size
        self.pipeline = load_pipeline(recipe, device="cuda" if config.gpus_per_actor else "cpu")
        self.prompt_cache = PromptCache(self.pipeline, keeps=num_prompts(recipe) <= config.prompt_cache_size)
        self.denoiser_config = self.pipeline.unet.config
        self.embeds_guidance = self.denoiser_config.get("time_cond_proj_dim") is not None
        """Latent consistency models take one scale for the whole batch, as an input."""

        self.fixed_batch_size = config.batch_size if config.compile else 0
        """Compiled code is for one shape; 0 where any will do."""

        if config.channels_last:
            self.pipeline.unet.to(memory_format=torch.channels_last)
            self.pipeline.vae.to(memory_format=torch.channels_last)
        if config.compile:
            self.pipeline.unet = torch.compile(self.pipeline.unet, options=COMPILE_OPTIONS)
            self.pipeline.vae.decode = torch.compile(self.pipeline.vae.decode, options=COMPILE_OPTIONS)
            self.generate([plan_sample(recipe, index) for index in range(config.batch_size)])

    @torch.inference_mode()
    def generate(self, plans: Sequence[SamplePlan]) -> GeneratedImages:
        """Return one image a plan, one pipeline call for all with guidance and one for all without."""
        groups: dict[tuple[float, int], list[int]] = {}
        for i, plan in enumerate(plans):
            guidance = plan.guidance_scale if self.embeds_guidance else float(plan.guidance_scale > 1)
            groups.setdefault((guidance, plan.num_inference_steps), []).append(i)
        parts = [self._make([plans[i] for i in group]) for group in groups.values()]
        order = np.argsort([i for group in groups.values() for i in group])
        return GeneratedImages(
            images_nhwc=np.concatenate([part.images_nhwc for part in parts])[order],
            finite=np.concatenate([part.finite for part in parts])[order],
            flagged=np.concatenate([part.flagged for part in parts])[order],
        )

    def _make(self, plans: list[SamplePlan]) -> GeneratedImages:
        """Return the images of plans that may share a call, filled up to the size that was compiled, if any."""
        missing = max(0, self.fixed_batch_size - len(plans))
        made = self._call_pipeline(plans + plans[-1:] * missing)
        number = len(plans)
        return GeneratedImages(made.images_nhwc[:number], made.finite[:number], made.flagged[:number])

    def _call_pipeline(self, plans: list[SamplePlan]) -> GeneratedImages:
        output = self.pipeline(
            **self.prompt_cache.arguments(plans, guided=max(plan.guidance_scale for plan in plans) > 1),
            height=self.generated_size,
            width=self.generated_size,
            guidance_scale=GuidanceScales([plan.guidance_scale for plan in plans]),
            num_inference_steps=plans[0].num_inference_steps,
            latents=torch.stack([self.initial_noise(plan) for plan in plans]).to(self.pipeline.device),
            generator=[torch.Generator().manual_seed(plan.noise_seed % 2**63) for plan in plans],
            output_type="pt",
        )
        images_nchw = output.images.float()  # [N, 3, H, W] in 0..1
        finite = images_nchw.isfinite().flatten(start_dim=1).all(dim=1)
        pixels = (self._shrunk(images_nchw.nan_to_num(0.0)).clamp(0, 1) * 255).round().to(torch.uint8)
        flagged = getattr(output, "nsfw_content_detected", None) or [False] * len(plans)
        return GeneratedImages(
            images_nhwc=pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy(),
            finite=finite.cpu().numpy(),
            flagged=np.array(flagged, dtype=bool),
        )

    def _shrunk(self, images_nchw: torch.Tensor) -> torch.Tensor:
        """Return the images at the delivered size; a bicubic curve may leave 0..1 a little."""
        if self.image_size == self.generated_size:
            return images_nchw
        size = (self.image_size, self.image_size)
        return torch.nn.functional.interpolate(images_nchw, size, mode="bicubic", antialias=True)

    def initial_noise(self, plan: SamplePlan) -> torch.Tensor:
        """Return standard normal latents [C, h, w]; the pipeline scales them to its scheduler."""
        latent_size = self.generated_size // self.pipeline.vae_scale_factor
        shape = (self.denoiser_config.in_channels, latent_size, latent_size)
        noise = np.random.Generator(np.random.Philox(key=plan.noise_seed)).standard_normal(shape, dtype=np.float32)
        return torch.from_numpy(noise).to(self.pipeline.dtype)


def load_pipeline(recipe: Recipe, device: str) -> Any:
    """Return the recipe's pipeline on `device`, from a local folder or the hub: safetensors only, no remote code."""
    diffusers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()  # it warns of a safety checker that is off, or not there to be off
    folder = find_model_folder(recipe.model)
    try:
        pipeline = AutoPipelineForText2Image.from_pretrained(
            str(folder or recipe.model),
            revision=None if folder else recipe.revision,
            local_files_only=folder is not None,
            dtype=getattr(torch, recipe.precision),
            use_safetensors=True,
            **({} if recipe.safety_checker else {"safety_checker": None}),
        )
        if recipe.scheduler != "model":
            pipeline.scheduler = SCHEDULERS[recipe.scheduler].from_config(pipeline.scheduler.config)
        pipeline.to(device)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"recipe.model '{recipe.model}' cannot be loaded on {device}: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}. Check that the folder is complete and holds safetensors."
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
