"""Compare multi-crop augmentation with torchvision's transforms on a CPU: `python -m benchmarks.augment`.

The references work like a data loader's worker: one image and one crop at a time. They differ in when they convert
uint8 to float: at the start, after the resized crop, or at the end. Our implementation and the references take turns on
the same images with the same number of threads; each returns float crops in 0..1, one tensor per size. Prints median
rates. Exit status 1 if our rate, as a multiple of the fastest reference's, is below its floor in
`benchmarks/floors.toml`.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Literal, cast

import numpy as np
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from benchmarks.floors import below_floor, floors_of
from generation.random_streams import draws
from ray_jobs.cli.errors import user_errors
from ray_jobs.job.tables import print_table
from training.augmentation import operations
from training.augmentation.augmentation import RandomCrops, build_augmentation
from training.augmentation.crops import DRAWS_PER_CROP, CropKind, draw_crops
from training.augmentation.operations import to_float
from training.config import TrainingConfig

Sizes = tuple[int, int, int]
"""Sides in pixels of an image, a global crop and a local crop."""

SIZES: tuple[Sizes, ...] = ((256, 224, 96), (64, 64, 32))

NUM_IMAGES = 64
NUM_LOCAL_CROPS = 8
NUM_THREADS = 2
NUM_ROUNDS = 7

KERNEL = [2 * operations.BLUR_RADIUS + 1] * 2
BICUBIC = v2.InterpolationMode.BICUBIC

Implementations = Mapping[str, Callable[[], object]]
"""Our implementation (`ours`) and the references, by name. Each call processes `NUM_IMAGES` images."""

Stage = Literal["first", "after the crop", "last"]
"""When a reference converts uint8 to float."""

STAGES: tuple[Stage, ...] = ("first", "after the crop", "last")


def main() -> None:
    """For each entry of `SIZES`, measure the augmentation, then single operations on local crops; print a table."""
    with user_errors():
        floors = floors_of("augment")
    torch.set_num_threads(NUM_THREADS)
    rows: list[list[str]] = []
    measured = {}
    for sizes in SIZES:
        images_nhwc, augmentation = random_images(sizes), multi_crop(*sizes)
        measured[title(sizes)] = measure(rows, title(sizes), all_crops(images_nhwc, augmentation))
        for name, implementations in each_operation(images_nhwc, augmentation.kinds[-1]).items():
            measure(rows, f"{sizes[-1]} px, {name}", implementations)
    print_table("", ("crops", "implementation", "images/s", "ratio"), rows, text=("crops", "implementation"))
    if missed := below_floor(measured, floors):
        sys.exit(f"The speed-up over torchvision is below its floor for {', '.join(missed)}.")


def ratios() -> dict[str, float]:
    """Measure the augmentation for each entry of `SIZES`; return its speed-up over the fastest reference, by title."""
    torch.set_num_threads(NUM_THREADS)
    return {
        title(sizes): measure([], title(sizes), all_crops(random_images(sizes), multi_crop(*sizes))) for sizes in SIZES
    }


def title(sizes: Sizes) -> str:
    """Return the name under which the ratio for these sizes is printed and has its floor."""
    image_size, crop_size, local_crop_size = sizes
    return f"{image_size} px to {crop_size} and {NUM_LOCAL_CROPS} x {local_crop_size} px"


def random_images(sizes: Sizes) -> torch.Tensor:
    """Return images of random pixels, uint8 [N, H, W, 3]."""
    return torch.randint(256, (NUM_IMAGES, sizes[0], sizes[0], 3), dtype=torch.uint8)


def multi_crop(image_size: int, crop_size: int, local_crop_size: int) -> RandomCrops:
    """Return the augmentation of arXiv 2212.08420 for these sizes."""
    config = TrainingConfig(
        augmentation="multi_crop",
        crop_size=crop_size,
        num_local_crops=NUM_LOCAL_CROPS,
        local_crop_size=local_crop_size,
    )
    return cast(RandomCrops, build_augmentation(config, image_size))


def all_crops(images_nhwc: torch.Tensor, augmentation: RandomCrops) -> Implementations:
    """Return the implementations of the whole augmentation; `ours` draws new parameters in each call."""
    indices, uses = np.arange(NUM_IMAGES), count()

    def ours() -> object:
        numbers = draws(0, indices, np.full(NUM_IMAGES, next(uses)), augmentation.num_draws)
        return augmentation(images_nhwc, numbers)

    references = {
        f"torchvision, floats {stage}": partial(one_by_one, images_nhwc, augmentation.kinds, stage) for stage in STAGES
    }
    return {"ours": ours, **references}


def one_by_one(images_nhwc: torch.Tensor, kinds: Sequence[CropKind], stage: Stage) -> list[torch.Tensor]:
    """Return the crops that torchvision's transforms make of one image after the other, one tensor per size."""
    images = to_float(images_nhwc) if stage == "first" else images_nhwc.permute(0, 3, 1, 2).contiguous()
    by_size: dict[int, list[torch.Tensor]] = {}
    for kind in kinds:
        transform = torchvision_transform(kind, stage)
        by_size.setdefault(kind.size, []).extend(transform(image) for image in images)
    return [torch.stack(crops) for crops in by_size.values()]


