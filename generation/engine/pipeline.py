"""Load a recipe's diffusers pipeline and apply the configured optimizations.

Only this file and digits/ import diffusers. Only safetensors are read, and no code that comes with a model is run.
"""

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.auto_model import AutoModel
from diffusers.pipelines.auto_pipeline import AutoPipelineForText2Image
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from generation.config import GenerationConfig
from generation.engine.batch_size import is_out_of_memory
from generation.recipes.lora_keys import check_all_used, check_no_dora, keys_of
from generation.recipes.model_files import LORA, fetch, find_local
from generation.recipes.pipeline_traits import check_scheduler
from generation.recipes.recipe import Recipe

SCHEDULERS = {
    "pndm": PNDMScheduler,
    "ddim": DDIMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "euler_ancestral": EulerAncestralDiscreteScheduler,
    "unipc": UniPCMultistepScheduler,
    "lcm": LCMScheduler,
}
"""Scheduler classes by the values of `recipe.scheduler`."""

LATENT_DEFAULTS = {"clip_sample": False, "skip_prk_steps": True}
"""Scheduler settings for latents that a model's config leaves out; diffusers' own defaults are for pixels in -1..1."""

XFORMERS_COMPATIBLE = {"AttnProcessor", "AttnProcessor2_0"}
"""Attention processors that xformers replaces with the same result; diffusers replaces all, even Sana's linear one."""

LOAD_ERRORS = (OSError, ValueError, KeyError, AttributeError, ImportError, RuntimeError)
"""Errors of diffusers, transformers, safetensors and torch for missing, damaged or incompatible files."""


