"""Batched augmentation on the device where the images are: a function of the images and of numbers drawn elsewhere.

What a number decides is worked out on the CPU, and nothing waits for a GPU. Each operation means what
torchvision.transforms.v2.functional means by it on floats; on a CPU crops are resampled in 8 bits. Knows no labels,
samples or random state.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, permutations

import numpy as np
import torch
from torch.nn import functional

from training.config import TrainingConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

NUM_TRIES = 10
"""As often RandomResizedCrop looks for a box that fits into the image."""

MIN_RATIO, MAX_RATIO = 3 / 4, 4 / 3
"""Width over height of a crop."""

AREA_DRAWS, RATIO_DRAWS = slice(0, NUM_TRIES), slice(NUM_TRIES, 2 * NUM_TRIES)
(
    TOP_DRAW,
    LEFT_DRAW,
    FLIP_DRAW,
    JITTER_DRAW,
    ORDER_DRAW,
    BRIGHTNESS_DRAW,
    CONTRAST_DRAW,
    SATURATION_DRAW,
    HUE_DRAW,
    GREY_DRAW,
    BLUR_DRAW,
    SIGMA_DRAW,
    SOLARIZE_DRAW,
) = range(2 * NUM_TRIES, 2 * NUM_TRIES + 13)
DRAWS_PER_CROP = SOLARIZE_DRAW + 1
"""Which draw of a crop decides what; what a kind of crop does not do leaves its draws unused."""

JITTER_ORDERS = ((), *permutations(range(4)))
"""What is done in which order, as places in `JITTERS`; the first is no jitter."""

GREY_WEIGHTS = (0.2989, 0.587, 0.114)
"""torchvision's, after ITU-R BT.601."""

BLUR_RADIUS = 6
"""Pixels on each side: three deviations of the widest blur."""

CPU_CHUNK_BYTES = 2**23
"""Crops worked on at once on a CPU: few enough to stay in its cache from one operation to the next."""

GPU_CHUNK_BYTES = 2**28
"""Images of the crops worked on at once on a GPU, as floats."""


@dataclass(frozen=True)
class CropKind:
    """How a crop is drawn; fractions are probabilities."""

    size: int
    """Height and width in pixels."""

    areas: tuple[float, float]
    """Smallest and largest share of the image's area."""

    jitter_fraction: float = 0.0
    grey_fraction: float = 0.0
    blur_fraction: float = 0.0
    solarize_fraction: float = 0.0


@dataclass(frozen=True)
class CropDraws:
    """What was drawn for M crops: arrays of length M."""

    boxes: np.ndarray
    """[M, 4] int64: top, left, height and width in pixels."""

    flipped: np.ndarray
    order: np.ndarray
    """Place in `JITTER_ORDERS`."""

    factors: np.ndarray
    """[M, 4] float32 of brightness, contrast, saturation, and the hue's shift in turns."""

    grey: np.ndarray
    sigma: np.ndarray
    """Of the blur, in pixels, float32; 0 for none."""

    solarized: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> "CropDraws":
        """Return those of some crops."""
        return CropDraws(**{name: values[rows] for name, values in vars(self).items()})


class Augmentation(torch.nn.Module):
    """Images to crops; has no parameters and no state."""

    num_draws: int
    """Numbers in [0, 1) needed for an image."""

    num_crops: int
    """Crops made of an image, over all sizes."""

    def forward(self, images_nhwc: torch.Tensor, draws: np.ndarray) -> list[torch.Tensor]:
        """Return float `[k * N, 3, S, S]` in 0..1 for each size: rows `j * N .. (j + 1) * N` are crop j of all images.

        Images are uint8 `[N, H, W, 3]`, draws `[N, num_draws]`; an image's crops follow from its own row alone.
        """
        with torch.no_grad(), torch.autocast(images_nhwc.device.type, enabled=False):
            return self.crops(images_nhwc, draws)

    def crops(self, images_nhwc: torch.Tensor, draws: np.ndarray) -> list[torch.Tensor]:
        """Do what `forward` promises, in full precision and without gradients."""
        raise NotImplementedError


class NoAugmentation(Augmentation):
    """The images as they are."""

    num_draws, num_crops = 0, 1

    def crops(self, images_nhwc: torch.Tensor, draws: np.ndarray) -> list[torch.Tensor]:
        """Return the images."""
        return [to_float(images_nhwc)]


