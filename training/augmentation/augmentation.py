"""Batched augmentation on the images' device, as a function of the images and given random numbers.

The CPU turns the random numbers into parameters, and no operation waits for a GPU. Uses no labels and no random state.
"""

from functools import partial
from typing import cast

import numpy as np
import torch

from training.augmentation.crops import DRAWS_PER_CROP, CropDraws, CropKind, between, concatenated, draw_crops
from training.augmentation.operations import (
    Interpolation,
    adjust_brightness,
    affine,
    apply_where,
    blur,
    grey,
    jitter,
    resample,
    solarize,
    to_device,
    to_float,
)
from training.config import TrainingConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)

IMAGENET_STD = (0.229, 0.224, 0.225)

CPU_CHUNK_BYTES = 2**23
"""Bytes of float crops per chunk on a CPU: small enough to stay in its cache between operations."""

GPU_CHUNK_BYTES = 2**28
"""Bytes of float source images per chunk of crops on a GPU."""


Scale = tuple[float, float]

SCALES: dict[str, tuple[Scale, Scale]] = {
    "crop_flip": ((0.08, 1.0), (0.08, 1.0)),  # torchvision's RandomResizedCrop; no local crops
    "multi_crop": ((0.25, 1.0), (0.05, 0.25)),  # t-ReX's (arXiv 2206.15369)
    "multi_crop_two_global": ((0.4, 1.0), (0.05, 0.4)),  # DINO's (arXiv 2104.14294)
}
"""Default areas of global and local crops, as fractions of the image's area."""


class Augmentation(torch.nn.Module):
    """Turns images into crops; this base class returns them unchanged. Has no parameters and no state."""

    num_draws = 0
    """Random numbers in [0, 1) needed per image."""

    num_crops = 1
    """Crops per image, over all sizes."""

    def forward(
        self, images_nhwc: torch.Tensor, draws: np.ndarray, extents: np.ndarray | None = None
    ) -> list[torch.Tensor]:
        """Return float `[k * N, 3, S, S]` in 0..1 for each size: rows `j * N .. (j + 1) * N` are crop j of all images.

        Images are uint8 `[N, H, W, 3]`, draws `[N, num_draws]`; an image's crops depend only on its own row. Extents,
        int64 `[N, 2]`, are height and width of each image within its array, from the top left; by default, the whole
        array. Random crops stay within the extent.
        """
        if extents is None:
            extents = np.tile(images_nhwc.shape[1:3], (len(images_nhwc), 1))
        with torch.no_grad(), torch.autocast(images_nhwc.device.type, enabled=False):
            return self.crops(images_nhwc, draws, extents)

    def crops(self, images_nhwc: torch.Tensor, draws: np.ndarray, extents: np.ndarray) -> list[torch.Tensor]:
        """Return the crops as `forward` does; called in full precision and without gradients."""
        return [to_float(images_nhwc)]


class Affine(Augmentation):
    """Small rotations, shifts, scalings and brightness changes of square images, padded with black; no flips."""

    num_draws = 5

    def crops(self, images_nhwc: torch.Tensor, draws: np.ndarray, extents: np.ndarray) -> list[torch.Tensor]:
        """Return one transformed image per image."""
        spans = ((-8.0, 8.0), (-0.06, 0.06), (-0.06, 0.06), (0.9, 1.1), (0.8, 1.2))
        drawn = np.stack([between(span, draws[:, column]) for column, span in enumerate(spans)], axis=1)
        degrees, right, down, scale, brightness = to_device(images_nhwc.device, drawn.astype(np.float32)).unbind(1)
        moved = affine(to_float(images_nhwc), degrees, torch.stack((right, down), dim=1), scale)
        return [adjust_brightness(moved, brightness.view(-1, 1, 1, 1))]


