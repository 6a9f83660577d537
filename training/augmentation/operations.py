"""Batched image operations with parameters per image, on the images' device.

Each operation matches its counterpart in torchvision.transforms.v2.functional on float tensors. Uses no random
numbers: `training.augmentation.crops` provides the parameters.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch.nn import functional

from training.augmentation.crops import JITTER_ORDERS, CropDraws

Interpolation = Literal["bilinear", "bicubic"]

GREY_WEIGHTS = (0.2989, 0.587, 0.114)
"""torchvision's weights of red, green and blue, from ITU-R BT.601."""

BLUR_RADIUS = 6
"""Radius of the blur kernel in pixels: three standard deviations of the widest blur."""


def to_float(images_nhwc: torch.Tensor) -> torch.Tensor:
    """Return float [N, 3, H, W] in 0..1 for uint8 [N, H, W, 3]."""
    return images_nhwc.permute(0, 3, 1, 2).float() / 255


def center_crop(images: torch.Tensor, size: int) -> torch.Tensor:
    """Return the center of square images, 224/256 of each side, as [N, 3, size, size], as in evaluation."""
    resize_size = round(size * 256 / 224)
    if images.shape[-1] != resize_size:
        images = functional.interpolate(images, (resize_size, resize_size), mode="bilinear", antialias=True)
    start = (resize_size - size) // 2
    return images[:, :, start : start + size, start : start + size]


def resample(
    images_nhwc: torch.Tensor, numbers: np.ndarray, drawn: CropDraws, size: int, mode: Interpolation
) -> torch.Tensor:
    """Return antialiased, possibly flipped boxes `[M, 3, size, size]` of the images with indices `numbers` [M]."""
    by_device = interpolate if images_nhwc.device.type == "cpu" else multiply
    return by_device(images_nhwc, numbers, drawn, size, mode)


def interpolate(
    images_nhwc: torch.Tensor, numbers: np.ndarray, drawn: CropDraws, size: int, mode: Interpolation
) -> torch.Tensor:
    """Resample one by one in 8 bits, rounding and clamping after each axis as PIL does: torch's fast path on CPUs."""
    boxes = (
        images_nhwc[number, top : top + height, left : left + width].permute(2, 0, 1)[None]
        for number, (top, left, height, width) in zip(numbers.tolist(), drawn.boxes.tolist(), strict=True)
    )
    resized = [functional.interpolate(box, size=(size, size), mode=mode, antialias=True) for box in boxes]
    crops = torch.empty(len(resized), 3, size, size).copy_(torch.cat(resized)).div_(255)
    apply_where(crops, drawn.flipped, partial(torch.flip, dims=(3,)))
    return crops


def multiply(
    images_nhwc: torch.Tensor, numbers: np.ndarray, drawn: CropDraws, size: int, mode: Interpolation
) -> torch.Tensor:
    """Resample all at once in floats, as two matrix products."""
    device = images_nhwc.device
    images = to_float(images_nhwc[to_device(device, numbers)])
    top, left, height, width = to_device(device, drawn.boxes.astype(np.float32)).unbind(1)
    rows = resampling_matrices(top, height, size, images.shape[2], mode)
    columns = resampling_matrices(left, width, size, images.shape[3], mode)
    columns = torch.where(to_device(device, drawn.flipped).view(-1, 1, 1), columns.flip(1), columns)
    return (rows[:, None] @ images @ columns.mT[:, None]).clamp_(0, 1)


def resampling_matrices(
    starts: torch.Tensor, lengths: torch.Tensor, size: int, num_pixels: int, mode: Interpolation
) -> torch.Tensor:
    """Return weights `[M, size, num_pixels]` that resample the interval at `starts` of `lengths` to `size` pixels.

    The kernels are torch's antialiased ones, a triangle or Keys' cubic with a = -0.5, widened when downscaling, cut off
    at the interval's ends and normalized to a sum of 1.
    """
    starts, lengths = starts.view(-1, 1, 1), lengths.view(-1, 1, 1)
    step = lengths / size
    centers = (torch.arange(size, device=starts.device) + 0.5).view(1, -1, 1) * step
    pixels = torch.arange(num_pixels, device=starts.device) + 0.5 - starts
    distance = ((pixels - centers) / step.clamp(min=1)).abs()
    weights = KERNELS[mode](distance) * ((pixels > 0) & (pixels < lengths))
    return weights / weights.sum(dim=2, keepdim=True)


def triangle(distance: torch.Tensor) -> torch.Tensor:
    """Return the bilinear kernel at distances of 0 or more."""
    return (1 - distance).clamp_(min=0)


