"""Known model architectures with random weights: the speed of the real models without a download.

Sizes are those of the model cards' config files. The tokenizer is the digits model's, since the prompt does not matter
with random weights.
"""

import gc
import importlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from generation.recipes.model_files import PROJECT_ROOT

diffusers: Any = importlib.import_module("diffusers")  # its annotations are narrower than the accepted types

TOKENIZER = PROJECT_ROOT / "generation" / "digits" / "model" / "tokenizer"
MAX_TOKENS = 77

UNET: dict[str, Any] = {"sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2}
TEXT: dict[str, Any] = {"vocab_size": 49408, "max_position_embeddings": MAX_TOKENS}
DECODER: dict[str, Any] = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "sample_size": 512}
NOISE: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}

PNDM = partial(diffusers.PNDMScheduler, **NOISE, skip_prk_steps=True, set_alpha_to_one=False)

TINY = "tiny/stable-diffusion"
"""Stable Diffusion's components, small enough to run on a CPU."""


def write_random_model(name: str, folder: Path, precision: str) -> None:
    """Save a model with random weights and the architecture of a hub id; ValueError for an unknown id."""
    if name not in ARCHITECTURES:
        raise ValueError(f"There is no architecture '{name}' for random weights. Use {', '.join(ARCHITECTURES)}.")
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, precision))
    try:
        ARCHITECTURES[name]().save_pretrained(folder)
    finally:
        torch.set_default_dtype(before)
    gc.collect()


def _stable_diffusion(
    unet: Any, text: CLIPTextConfig, make_scheduler: Callable[[], Any], decoder: Mapping[str, Any] = DECODER
) -> Any:
    with torch.device("cpu"):  # also on the meta device: schedulers compute with numpy
        scheduler = make_scheduler()
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER, model_max_length=MAX_TOKENS)
    return diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * len(decoder["block_out_channels"]),
            up_block_types=("UpDecoderBlock2D",) * len(decoder["block_out_channels"]),
            **decoder,
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sd14() -> Any:
    text = CLIPTextConfig(**TEXT, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    unet = diffusers.UNet2DConditionModel(**UNET, cross_attention_dim=768, attention_head_dim=8)
    return _stable_diffusion(unet, text, PNDM)


def _tiny() -> Any:
    text = CLIPTextConfig(**TEXT, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=8,
    )
    return _stable_diffusion(unet, text, PNDM, {"block_out_channels": (32, 32, 32), "layers_per_block": 1})


def _sd_turbo() -> Any:
    text = CLIPTextConfig(
        **TEXT,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=23,
        num_attention_heads=16,
        hidden_act="gelu",
        projection_dim=512,
    )
    unet = diffusers.UNet2DConditionModel(
        **UNET, cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
    )
    scheduler = partial(diffusers.EulerDiscreteScheduler, **NOISE, timestep_spacing="trailing")
    return _stable_diffusion(unet, text, scheduler)


ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "CompVis/stable-diffusion-v1-4": _sd14,
    "stabilityai/sd-turbo": _sd_turbo,
    "madebyollin/taesd": diffusers.AutoencoderTiny,
    TINY: _tiny,
}
"""Constructors by hub id; `TINY` is not on the hub."""