def torchvision_transform(kind: CropKind, stage: Stage) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the torchvision transform of one image that makes a crop of this kind."""
    to_floats = v2.ToDtype(torch.float32, scale=True)
    crop = [v2.RandomResizedCrop(kind.size, kind.areas, interpolation=BICUBIC), v2.RandomHorizontalFlip()]
    colours = [
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], kind.jitter_fraction),
        v2.RandomGrayscale(kind.grey_fraction),
        v2.RandomApply([v2.GaussianBlur(KERNEL, (0.1, 2.0))], kind.blur_fraction),
        v2.RandomSolarize(128 if stage == "last" else 0.5, kind.solarize_fraction),
    ]
    return v2.Compose([*crop, *colours, to_floats] if stage == "last" else [*crop, to_floats, *colours])


def each_operation(images_nhwc: torch.Tensor, kind: CropKind) -> dict[str, Implementations]:
    """Return the implementations of each operation, by name.

    `crop and flip` works on the images, and torchvision draws its own boxes. The other operations work on random crops,
    and all implementations use the same fixed parameter.
    """
    images, numbers = to_float(images_nhwc), np.arange(NUM_IMAGES)
    drawn = draw_crops(kind, draws(0, numbers, numbers, DRAWS_PER_CROP), np.tile(images.shape[2:], (NUM_IMAGES, 1)))
    return {
        "crop and flip": {
            "ours": lambda: operations.resample(images_nhwc, numbers, drawn, kind.size, "bicubic"),
            "torchvision": partial(one_by_one, images_nhwc, [CropKind(kind.size, kind.areas)], "after the crop"),
        },
        "brightness": operation(kind.size, operations.adjust_brightness, functional.adjust_brightness, 1.2),
        "contrast": operation(kind.size, operations.adjust_contrast, functional.adjust_contrast, 1.2),
        "saturation": operation(kind.size, operations.adjust_saturation, functional.adjust_saturation, 1.2),
        "hue": operation(kind.size, operations.adjust_hue, functional.adjust_hue, 0.05),
        "blur": operation(
            kind.size,
            lambda crops, sigmas: operations.blur(crops, sigmas.flatten()),
            lambda crop, sigma: functional.gaussian_blur(crop, KERNEL, [sigma, sigma]),
            1.0,
        ),
    }


def operation(
    size: int,
    ours: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    torchvisions: Callable[[torch.Tensor, float], torch.Tensor],
    parameter: float,
) -> Implementations:
    """Return the implementations of an operation on float crops; `ours` gets a copy, because it may work in place."""
    crops, parameters = torch.rand(NUM_IMAGES, 3, size, size), torch.full((NUM_IMAGES, 1, 1, 1), parameter)
    return {
        "ours": lambda: ours(crops.clone(), parameters),
        "torchvision": lambda: torch.stack([torchvisions(crop, parameter) for crop in crops]),
    }


def measure(rows: list[list[str]], title: str, implementations: Implementations) -> float:
    """Time the implementations in turns and append their median rates to `rows`.

    Return our rate as a multiple of the fastest reference's.
    """
    seconds: dict[str, list[float]] = {name: [] for name in implementations}
    for _ in range(1 + NUM_ROUNDS):
        for name, make in implementations.items():
            started_at = time.perf_counter()
            make()
            seconds[name].append(time.perf_counter() - started_at)
    rates = {name: NUM_IMAGES / float(np.median(taken[1:])) for name, taken in seconds.items()}
    ratio = rates["ours"] / max(rate for name, rate in rates.items() if name != "ours")
    for name, rate in rates.items():
        rows.append([title, name, f"{rate:,.0f}", f"{ratio:.2f}" if name == "ours" else ""])
    return ratio


if __name__ == "__main__":
    main()
