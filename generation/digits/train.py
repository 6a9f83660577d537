"""Train the embedded text-to-image model of ten handwritten digits: `python -m generation.digits.train OUT`.

Starts from random weights and writes a Stable Diffusion folder in diffusers' layout. Trains on
`real_digits.training_digits` alone and never sees the evaluation digits. `measure` measures the result.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from generation.digits.pool import Pool, build_pool, training_digest
from generation.digits.real_digits import IMAGE_SIZE
from generation.digits.tokenizer import MAX_TOKENS, train_tokenizer

SEED = 0
POOL_SIZE = 24_000
"""Number of composited images, made once; the denoiser trains on their latents."""

BATCH_SIZE = 128

AUTOENCODER_STEPS = 1000
AUTOENCODER_BATCH_SIZE = 64
AUTOENCODER_LEARNING_RATE = 2e-3
KL_WEIGHT = 1e-4
"""Weight of a latent's mean KL divergence from a standard normal; a pixel's squared error in -1..1 has weight 1."""

DENOISER_STEPS = 4500
DENOISER_LEARNING_RATE = 2e-3
EMPTY_PROMPT_FRACTION = 0.1
"""Share of prompts replaced by the empty one, which classifier-free guidance needs."""

EMA_DECAY = 0.999
WARM_UP_STEPS = 100
LOG_EVERY_STEPS = 50
SAVE_EVERY_STEPS = 500
"""Saving early leaves a usable model in the folder long before the last step."""

TEXT_WIDTH = 64
LATENT_CHANNELS = 4
LATENT_SIZE = 8

AUTOENCODER: dict[str, Any] = {
    "sample_size": IMAGE_SIZE,
    "latent_channels": LATENT_CHANNELS,
    "block_out_channels": (16, 16, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "mid_block_add_attention": False,
}
"""AutoencoderKL from 32x32 images to 8x8x4 latents; few channels at full resolution, where decoding costs most."""

UNET: dict[str, Any] = {
    "sample_size": LATENT_SIZE,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": TEXT_WIDTH,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
"""UNet2DConditionModel with about a million parameters; attends to the prompt at 4x4 only."""

TEXT_ENCODER: dict[str, Any] = {
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 4 * TEXT_WIDTH,
    "projection_dim": TEXT_WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": MAX_TOKENS,
}
"""CLIPTextModel; its vocabulary comes from the tokenizer."""

SPECIAL_TOKENS = ("bos", "eos", "pad")

NOISE_SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
}
"""Shared by training and sampling; at its last timestep no trace of the image remains."""


class Log:
    """Writer of `training_log.jsonl`: one record per line, with the seconds since the start."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.started_at = time.monotonic()

    def write(self, record: str, **values: float | str | dict[str, str]) -> None:
        """Append one record; values must be JSON-serializable."""
        seconds = round(time.monotonic() - self.started_at, 1)
        with self.path.open("a") as file:
            file.write(json.dumps({"record": record, "wall_seconds": seconds, **values}) + "\n")


class Denoiser(torch.nn.Module):
    """The text encoder and the UNet, trained together."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        special: dict[str, Any] = {
            f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in SPECIAL_TOKENS
        }
        self.text_encoder = CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), **TEXT_ENCODER, **special))
        self.unet = UNet2DConditionModel(**UNET)

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
        """Return the predicted velocity [N, 4, 8, 8] for token ids [N, 64]; equal prompts are encoded once."""
        distinct, rows = torch.unique(token_ids, dim=0, return_inverse=True)
        hidden = self.text_encoder(distinct)[0][rows]
        return self.unet(noisy, timesteps, hidden, return_dict=False)[0]


def train_autoencoder(images: torch.Tensor, num_steps: int, log: Log) -> AutoencoderKL:
    """Return an autoencoder of `images` [N, 3, 32, 32] in -1..1 whose scaled latents have a standard deviation of 1."""
    torch.manual_seed(SEED)
    vae = AutoencoderKL(**AUTOENCODER)
    optimizer, schedule = new_optimizer(vae, AUTOENCODER_LEARNING_RATE, num_steps)
    for step in range(num_steps):
        pixels = images[torch.randint(len(images), (AUTOENCODER_BATCH_SIZE,))]
        posterior: DiagonalGaussianDistribution = vae.encode(pixels, return_dict=False)[0]
        latents: torch.FloatTensor = posterior.sample()  # pyright: ignore[reportAssignmentType]
        error = functional.mse_loss(vae.decode(latents, return_dict=False)[0], pixels)
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        take_step(error + KL_WEIGHT * divergence, vae, optimizer, schedule)
        if is_logged(step, num_steps):
            log.write("autoencoder", step=step, squared_error=error.item(), divergence=divergence.item())
    vae.eval()
    vae.register_to_config(scaling_factor=1 / encode(vae, images[:4096]).std().item())
    return vae


@torch.no_grad()
def encode(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """Return the unscaled latents [N, 4, 8, 8] of images [N, 3, 32, 32], without the posterior's noise."""
    return torch.cat([vae.encode(chunk, return_dict=False)[0].mean for chunk in images.split(256)])