class Affine(Augmentation):
    """Small turns, shifts, scales and changes of brightness of square images, black where nothing was; no flip."""

    num_draws, num_crops = 5, 1

    def crops(self, images_nhwc: torch.Tensor, draws: np.ndarray) -> list[torch.Tensor]:
        """Return one image for one."""
        spans = ((-8.0, 8.0), (-0.06, 0.06), (-0.06, 0.06), (0.9, 1.1), (0.8, 1.2))
        drawn = np.stack([_between(span, draws[:, place]) for place, span in enumerate(spans)], axis=1)
        degrees, right, down, scale, brightness = _on(images_nhwc.device, drawn.astype(np.float32)).unbind(1)
        moved = affine(to_float(images_nhwc), degrees, torch.stack((right, down), dim=1), scale)
        return [adjust_brightness(moved, brightness.view(-1, 1, 1, 1))]


class RandomCrops(Augmentation):
    """Random resized crops and their colours: the plain recipe of ImageNet, or DINO's multi-crop (arXiv 2104.14294)."""

    def __init__(self, kinds: tuple[CropKind, ...]) -> None:
        """Take a kind for each crop; crops of one size become one tensor."""
        super().__init__()
        self.kinds = kinds
        self.num_crops = len(kinds)
        self.num_draws = len(kinds) * DRAWS_PER_CROP

    def crops(self, images_nhwc: torch.Tensor, draws: np.ndarray) -> list[torch.Tensor]:
        """Return a tensor for each size."""
        height, width = images_nhwc.shape[1:3]
        by_size: dict[int, list[CropDraws]] = {}
        for place, kind in enumerate(self.kinds):
            own = draws[:, place * DRAWS_PER_CROP : (place + 1) * DRAWS_PER_CROP]
            by_size.setdefault(kind.size, []).append(draw_crops(kind, own, height, width))
        return [make_crops(images_nhwc, _concatenate(drawn), size) for size, drawn in by_size.items()]


class Normalize(torch.nn.Module):
    """From 0..1 to ImageNet's mean and standard deviation."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self) -> None:
        """Keep both beside the weights, on their device, and out of checkpoints."""
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return float [N, 3, H, W] for the same."""
        return (images - self.mean) / self.std


def to_float(images_nhwc: torch.Tensor) -> torch.Tensor:
    """Return float [N, 3, H, W] in 0..1 for uint8 [N, H, W, 3]."""
    return images_nhwc.permute(0, 3, 1, 2).float() / 255


def normalize() -> torch.nn.Module:
    """Return the map from 0..1 to ImageNet's mean and standard deviation, for training and evaluation alike."""
    return Normalize()


def build_augmentation(config: TrainingConfig, image_size: int) -> Augmentation:
    """Return the config's augmentation of images of that height and width."""
    if config.augmentation == "none":
        return NoAugmentation()
    if config.augmentation == "affine":
        return Affine()
    size = config.crop_size or image_size
    if config.augmentation == "crop_flip":
        return RandomCrops((CropKind(size, (0.08, 1.0)),))
    coloured = partial(CropKind, jitter_fraction=0.8, grey_fraction=0.2)
    local = coloured(config.local_crop_size, (0.05, 0.25), blur_fraction=0.5)
    blurs_and_solarizes = ((0.2, 0.2),) if config.augmentation == "multi_crop" else ((1.0, 0.0), (0.1, 0.2))
    global_crops = tuple(
        coloured(size, (0.25, 1.0), blur_fraction=blur_fraction, solarize_fraction=solarize_fraction)
        for blur_fraction, solarize_fraction in blurs_and_solarizes
    )
    return RandomCrops(global_crops + (local,) * config.num_local_crops)


def draw_crops(kind: CropKind, draws: np.ndarray, height: int, width: int) -> CropDraws:
    """Return what `[N, DRAWS_PER_CROP]` numbers decide for a crop of each of N images of that size."""
    jittered = draws[:, JITTER_DRAW] < kind.jitter_fraction
    order = 1 + (draws[:, ORDER_DRAW] * (len(JITTER_ORDERS) - 1)).astype(np.int64)
    strengths = (0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1)
    factors = [_between(span, draws[:, BRIGHTNESS_DRAW + place]) for place, span in enumerate(strengths)]
    blurred = draws[:, BLUR_DRAW] < kind.blur_fraction
    return CropDraws(
        boxes=crop_boxes(kind.areas, draws, height, width),
        flipped=draws[:, FLIP_DRAW] < 0.5,
        order=np.where(jittered, order, 0),
        factors=np.stack(factors, axis=1).astype(np.float32),
        grey=draws[:, GREY_DRAW] < kind.grey_fraction,
        sigma=np.where(blurred, _between((0.1, 2.0), draws[:, SIGMA_DRAW]), 0).astype(np.float32),
        solarized=draws[:, SOLARIZE_DRAW] < kind.solarize_fraction,
    )