def cubic(distance: torch.Tensor) -> torch.Tensor:
    """Return the bicubic kernel at distances of 0 or more."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, far) * (distance < 2)


KERNELS: dict[Interpolation, Callable[[torch.Tensor], torch.Tensor]] = {"bilinear": triangle, "bicubic": cubic}


def adjust_brightness(crops: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Multiply by the factors in place."""
    return crops.mul_(factors).clamp_(0, 1)


def adjust_contrast(crops: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Blend with the mean gray value in place."""
    means = crops.mean(dim=(2, 3), keepdim=True)
    return crops.mul_(factors).add_(_grey_of(means).mul_(1 - factors)).clamp_(0, 1)


def adjust_saturation(crops: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Blend with each pixel's gray value in place."""
    return torch.lerp(_grey_of(crops), crops, factors, out=crops).clamp_(0, 1)


def adjust_hue(crops: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Shift the hue in place by at most a sixth of a full turn.

    With h the hue in sixths of a turn, red is `low + clamp(|h - 3| - 1, 0, 1) * (high - low)`; green and blue are the
    same with 5 and 1 instead of 3. Scaling h by `high - low` avoids divisions and a conversion to HSV and back.
    """
    red, green, blue = crops.split(1, dim=1)
    high, low = torch.maximum(torch.maximum(red, green), blue), torch.minimum(torch.minimum(red, green), blue)
    chroma = high - low
    side = torch.cat((blue - green, red - blue, green - red), dim=1)
    rest = (high + chroma).sub_(red).sub_(green).sub_(blue)
    hue = crops.mul(2).add_(rest).copysign_(side).add_(chroma * (6 * turns))
    return torch.clamp(hue.abs_().add_(low - chroma), low, high, out=crops)


JITTERS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
"""Color operations in the order of `CropDraws.factors`."""


def jitter(crops: torch.Tensor, drawn: CropDraws) -> None:
    """Apply the color operations in place; crops with the same order must be adjacent."""
    factors = to_device(crops.device, drawn.factors)
    for start, end in _runs(drawn.order):
        for index in JITTER_ORDERS[drawn.order[start]]:
            JITTERS[index](crops[start:end], factors[start:end, index].view(-1, 1, 1, 1))


def grey(crops: torch.Tensor) -> torch.Tensor:
    """Return the crops in grayscale."""
    return _grey_of(crops).expand_as(crops)


def blur(crops: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Blur each crop by a Gaussian with its own sigma in pixels, cut off at `BLUR_RADIUS`, with reflected edges."""
    num_planes = 3 * len(crops)
    offsets = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, device=crops.device)
    taps = torch.softmax(-0.5 * (offsets / sigma[:, None]) ** 2, dim=1).repeat_interleave(3, dim=0)
    planes = functional.pad(crops, (BLUR_RADIUS,) * 4, mode="reflect").flatten(0, 1)[None]
    planes = functional.conv2d(planes, taps.view(num_planes, 1, -1, 1), groups=num_planes)
    return functional.conv2d(planes, taps.view(num_planes, 1, 1, -1), groups=num_planes).view_as(crops)


def solarize(crops: torch.Tensor) -> torch.Tensor:
    """Return the crops with all values of 0.5 or more inverted."""
    return torch.minimum(crops, 1 - crops)


def affine(images: torch.Tensor, degrees: torch.Tensor, shifts: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Rotate clockwise by `degrees`, scale about the center, shift right and down by `[N, 2]` fractions of the side.

    Bilinear, padded with black.
    """
    radians = degrees.deg2rad()
    cosine, sine = radians.cos() / scales, radians.sin() / scales
    turn_back = torch.stack((cosine, sine, -sine, cosine), dim=1).view(-1, 2, 2)
    origin = -turn_back @ (2 * shifts[:, :, None])
    grid = functional.affine_grid(torch.cat((turn_back, origin), dim=2), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def _grey_of(crops: torch.Tensor) -> torch.Tensor:
    """Return `[N, 1, H, W]`."""
    red, green, blue = crops.split(1, dim=1)
    return red.mul(GREY_WEIGHTS[0]).add_(green, alpha=GREY_WEIGHTS[1]).add_(blue, alpha=GREY_WEIGHTS[2])


def apply_where(crops: torch.Tensor, chosen: np.ndarray, operation: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Apply the operation to the chosen crops in place."""
    if chosen.any():
        rows = to_device(crops.device, np.flatnonzero(chosen))
        crops[rows] = operation(crops[rows])


def _runs(values: np.ndarray) -> Iterator[tuple[int, int]]:
    """Return start and end of each run of equal values."""
    borders = np.flatnonzero(np.diff(values)) + 1
    return pairwise((0, *borders.tolist(), len(values)))


def to_device(device: torch.device, values: np.ndarray) -> torch.Tensor:
    """Copy the values to the device, without waiting for its pending work."""
    return torch.from_numpy(values).to(device, non_blocking=True)
