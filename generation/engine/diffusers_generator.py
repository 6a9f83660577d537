"""Images from a diffusers text-to-image pipeline.

Each image starts from its own noise, drawn from the plan's noise seed by a counter-based generator on the CPU. It is
the same alone, in a batch, and on any device. (`torch.Generator` on the CPU uses only the low 32 bits of a seed: among
100,000 samples, two would likely share their noise.)
"""

import dataclasses
import inspect
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from generation.config import GenerationConfig
from generation.engine.batch_size import MemoryMeter, Trial, find_batch_size, is_out_of_memory, no_image_fits
from generation.engine.generator import GeneratedImages, GenerationFailedError
from generation.engine.guidance import GuidanceScales, IntervalGuidance, embed_own_scales
from generation.engine.pipeline import denoiser_of, load_pipeline
from generation.engine.pixels import start_copying, to_pixels
from generation.engine.prompt_cache import PromptCache
from generation.recipes.pipeline_traits import KINDS, SCHNELL_TOKENS, kind_of
from generation.recipes.plan import SamplePlan, num_prompts, plan_sample
from generation.recipes.recipe import Recipe

COMPILE_OPTIONS: dict[str, dict[str, Any] | None] = {"cpu": {"freezing": True}, "cuda": None}
"""On a CPU, freezing chooses the layout of the constant weights once, at compile time."""

TRIAL_STEPS = (4, 8)
"""Two numbers of denoising steps with which a batch size is timed; the time of more steps is extrapolated from them."""

NUM_TRIALS = 2
"""Runs of each number of steps; the fastest counts, since extrapolation would multiply a hiccup."""