def load_pipeline(recipe: Recipe, config: GenerationConfig, device: torch.device) -> Any:
    """Return the recipe's pipeline on `device`; ValueError in one line with the remedy if it cannot be loaded."""
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()  # diffusers warns of a safety checker that is off or absent
    with _explain_load_errors(recipe, device):
        pipeline = _from_files(recipe)
    scales = {f"lora_{i}": scale for i, (_, _, scale) in enumerate(recipe.loras)}
    for adapter, (name, revision, _) in zip(scales, recipe.loras, strict=True):
        _add_lora(pipeline, recipe, adapter, name, revision)
    with _explain_load_errors(recipe, device):
        if scales:  # fuse the adapters into the model's weights, so that they cost nothing at inference
            pipeline.set_adapters(list(scales), list(scales.values()))
            pipeline.fuse_lora(adapter_names=list(scales))
            pipeline.unload_lora_weights()
        pipeline.to(device)
    if recipe.safety_checker and getattr(pipeline, "safety_checker", None) is None:
        raise ValueError(
            f"recipe.safety_checker is true, but '{recipe.model}' has no safety checker. "
            "Set recipe.safety_checker=false."
        )
    check_scheduler(recipe, type(pipeline.scheduler).__name__)
    set_scheduler(pipeline, recipe.scheduler)
    disable_clamping(pipeline)
    speed_up(pipeline, config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@contextmanager
def _explain_load_errors(recipe: Recipe, device: torch.device) -> Iterator[None]:
    """Replace errors of loading the model by a ValueError with the remedy."""
    try:
        yield
    except LOAD_ERRORS as error:
        remedy = (
            "It does not fit into memory: use recipe.precision=float16, or a device with more memory."
            if is_out_of_memory(error)
            else "Check that its files are complete, in safetensors format, and from one model."
        )
        raise ValueError(
            f"recipe.model '{recipe.model}' cannot be loaded on {device.type}: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}. {remedy}"
        ) from error


def _from_files(recipe: Recipe) -> Any:
    """Load the pipeline from a folder or the hub, with the recipe's decoder if it names one."""
    arguments: dict[str, Any] = {} if recipe.safety_checker else {"safety_checker": None}
    if recipe.vae:
        arguments["vae"] = _load(AutoModel, recipe.vae, recipe.vae_revision, recipe)
    if recipe.variant:
        arguments["variant"] = recipe.variant
    return _load(pipeline_class(recipe.pipeline), recipe.model, recipe.revision, recipe, **arguments)


def _load(loader: Any, name: str, revision: str, recipe: Recipe, **arguments: Any) -> Any:
    local = find_local(name)
    return loader.from_pretrained(
        str(local or name),
        revision=None if local else revision,
        local_files_only=local is not None,
        dtype=getattr(torch, recipe.precision),
        use_safetensors=True,
        **arguments,
    )


def pipeline_class(name: str) -> Any:
    """Return diffusers' pipeline of this name, or AutoPipelineForText2Image if empty; ValueError if there is none."""
    if not name:
        return AutoPipelineForText2Image
    found = getattr(importlib.import_module("diffusers"), name, None)
    if not (isinstance(found, type) and issubclass(found, DiffusionPipeline)):
        raise ValueError(
            f"recipe.pipeline is '{name}', which diffusers does not have. Leave it empty to let diffusers choose."
        )
    return found


def _add_lora(pipeline: Any, recipe: Recipe, adapter: str, name: str, revision: str) -> None:
    """Add one LoRA as an adapter; ValueError if it cannot be loaded, or some of its weights match no module."""
    try:
        file = fetch(LORA, name, revision)
    except LOAD_ERRORS as error:
        raise ValueError(f"recipe.loras '{name}' cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    check_no_dora(name, keys_of(file, name))
    source: dict[str, Any] = {"weight_name": file.name, "use_safetensors": True}
    unet = pipeline.components.get("unet")
    try:
        found = pipeline.lora_state_dict(str(file.parent), unet_config=unet and unet.config, **source)
        pipeline.load_lora_weights(str(file.parent), adapter_name=adapter, **source)
    except LOAD_ERRORS as error:
        raise ValueError(
            f"recipe.loras '{name}' does not fit '{recipe.model}': {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300].rstrip('.')}. Use a LoRA that was trained for this model."
        ) from error
    keys = [key for key in (found[0] if isinstance(found, tuple) else found) if "alpha" not in key]
    loaded = [
        _module_of(f"{part}.{parameter}")
        for part, network in pipeline.components.items()
        if isinstance(network, torch.nn.Module)
        for parameter, _ in network.named_parameters()
        if f".{adapter}" in parameter
    ]
    if len(loaded) < len(keys):
        check_all_used(name, recipe.model, keys, {key for key in keys if _module_of(key) in loaded})


def _module_of(key: str) -> str:
    """Return the module that a LoRA weight belongs to, in any naming scheme."""
    return re.sub(r"[._](lora|lokr).*", "", key).replace(".processor", "").replace(".text_model", "")


def set_scheduler(pipeline: Any, name: str) -> None:
    """Replace the pipeline's scheduler by the one of this name; "model" leaves it."""
    if name == "model":
        return
    config = pipeline.scheduler.config
    by_default = config.get("_use_default_values", ())  # defaults of the model's own scheduler do not carry over
    missing = {name: value for name, value in LATENT_DEFAULTS.items() if name not in config or name in by_default}
    pipeline.scheduler = SCHEDULERS[name].from_config(config, **missing)


def disable_clamping(pipeline: Any) -> None:
    """Return decoded images without clamping to 0..1, which would turn an infinity into white."""
    processor = getattr(pipeline, "image_processor", None)
    if processor is None:
        return
    postprocess = processor.postprocess

    def only_scale(image: torch.Tensor, output_type: str = "pil", **settings: Any) -> Any:
        scaled = output_type == "pt" and processor.config.do_normalize
        return image * 0.5 + 0.5 if scaled else postprocess(image, output_type=output_type, **settings)

    processor.postprocess = only_scale


def speed_up(pipeline: Any, config: GenerationConfig) -> None:
    """Apply the configured optimizations, which do not change images; compilation follows once shapes are known."""
    denoiser = denoiser_of(pipeline)
    if config.attention == "xformers":
        kinds = {type(each).__name__ for each in getattr(denoiser, "attn_processors", {}).values()}
        if others := sorted(kinds - XFORMERS_COMPATIBLE):
            raise ValueError(
                f"generation.attention is xformers, which would change the images of this model: its attention is "
                f"{', '.join(others)}. Set generation.attention=sdpa."
            )
        try:
            pipeline.enable_xformers_memory_efficient_attention()
        except (ImportError, ValueError, NotImplementedError) as error:
            raise ValueError(
                "generation.attention is xformers, which fails on this machine: "
                f"{' '.join(str(error).split())[:200]}. Install the extra gpu with a build for this torch, or use sdpa."
            ) from error
    if config.fuse_qkv:
        for module in (denoiser, pipeline.vae):
            if hasattr(module, "fuse_qkv_projections"):
                module.fuse_qkv_projections()
    if config.channels_last:
        denoiser.to(memory_format=torch.channels_last)
        pipeline.vae.to(memory_format=torch.channels_last)


def denoiser_of(pipeline: Any) -> Any:
    """Return the network that the pipeline calls in each denoising step."""
    return pipeline.unet if "unet" in pipeline.components else pipeline.transformer