def crop_boxes(areas: tuple[float, float], draws: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return int64 `[N, 4]`, top, left, height and width, as torchvision's RandomResizedCrop draws them."""
    area = height * width * _between(areas, draws[:, AREA_DRAWS])
    ratio = np.exp(_between((math.log(MIN_RATIO), math.log(MAX_RATIO)), draws[:, RATIO_DRAWS]))
    widths, heights = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.argmax(axis=1)[:, None]
    sizes = np.hstack([np.take_along_axis(each, first, axis=1) for each in (heights, widths)])
    corners = np.floor(draws[:, [TOP_DRAW, LEFT_DRAW]] * ((height, width) - sizes + 1))
    drawn = np.hstack((corners, sizes)).astype(np.int64)
    return np.where(fits.any(axis=1, keepdims=True), drawn, central_box(height, width))


def central_box(height: int, width: int) -> tuple[int, int, int, int]:
    """Return the largest box in the middle whose ratio is allowed: where no drawn one fits."""
    box_width = min(width, round(height * MAX_RATIO))
    box_height = min(height, round(width / MIN_RATIO))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def make_crops(images_nhwc: torch.Tensor, drawn: CropDraws, size: int) -> torch.Tensor:
    """Return `[M, 3, size, size]`; crop m is of image `m % N`. Equal orders of jitter are done together."""
    crops = torch.empty(len(drawn.order), 3, size, size, device=images_nhwc.device)
    rows = np.argsort(drawn.order, kind="stable")
    step = _crops_at_once(images_nhwc, size)
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step]
        own = drawn[chunk]
        made = resample(images_nhwc, chunk % len(images_nhwc), own, size)
        jitter(made, own)
        _change(made, own.grey, grey)
        _change(made, own.sigma > 0, partial(blur, sigma=_on(made.device, own.sigma[own.sigma > 0])))
        _change(made, own.solarized, solarize)
        crops[_on(crops.device, chunk)] = made
    return crops


def resample(images_nhwc: torch.Tensor, numbers: np.ndarray, drawn: CropDraws, size: int) -> torch.Tensor:
    """Return boxes of the images of those numbers, `[M, 3, size, size]`, bicubic with antialias, some mirrored."""
    by_device = interpolate if images_nhwc.device.type == "cpu" else multiply
    return by_device(images_nhwc, numbers, drawn, size)


def interpolate(images_nhwc: torch.Tensor, numbers: np.ndarray, drawn: CropDraws, size: int) -> torch.Tensor:
    """Resample one by one in 8 bits, rounded and cut off after each axis as PIL does: torch's fast way on a CPU."""
    boxes = (
        images_nhwc[number, top : top + height, left : left + width].permute(2, 0, 1)[None]
        for number, (top, left, height, width) in zip(numbers.tolist(), drawn.boxes.tolist(), strict=True)
    )
    resized = [functional.interpolate(box, size=(size, size), mode="bicubic", antialias=True) for box in boxes]
    crops = torch.empty(len(resized), 3, size, size).copy_(torch.cat(resized)).div_(255)
    _change(crops, drawn.flipped, partial(torch.flip, dims=(3,)))
    return crops


def multiply(images_nhwc: torch.Tensor, numbers: np.ndarray, drawn: CropDraws, size: int) -> torch.Tensor:
    """Resample all at once on floats, as two products of matrices."""
    device = images_nhwc.device
    images = to_float(images_nhwc[_on(device, numbers)])
    top, left, height, width = _on(device, drawn.boxes.astype(np.float32)).unbind(1)
    rows = resampling_matrices(top, height, size, images.shape[2])
    columns = resampling_matrices(left, width, size, images.shape[3])
    columns = torch.where(_on(device, drawn.flipped).view(-1, 1, 1), columns.flip(1), columns)
    return (rows[:, None] @ images @ columns.mT[:, None]).clamp_(0, 1)


def resampling_matrices(starts: torch.Tensor, lengths: torch.Tensor, size: int, num_pixels: int) -> torch.Tensor:
    """Return `[M, size, num_pixels]`: what each pixel of a line gives to each of `size` pixels made of a part of it.

    Weights are torch's antialiased bicubic ones: Keys' cubic with a = -0.5, stretched when the part shrinks, cut off
    at the part's ends and brought to a sum of 1.
    """
    starts, lengths = starts.view(-1, 1, 1), lengths.view(-1, 1, 1)
    step = lengths / size
    centres = (torch.arange(size, device=starts.device) + 0.5).view(1, -1, 1) * step
    pixels = torch.arange(num_pixels, device=starts.device) + 0.5 - starts
    distance = ((pixels - centres) / step.clamp(min=1)).abs()
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, near, far) * ((distance < 2) & (pixels > 0) & (pixels < lengths))
    return weights / weights.sum(dim=2, keepdim=True)