@dataclass(frozen=True)
class DenoiserData:
    """Training data of the denoiser, computed once."""

    latents: torch.Tensor
    """Float [N, 4, 8, 8], scaled to a standard deviation of 1."""

    prompt_ids: torch.Tensor
    """Int64 [N]: row of each sample's prompt in `token_ids`."""

    token_ids: torch.Tensor
    """Int64 [P + 1, 64]; the last row is the empty prompt."""

    def draw(self, num_samples: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return random latents and their token ids, some replaced by the empty prompt."""
        rows = torch.randint(len(self.latents), (num_samples,))
        is_empty = torch.rand(num_samples) < EMPTY_PROMPT_FRACTION
        prompt_ids = torch.where(is_empty, len(self.token_ids) - 1, self.prompt_ids[rows])
        return self.latents[rows], self.token_ids[prompt_ids]


def denoiser_data(vae: AutoencoderKL, tokenizer: CLIPTokenizer, images: torch.Tensor, pool: Pool) -> DenoiserData:
    """Encode a pool's images and prompts."""
    texts = [*pool.prompts, ""]
    tokens = tokenizer(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
    return DenoiserData(
        latents=encode(vae, images) * vae.config["scaling_factor"],
        prompt_ids=torch.from_numpy(pool.prompt_ids),
        token_ids=tokens.input_ids,
    )


def train_denoiser(
    data: DenoiserData, tokenizer: CLIPTokenizer, num_steps: int, log: Log, save: Callable[[Denoiser], None]
) -> None:
    """Train a text encoder and a UNet to predict velocities (arXiv 2202.00512); `save` gets their moving average."""
    torch.manual_seed(SEED)
    denoiser = Denoiser(tokenizer)
    average = AveragedModel(denoiser, multi_avg_fn=update_average)
    noise_schedule = DDPMScheduler(**NOISE_SCHEDULE, prediction_type="v_prediction", clip_sample=False, steps_offset=1)
    optimizer, schedule = new_optimizer(denoiser, DENOISER_LEARNING_RATE, num_steps)
    for step in range(num_steps):
        latents, token_ids = data.draw(BATCH_SIZE)
        loss = velocity_loss(denoiser, noise_schedule, latents, token_ids)
        take_step(loss, denoiser, optimizer, schedule)
        average.update_parameters(denoiser)
        if is_logged(step, num_steps):
            log.write("denoiser", step=step, loss=loss.item())
        if (step + 1) % SAVE_EVERY_STEPS == 0 or step == num_steps - 1:
            save(average.module)  # pyright: ignore[reportArgumentType]


@torch.no_grad()
def update_average(
    averaged: Sequence[torch.Tensor], current: Sequence[torch.Tensor], num_averaged: torch.Tensor | int
) -> None:
    """Update an exponential moving average with a smaller decay in the first steps."""
    decay = min(EMA_DECAY, (1 + int(num_averaged)) / (10 + int(num_averaged)))
    for average, value in zip(averaged, current, strict=True):
        average.lerp_(value, 1 - decay)


def velocity_loss(
    denoiser: Denoiser, noise_schedule: DDPMScheduler, latents: torch.Tensor, token_ids: torch.Tensor
) -> torch.Tensor:
    """Return the mean squared error of the velocity, at times spread evenly over the batch."""
    noise = torch.randn_like(latents)
    fractions = (torch.arange(len(latents)) + torch.rand(len(latents))) / len(latents)
    timesteps = (fractions * noise_schedule.config["num_train_timesteps"]).long()
    velocity = noise_schedule.get_velocity(latents, noise, timesteps)
    noisy = noise_schedule.add_noise(latents, noise, timesteps)
    return functional.mse_loss(denoiser(noisy, timesteps, token_ids), velocity)


def new_optimizer(
    network: torch.nn.Module, learning_rate: float, num_steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Return AdamW with a linear warm-up and a cosine to zero."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01)

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / WARM_UP_STEPS) * (1 + math.cos(math.pi * step / num_steps)) / 2

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, rate)


def take_step(
    loss: torch.Tensor,
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    """Take one optimizer step; raise FloatingPointError if the loss is not finite."""
    if not torch.isfinite(loss):
        raise FloatingPointError(f"The loss is {loss.item()}: training diverged. Lower the learning rate.")
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    schedule.step()


def is_logged(step: int, num_steps: int) -> bool:
    """Return whether to log a step's losses."""
    return step % LOG_EVERY_STEPS == 0 or step == num_steps - 1


def new_sampler() -> DPMSolverMultistepScheduler:
    """Return the saved pipeline's scheduler, for 6 to 12 steps."""
    return DPMSolverMultistepScheduler(
        **NOISE_SCHEDULE,
        prediction_type="v_prediction",
        algorithm_type="dpmsolver++",
        solver_order=2,
        timestep_spacing="trailing",
        lower_order_final=True,
        steps_offset=1,
    )


def save_pipeline(folder: Path, vae: AutoencoderKL, tokenizer: CLIPTokenizer, denoiser: Denoiser) -> None:
    """Write the model in diffusers' layout with half-precision weights."""
    StableDiffusionPipeline(
        vae=deepcopy(vae).half(),
        text_encoder=deepcopy(denoiser.text_encoder).half(),
        tokenizer=tokenizer,
        unet=deepcopy(denoiser.unet).half(),
        scheduler=new_sampler(),  # pyright: ignore[reportArgumentType]
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    ).save_pretrained(folder, safe_serialization=True)
    tokenizer.backend_tokenizer.model.save(str(folder / "tokenizer"))


def to_pixels(images: np.ndarray) -> torch.Tensor:
    """Return float [N, 3, H, W] in -1..1 for uint8 [N, H, W, 3]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train the embedded text-to-image model of handwritten digits.")
    parser.add_argument("out", type=Path, help="output folder; must not contain a model")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU cores to use")
    parser.add_argument("--autoencoder-steps", type=int, default=AUTOENCODER_STEPS)
    parser.add_argument("--denoiser-steps", type=int, default=DENOISER_STEPS)
    arguments = parser.parse_args()
    if (arguments.out / "model_index.json").exists():
        parser.error(f"{arguments.out} already contains a model. Choose another folder.")
    return arguments


def main() -> None:
    """Build the images, train autoencoder and denoiser, write the model folder."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    log = Log(arguments.out / "training_log.jsonl")
    versions = {name: version(name) for name in ("torch", "diffusers", "transformers", "scikit-learn", "numpy")}
    log.write("start", training_digest=training_digest(), seed=SEED, threads=arguments.threads, versions=versions)
    pool = build_pool(POOL_SIZE, SEED)
    images = to_pixels(pool.images)
    vae = train_autoencoder(images, arguments.autoencoder_steps, log)
    tokenizer = train_tokenizer(pool.prompts)
    data = denoiser_data(vae, tokenizer, images, pool)
    train_denoiser(
        data, tokenizer, arguments.denoiser_steps, log, save=partial(save_pipeline, arguments.out, vae, tokenizer)
    )
    log.write("end")


if __name__ == "__main__":
    main()