class RandomCrops(Augmentation):
    """Random resized crops with color changes: ImageNet's usual recipe, or DINO's multi-crop (arXiv 2104.14294)."""

    def __init__(self, kinds: tuple[CropKind, ...], mode: Interpolation = "bicubic") -> None:
        """Create one crop per kind, with interpolation `mode`; crops of equal size share one tensor."""
        super().__init__()
        self.kinds = kinds
        self.mode: Interpolation = mode
        self.num_crops = len(kinds)
        self.num_draws = len(kinds) * DRAWS_PER_CROP

    def crops(self, images_nhwc: torch.Tensor, draws: np.ndarray, extents: np.ndarray) -> list[torch.Tensor]:
        """Return one tensor per crop size."""
        by_size: dict[int, list[CropDraws]] = {}
        for position, kind in enumerate(self.kinds):
            own = draws[:, position * DRAWS_PER_CROP : (position + 1) * DRAWS_PER_CROP]
            by_size.setdefault(kind.size, []).append(draw_crops(kind, own, extents))
        return [make_crops(images_nhwc, concatenated(drawn), size, self.mode) for size, drawn in by_size.items()]


class Normalize(torch.nn.Module):
    """Normalizes images in 0..1 by ImageNet's mean and standard deviation."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self) -> None:
        """Register both as buffers: on the device of the weights, but not in checkpoints."""
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return normalized float [N, 3, H, W] for float [N, 3, H, W]."""
        return (images - self.mean) / self.std


def build_augmentation(config: TrainingConfig, image_size: int) -> Augmentation:
    """Return the configured augmentation for square images of `image_size` pixels."""
    if config.augmentation == "none":
        return Augmentation()
    if config.augmentation == "affine":
        return Affine()
    preset, local_preset = SCALES[config.augmentation]
    scale, local_scale = cast(Scale, config.crop_scale) or preset, cast(Scale, config.local_crop_scale) or local_preset
    size = config.crop_size or image_size
    if config.augmentation == "crop_flip":
        return RandomCrops((CropKind(size, scale),), "bilinear")
    colored = partial(CropKind, jitter_fraction=0.8, grey_fraction=0.2)
    local = colored(config.local_crop_size, local_scale, blur_fraction=0.5)
    blurs_and_solarizes = ((0.2, 0.2),) if config.augmentation == "multi_crop" else ((1.0, 0.0), (0.1, 0.2))
    global_crops = tuple(
        colored(size, scale, blur_fraction=blur_fraction, solarize_fraction=solarize_fraction)
        for blur_fraction, solarize_fraction in blurs_and_solarizes
    )
    return RandomCrops(global_crops + (local,) * config.num_local_crops)


def crop_sizes(config: TrainingConfig, image_size: int) -> set[int]:
    """Return the sizes in pixels of the network's inputs for images of `image_size`."""
    if config.augmentation in ("none", "affine"):
        return {image_size}
    local = {config.local_crop_size} if config.augmentation != "crop_flip" and config.num_local_crops else set()
    return {config.crop_size or image_size} | local


def make_crops(images_nhwc: torch.Tensor, drawn: CropDraws, size: int, mode: Interpolation) -> torch.Tensor:
    """Return `[M, 3, size, size]`; crop m is of image `m % N`. Crops with the same jitter order are batched."""
    crops = torch.empty(len(drawn.order), 3, size, size, device=images_nhwc.device)
    rows = np.argsort(drawn.order, kind="stable")
    step = _crops_at_once(images_nhwc, size)
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step]
        own = drawn[chunk]
        made = resample(images_nhwc, chunk % len(images_nhwc), own, size, mode)
        jitter(made, own)
        apply_where(made, own.grey, grey)
        apply_where(made, own.sigma > 0, partial(blur, sigma=to_device(made.device, own.sigma[own.sigma > 0])))
        apply_where(made, own.solarized, solarize)
        crops[to_device(crops.device, chunk)] = made
    return crops


def _crops_at_once(images_nhwc: torch.Tensor, size: int) -> int:
    if images_nhwc.device.type == "cpu":
        return max(1, CPU_CHUNK_BYTES // (4 * 3 * size**2))
    return max(1, GPU_CHUNK_BYTES // (4 * images_nhwc[0].numel()))