def adjust_brightness(crops: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Multiply in place."""
    return crops.mul_(factors).clamp_(0, 1)


def adjust_contrast(crops: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Blend with the mean grey in place."""
    means = crops.mean(dim=(2, 3), keepdim=True)
    return crops.mul_(factors).add_(_grey_of(means).mul_(1 - factors)).clamp_(0, 1)


def adjust_saturation(crops: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Blend with each pixel's grey in place."""
    return torch.lerp(_grey_of(crops), crops, factors, out=crops).clamp_(0, 1)


def adjust_hue(crops: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Turn the hue in place by at most a sixth.

    With h the hue in sixths of a turn, red is `low + clamp(|h - 3| - 1, 0, 1) * (high - low)`; so are green and blue
    with 5 and 1 for 3. Kept times `high - low`, this needs no division and no conversion to HSV and back.
    """
    red, green, blue = crops.split(1, dim=1)
    high, low = torch.maximum(torch.maximum(red, green), blue), torch.minimum(torch.minimum(red, green), blue)
    chroma = high - low
    side = torch.cat((blue - green, red - blue, green - red), dim=1)
    rest = (high + chroma).sub_(red).sub_(green).sub_(blue)
    hue = crops.mul(2).add_(rest).copysign_(side).add_(chroma * (6 * turns))
    return torch.clamp(hue.abs_().add_(low - chroma), low, high, out=crops)


JITTERS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
"""In the order of `CropDraws.factors`."""


def jitter(crops: torch.Tensor, drawn: CropDraws) -> None:
    """Change the colours in place; crops with the same order lie side by side."""
    factors = _on(crops.device, drawn.factors)
    for start, end in _runs(drawn.order):
        for place in JITTER_ORDERS[drawn.order[start]]:
            JITTERS[place](crops[start:end], factors[start:end, place].view(-1, 1, 1, 1))


def grey(crops: torch.Tensor) -> torch.Tensor:
    """Return the crops without colour."""
    return _grey_of(crops).expand_as(crops)


def blur(crops: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Return each blurred by a Gaussian of its own deviation in pixels, cut off at `BLUR_RADIUS`, edges reflected."""
    num_planes = 3 * len(crops)
    offsets = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, device=crops.device)
    taps = torch.softmax(-0.5 * (offsets / sigma[:, None]) ** 2, dim=1).repeat_interleave(3, dim=0)
    planes = functional.pad(crops, (BLUR_RADIUS,) * 4, mode="reflect").flatten(0, 1)[None]
    planes = functional.conv2d(planes, taps.view(num_planes, 1, -1, 1), groups=num_planes)
    return functional.conv2d(planes, taps.view(num_planes, 1, 1, -1), groups=num_planes).view_as(crops)


def solarize(crops: torch.Tensor) -> torch.Tensor:
    """Return the crops with all values from 0.5 on inverted."""
    return torch.minimum(crops, 1 - crops)


def affine(images: torch.Tensor, degrees: torch.Tensor, shifts: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Turn clockwise by `degrees` and scale about the centre, then shift right and down by `[N, 2]` shares of the side.

    Bilinear; black where nothing was.
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


def _change(crops: torch.Tensor, chosen: np.ndarray, operation: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Replace the chosen crops by what the operation makes of them."""
    if chosen.any():
        rows = _on(crops.device, np.flatnonzero(chosen))
        crops[rows] = operation(crops[rows])


def _runs(values: np.ndarray) -> Iterator[tuple[int, int]]:
    """Return start and end of each run of equal values."""
    borders = np.flatnonzero(np.diff(values)) + 1
    return pairwise((0, *borders.tolist(), len(values)))


def _between(span: tuple[float, float], draws: np.ndarray) -> np.ndarray:
    """Return uniform numbers of the span for those of [0, 1)."""
    return span[0] + (span[1] - span[0]) * draws


def _concatenate(drawn: list[CropDraws]) -> CropDraws:
    return CropDraws(**{name: np.concatenate([getattr(each, name) for each in drawn]) for name in vars(drawn[0])})


def _crops_at_once(images_nhwc: torch.Tensor, size: int) -> int:
    if images_nhwc.device.type == "cpu":
        return max(1, CPU_CHUNK_BYTES // (4 * 3 * size**2))
    return max(1, GPU_CHUNK_BYTES // (4 * images_nhwc[0].numel()))


def _on(device: torch.device, values: np.ndarray) -> torch.Tensor:
    """Return the values there, without waiting for work that the device has still to do."""
    return torch.from_numpy(values).to(device, non_blocking=True)
