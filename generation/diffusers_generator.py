"""Images from a diffusers text-to-image pipeline.

Each image starts from noise of its own, drawn from the plan's noise seed by a counter-based generator on the CPU: it is
the same alone, in a batch, and on any device. (`torch.Generator` on the CPU keeps only the low 32 bits of a seed: of
100,000 samples two would likely share their noise.)
"""

import dataclasses
import inspect
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from generation.batch_size import MemoryMeter, Trial, find_batch_size, is_out_of_memory, one_image_too_many
from generation.config import GenerationConfig
from generation.generator import GeneratedImages, GenerationFailedError
from generation.guidance import GuidanceScales, IntervalGuidance
from generation.pipeline import denoiser_of, load_pipeline
from generation.plan import SamplePlan, num_prompts, plan_sample
from generation.prompt_cache import PromptCache
from generation.recipe import Recipe

COMPILE_OPTIONS: dict[str, dict[str, Any] | None] = {"cpu": {"freezing": True}, "cuda": None}
"""On a CPU the weights' layout is chosen once, when they are compiled: they do not change."""

TRIAL_STEPS = (4, 8)
"""Numbers of denoising steps by which a batch size is tried: what more steps take follows from their difference."""


class DiffusersGenerator:
    """One text-to-image pipeline on one device, loaded once."""

    def __init__(self, recipe: Recipe, config: GenerationConfig) -> None:
        """Load the recipe's model and make it as fast as asked; ValueError with the remedy if it cannot be had."""
        self.recipe = recipe
        self.device = torch.device("cuda" if config.gpus_per_actor else "cpu")
        if 0 < config.gpus_per_actor < 1:
            torch.cuda.set_per_process_memory_fraction(config.gpus_per_actor)
        self.device_lock = threading.Lock()
        self.copy_stream = torch.cuda.Stream() if config.gpus_per_actor else None
        self.memory = MemoryMeter(self.device)

        self.pipeline = load_pipeline(recipe, config, self.device)
        self.dtype = self.pipeline.dtype
        self.denoiser = denoiser_of(self.pipeline)
        self.embeds_guidance = bool(
            self.denoiser.config.get("time_cond_proj_dim") or self.denoiser.config.get("guidance_embeds")
        )
        """Latent consistency models and their like take one scale for the whole batch, as an input."""

        self.prompt_cache = PromptCache(self.pipeline, keeps=num_prompts(recipe) <= config.prompt_cache_size)
        self.call_settings: dict[str, Any] = {"height": recipe.generated_size, "width": recipe.generated_size}
        if "use_resolution_binning" in inspect.signature(self.pipeline.__call__).parameters:
            self.call_settings["use_resolution_binning"] = False  # images are made at the size that was asked for
        self.guidance = IntervalGuidance(self.denoiser.forward, recipe.guidance_interval, self.pipeline)
        self.denoiser.forward = self.guidance

        self.to_pixels = to_pixels
        self.noise_shape: tuple[int, ...] = ()
        few_steps = min(recipe.num_inference_steps, TRIAL_STEPS[0])
        self._make_one(dataclasses.replace(plan_sample(recipe, 0), num_inference_steps=few_steps))

        self.pads_batches = False
        """Compiled code is for one shape."""

        self.batch_size = config.batch_size or find_batch_size(self._try_batch, self.memory.usable_bytes()).batch_size
        if config.compile:
            self._compile()

    def generate(self, plans: Sequence[SamplePlan]) -> GeneratedImages:
        """Return one image a plan, one pipeline call a batch of those with guidance, and of those without."""
        groups: dict[tuple[float, int], list[int]] = {}
        for i, plan in enumerate(plans):
            guidance = plan.guidance_scale if self.embeds_guidance else float(plan.guidance_scale > 1)
            groups.setdefault((guidance, plan.num_inference_steps), []).append(i)
        with self.device_lock, torch.inference_mode():
            made = [batch for group in groups.values() for batch in self._make([plans[i] for i in group])]
            order = np.argsort([i for group in groups.values() for i in group])
            joined = {name: torch.cat([batch[name] for batch in made])[order] for name in made[0]}
            copied = start_copying(joined, self.copy_stream)
        return GeneratedImages(**copied())

    def _make(self, plans: list[SamplePlan]) -> list[dict[str, torch.Tensor]]:
        """Return the images of plans that may share a call, in batches that fit into memory."""
        made: list[dict[str, torch.Tensor]] = []
        num_made = 0
        while num_made < len(plans):
            batch = plans[num_made : num_made + self.batch_size]
            missing = self.batch_size - len(batch) if self.pads_batches else 0
            images = self._call_unless_out_of_memory(batch + batch[-1:] * missing)
            if images is None:
                self._halve_batch_size()
                continue
            made.append({name: tensor[: len(batch)] for name, tensor in images.items()})
            num_made += len(batch)
        return made

    def _call_unless_out_of_memory(self, plans: list[SamplePlan]) -> dict[str, torch.Tensor] | None:
        try:
            return self._call_pipeline(plans)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                return None  # the error, and the tensors its frames hold, must be gone before the next try
            raise

    def _halve_batch_size(self) -> None:
        """Go on with smaller batches from here on; GenerationFailedError if there are none."""
        if self.batch_size == 1:
            raise GenerationFailedError(one_image_too_many(self.memory.usable_bytes()))
        self.batch_size //= 2
        logging.getLogger(__name__).warning("Out of memory: batches of %d from here on.", self.batch_size)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _call_pipeline(self, plans: list[SamplePlan]) -> dict[str, torch.Tensor]:
        """Return the fields of `GeneratedImages` on the device."""
        scales = GuidanceScales([plan.guidance_scale for plan in plans])
        with self.guidance.within_interval(len(plans) if scales > 1 and not self.embeds_guidance else 0):
            output = self.pipeline(
                **self.prompt_cache.arguments(plans, guided=scales > 1),
                **self.call_settings,
                guidance_scale=scales,
                num_inference_steps=plans[0].num_inference_steps,
                latents=torch.stack([self.initial_noise(plan) for plan in plans]).to(self.device, self.dtype),
                generator=[torch.Generator().manual_seed(plan.noise_seed % 2**63) for plan in plans],
                output_type="pt",
            )
        return self.delivered(output.images, getattr(output, "nsfw_content_detected", None) or [False] * len(plans))

    def delivered(self, images_nchw: torch.Tensor, flagged: Sequence[bool]) -> dict[str, torch.Tensor]:
        """Return the fields of `GeneratedImages`, on the device, from images of 0..1."""
        if images_nchw.shape[2] != self.recipe.generated_size:
            raise ValueError(f"the model's images are of {images_nchw.shape[2]} pixels")
        return self.to_pixels(images_nchw, self.recipe.image_size) | {
            "flagged": torch.tensor(flagged, dtype=torch.bool, device=self.device)
        }

    def initial_noise(self, plan: SamplePlan) -> torch.Tensor:
        """Return standard normal latents, float32 [C, h, w]; the pipeline scales them to its scheduler."""
        random = np.random.Generator(np.random.Philox(key=plan.noise_seed))
        return torch.from_numpy(random.standard_normal(self.noise_shape, dtype=np.float32))

    @torch.inference_mode()
    def _ask_noise_shape(self, plan: SamplePlan) -> tuple[int, ...]:
        """Return the shape of one sample's noise, as the pipeline itself draws it."""
        made = self.pipeline(
            prompt=plan.prompt,
            **self.call_settings,
            guidance_scale=1.0,
            num_inference_steps=plan.num_inference_steps,
            output_type="latent",
        )
        return tuple(made.images.shape[1:])

    def _make_one(self, plan: SamplePlan) -> None:
        """Make an image, of which nothing is kept; ValueError with the remedy if that cannot be done."""
        try:
            self.noise_shape = self._ask_noise_shape(plan)
            self._call_pipeline([plan])
        except (ValueError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise ValueError(one_image_too_many(self.memory.usable_bytes())) from error
            raise ValueError(
                f"'{self.recipe.model}' cannot make images of recipe.generated_size {self.recipe.generated_size} in "
                f"{plan.num_inference_steps} steps of recipe.scheduler {self.recipe.scheduler}: "
                f"{' '.join(str(error).split())[:200]}. Try a multiple of 64 pixels, and the model's own scheduler."
            ) from error

    def _try_batch(self, batch_size: int) -> Trial | None:
        """Return how fast batches of this size are, and their memory; None if they do not fit."""
        self.batch_size = batch_size
        plans = [plan_sample(self.recipe, index) for index in range(batch_size)]
        num_steps = self.recipe.num_inference_steps
        few, more = (min(num_steps, number) for number in TRIAL_STEPS)
        self.memory.reset()
        try:
            self._seconds_of(plans, few)  # the first call of a shape does more than the later ones
        except GenerationFailedError:
            return None
        seconds = self._seconds_of(plans, few)
        if few < num_steps:
            seconds += (self._seconds_of(plans, more) - seconds) / (more - few) * (num_steps - few)
        if self.batch_size < batch_size:
            return None
        return Trial(batch_size, batch_size / seconds, self.memory.peak_bytes())

    def _seconds_of(self, plans: Sequence[SamplePlan], num_steps: int) -> float:
        started_at = time.perf_counter()
        self.generate([dataclasses.replace(plan, num_inference_steps=num_steps) for plan in plans])
        return time.perf_counter() - started_at

    def _compile(self) -> None:
        """Compile, and make a batch with guidance and one without, as far as the recipe has them: all is ready then."""
        self.pads_batches = True
        options = COMPILE_OPTIONS[self.device.type]
        self.guidance.forward = torch.compile(self.guidance.forward, options=options)
        self.pipeline.vae.decode = torch.compile(self.pipeline.vae.decode, options=options)
        self.to_pixels = torch.compile(to_pixels)
        plans = [plan_sample(self.recipe, index) for index in range(self.batch_size)]
        for scale in {min(self.recipe.guidance_scale), max(self.recipe.guidance_scale)}:
            self.generate([dataclasses.replace(plan, guidance_scale=scale) for plan in plans])


def to_pixels(images_nchw: torch.Tensor, size: int) -> dict[str, torch.Tensor]:
    """Return images of 0..1 as values of 0 to 255 at the delivered size, and what the guard has to know of each."""
    low, high = torch.aminmax(images_nchw.flatten(start_dim=1).float(), dim=1)  # a NaN is both
    images_nchw = images_nchw.float().nan_to_num(0.0)
    if images_nchw.shape[2] != size:
        images_nchw = torch.nn.functional.interpolate(images_nchw, (size, size), mode="bicubic", antialias=True)
    pixels = (images_nchw.clamp(0, 1) * 255).round().to(torch.uint8)  # a bicubic curve may leave 0..1 a little
    darkest, brightest = torch.aminmax(pixels.flatten(start_dim=1), dim=1)
    return {
        "images_nhwc": pixels.permute(0, 2, 3, 1).contiguous(),
        "darkest": darkest,
        "brightest": brightest,
        "finite": low.isfinite() & high.isfinite(),
    }


def start_copying(
    tensors: dict[str, torch.Tensor], stream: torch.cuda.Stream | None
) -> Callable[[], dict[str, np.ndarray]]:
    """Copy tensors to the host beside what the device does next; return what waits for them."""
    if stream is None:
        return lambda: {name: tensor.numpy() for name, tensor in tensors.items()}
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        copies = {name: tensor.to("cpu", non_blocking=True) for name, tensor in tensors.items()}
        done = stream.record_event()
    for tensor in tensors.values():
        tensor.record_stream(stream)

    def wait() -> dict[str, np.ndarray]:
        done.synchronize()
        return {name: copy.numpy() for name, copy in copies.items()}

    return wait