class DiffusersGenerator:
    """One text-to-image pipeline on one device, loaded once."""

    def __init__(
        self, recipe: Recipe, config: GenerationConfig, compile_options: Mapping[str, Any] | None = None
    ) -> None:
        """Load the recipe's model and apply the configured optimizations; ValueError with the remedy if one fails.

        `compile_options` replace the device's `COMPILE_OPTIONS` in torch.compile.
        """
        self.recipe = recipe
        self.device = torch.device("cuda" if config.gpus_per_actor else "cpu")
        self.compile_options = dict(compile_options or {}) or COMPILE_OPTIONS[self.device.type]
        if config.gpus_per_actor:
            prepare_gpu(recipe, config)
        self.device_lock = threading.Lock()
        self.copy_stream = torch.cuda.Stream() if config.gpus_per_actor else None
        self.memory = MemoryMeter(self.device, min(1.0, config.gpus_per_actor or 1.0))

        self.pipeline = load_pipeline(recipe, config, self.device)
        self.dtype = self.pipeline.dtype
        self.denoiser = denoiser_of(self.pipeline)
        self.embeds_scales = bool(self.denoiser.config.get("time_cond_proj_dim"))
        """True for latent consistency models, which take the guidance scale as an input and no null prompt."""

        self.guided_in_pairs = not self.embeds_scales and kind_of(type(self.pipeline).__name__).is_guided_in_pairs
        self.prompt_cache = PromptCache(self.pipeline, is_enabled=num_prompts(recipe) <= config.prompt_cache_size)
        self.call_settings: dict[str, Any] = {"height": recipe.generated_size, "width": recipe.generated_size}
        # Neither resize to the model's size bins nor clean captions, which depends on two optional packages.
        known = set(inspect.signature(self.pipeline.__call__).parameters)
        self.call_settings |= dict.fromkeys(known & {"use_resolution_binning", "clean_caption"}, False)
        if type(self.pipeline).__name__ == "FluxPipeline" and not self.denoiser.config.guidance_embeds:
            self.call_settings["max_sequence_length"] = SCHNELL_TOKENS
        self.guidance = self._guide_within_interval()

        self.to_pixels = to_pixels
        self.noise_shape: tuple[int, ...] = ()
        few_steps = min(recipe.num_inference_steps, TRIAL_STEPS[0])
        self._check_first_image(dataclasses.replace(plan_sample(recipe, 0), num_inference_steps=few_steps))

        self.pads_batches = False
        """True once compiled: compiled code is for a single batch size."""

        kept_bytes = self.prompt_cache.bytes_when_full(plan_sample(recipe, 0), num_prompts(recipe))
        usable_bytes = self.memory.usable_bytes() - kept_bytes
        self.batch_size = config.batch_size or find_batch_size(self._try_batch, usable_bytes).batch_size
        if config.compile:
            self._compile()

    def generate(self, plans: Sequence[SamplePlan]) -> GeneratedImages:
        """Return one image per plan; plans that may share a pipeline call are batched."""
        groups: dict[tuple[float, int], list[int]] = {}
        for i, plan in enumerate(plans):
            groups.setdefault((self._guidance_of_call(plan), plan.num_inference_steps), []).append(i)
        noise = [self.initial_noise(plan) for plan in plans]
        with self.device_lock, torch.inference_mode():
            made = [batch for group in groups.values() for batch in self._make([(plans[i], noise[i]) for i in group])]
            joined = {name: torch.cat([batch[name] for batch in made]) for name in made[0]}
            copied = start_copying(joined, self.copy_stream)
        arrays = copied()
        if len(groups) > 1:
            order = np.argsort([i for group in groups.values() for i in group])
            arrays = {name: array[order] for name, array in arrays.items()}
        return GeneratedImages(**arrays)

    def _guidance_of_call(self, plan: SamplePlan) -> float:
        """Return the guidance value that samples must share to be in the same pipeline call."""
        if self.embeds_scales:
            return 0.0
        if self.guided_in_pairs:  # in padded batches, samples without guidance share the guided call
            return float(plan.guidance_scale > 1 or (self.pads_batches and max(self.recipe.guidance_scale) > 1))
        return plan.guidance_scale

    def _make(self, samples: list[tuple[SamplePlan, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
        """Return the images of plans that may share a call, given with their noise, in batches that fit into memory."""
        made: list[dict[str, torch.Tensor]] = []
        num_made = 0
        while num_made < len(samples):
            batch = samples[num_made : num_made + self.batch_size]
            missing = self.batch_size - len(batch) if self.pads_batches else 0
            try:
                images = self._call_pipeline(batch + batch[-1:] * missing)
            except (RuntimeError, MemoryError, UnboundLocalError) as error:
                if not is_out_of_memory(error):
                    raise
                images = None
            if images is None:  # outside the except block: the error and the tensors in its frames are freed
                self._halve_batch_size()
                continue
            made.append({name: tensor[: len(batch)] for name, tensor in images.items()})
            num_made += len(batch)
        return made

    def _halve_batch_size(self) -> None:
        """Halve the batch size for good; GenerationFailedError if it is 1."""
        if self.batch_size == 1:
            raise GenerationFailedError(no_image_fits(self.memory.usable_bytes()))
        self.batch_size //= 2
        logging.getLogger(__name__).warning("Out of memory: the batch size is now %d.", self.batch_size)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _call_pipeline(self, samples: list[tuple[SamplePlan, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Return the fields of `GeneratedImages` for plans with their noise, as tensors on the device."""
        plans, latents = [plan for plan, _ in samples], torch.stack([noise for _, noise in samples])
        scales = GuidanceScales([plan.guidance_scale for plan in plans])
        guided = scales > 1 and not self.embeds_scales
        if self.embeds_scales:
            embed_own_scales(self.pipeline, scales)
        with self.guidance.within_interval(len(plans) if guided else 0) if self.guidance else nullcontext():
            output = self.pipeline(
                **self.prompt_cache.arguments(plans, guided),
                **self.call_settings,
                guidance_scale=scales if self.guided_in_pairs else float(scales),
                num_inference_steps=plans[0].num_inference_steps,
                latents=(latents.pin_memory() if self.copy_stream else latents).to(
                    self.device, self.dtype, non_blocking=True
                ),
                generator=[torch.Generator().manual_seed(plan.noise_seed % 2**63) for plan in plans],
                output_type="pt",
            )
        return self.delivered(output.images, getattr(output, "nsfw_content_detected", None) or [False] * len(plans))

    def delivered(self, images_nchw: torch.Tensor, flagged: Sequence[bool]) -> dict[str, torch.Tensor]:
        """Return the fields of `GeneratedImages` from images in 0..1; the checker's flags are already on the host."""
        if images_nchw.shape[2] != self.recipe.generated_size:
            raise ValueError(f"the model's images are {images_nchw.shape[2]} pixels high")
        return self.to_pixels(images_nchw, self.recipe.image_size) | {
            "flagged": torch.tensor(flagged, dtype=torch.bool)
        }

    def initial_noise(self, plan: SamplePlan) -> torch.Tensor:
        """Return standard normal latents, float32 [C, h, w]; the pipeline scales them for its scheduler."""
        random = np.random.Generator(np.random.Philox(key=plan.noise_seed))
        return torch.from_numpy(random.standard_normal(self.noise_shape, dtype=np.float32))

    def _guide_within_interval(self) -> IntervalGuidance | None:
        """Wrap the denoiser in the recipe's guidance interval; None if guidance applies to all steps."""
        if self.recipe.guidance_interval == (0.0, 1.0):
            return None
        if not self.guided_in_pairs:
            known = ", ".join(name for name, kind in KINDS.items() if kind.is_guided_in_pairs)
            raise ValueError(
                f"recipe.guidance_interval is {list(self.recipe.guidance_interval)}, but '{self.recipe.model}' does "
                f"not support intervals; only {known} do. Use [0, 1]."
            )
        guidance = IntervalGuidance(self.denoiser.forward, self.recipe.guidance_interval, self.pipeline)
        self.denoiser.forward = guidance
        return guidance

    @torch.inference_mode()
    def _find_noise_shape(self, plan: SamplePlan) -> tuple[int, ...]:
        """Return the shape of one sample's noise, found by running the pipeline."""
        made = self.pipeline(
            prompt=plan.prompt,
            **self.call_settings,
            guidance_scale=1.0,
            num_inference_steps=plan.num_inference_steps,
            output_type="latent",
        )
        return tuple(made.images.shape[1:])

    def _check_first_image(self, plan: SamplePlan) -> None:
        """Generate and discard one image; ValueError with the remedy if that fails."""
        try:
            self.noise_shape = self._find_noise_shape(plan)
            self._call_pipeline([(plan, self.initial_noise(plan))])
            if not self.pipeline.scheduler.config.get("use_dynamic_shifting"):  # needs more arguments
                self.pipeline.scheduler.set_timesteps(self.recipe.num_inference_steps)
        except Exception as error:  # pipelines raise errors of any kind for settings they do not support
            if is_out_of_memory(error):
                raise ValueError(no_image_fits(self.memory.usable_bytes())) from error
            raise ValueError(
                f"'{self.recipe.model}' cannot make images with recipe.generated_size={self.recipe.generated_size}, "
                f"recipe.num_inference_steps={self.recipe.num_inference_steps} and "
                f"recipe.scheduler={self.recipe.scheduler}: {' '.join(str(error).split())[:200]}. Try a multiple of 64 "
                "pixels and the model's own scheduler (recipe.scheduler=model)."
            ) from error

    def _try_batch(self, batch_size: int) -> Trial | None:
        """Return the speed and memory of batches of this size; None if they do not fit."""
        self.batch_size = batch_size
        self.memory.reset()
        try:
            self._seconds_of(TRIAL_STEPS[0])  # warm-up: the first call with a new shape is slower
        except GenerationFailedError:
            return None
        return self._trial() if self.batch_size == batch_size else None

    def _trial(self) -> Trial:
        """Return the speed of whole batches, and the peak memory since the last reset."""
        few, more = TRIAL_STEPS
        num_steps = self.recipe.num_inference_steps
        if num_steps <= more:
            seconds = self._seconds_of(num_steps)
        else:
            seconds = min(self._seconds_of(few) for _ in range(NUM_TRIALS))
            longer = min(self._seconds_of(more) for _ in range(NUM_TRIALS))
            seconds += max(0.0, longer - seconds) / (more - few) * (num_steps - few)
        return Trial(self.batch_size, self.batch_size / seconds, self.memory.peak_bytes())

    def _seconds_of(self, num_steps: int) -> float:
        """Return the time of a whole batch with `num_steps` steps, or with the recipe's if those are fewer."""
        num_steps = min(num_steps, self.recipe.num_inference_steps)
        plans = [plan_sample(self.recipe, index) for index in range(self.batch_size)]
        started_at = time.perf_counter()
        self.generate([dataclasses.replace(plan, num_inference_steps=num_steps) for plan in plans])
        return time.perf_counter() - started_at

    def _compile(self) -> None:
        """Compile, then run a batch at the recipe's lowest and highest guidance scale, to compile all code now."""
        self.pads_batches = True
        caller = self.guidance or self.denoiser
        caller.forward = torch.compile(caller.forward, options=self.compile_options)
        self.pipeline.vae.decode = torch.compile(self.pipeline.vae.decode, options=self.compile_options)
        self.to_pixels = torch.compile(to_pixels)
        plans = [plan_sample(self.recipe, index) for index in range(self.batch_size)]
        try:
            for scale in {min(self.recipe.guidance_scale), max(self.recipe.guidance_scale)}:
                self.generate([dataclasses.replace(plan, guidance_scale=scale) for plan in plans])
        except Exception as error:  # compilers below torch raise errors of many kinds
            raise ValueError(
                f"generation.compile fails on this machine: {type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]}. Install a C++ compiler (and Triton on GPUs), or set "
                "generation.compile=false."
            ) from error
        self.memory.reset()
        logging.getLogger(__name__).info("After compiling, batches of %s", self._trial())


def prepare_gpu(recipe: Recipe, config: GenerationConfig) -> None:
    """Limit this process to its share of the GPU, and disable TF32 for float32; ValueError if there is no GPU."""
    if not torch.cuda.is_available():
        raise ValueError(
            f"generation.gpus_per_actor is {config.gpus_per_actor:g}, but torch finds no GPU here. Set it to 0 to use "
            "the CPU, or check the GPU driver and torch's build."
        )
    if config.gpus_per_actor < 1:
        torch.cuda.set_per_process_memory_fraction(config.gpus_per_actor)
    torch.backends.cudnn.allow_tf32 = recipe.precision != "float32"
