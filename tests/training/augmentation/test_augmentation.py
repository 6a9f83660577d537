"""Operations compared with torchvision image by image; random parameters with their distributions."""

from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate as torch_interpolate
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

import training.augmentation.crops
from generation.random_streams import draws
from training.augmentation import operations
from training.augmentation.augmentation import Augmentation, Normalize, RandomCrops, build_augmentation, make_crops
from training.augmentation.crops import (
    DRAWS_PER_CROP,
    JITTER_ORDERS,
    CropDraws,
    CropKind,
    central_boxes,
    crop_boxes,
    draw_crops,
)
from training.augmentation.operations import to_float
from training.config import TrainingConfig

BICUBIC = v2.InterpolationMode.BICUBIC
FLOAT_TOLERANCE = 1e-5
TWO_ROUNDINGS = 1.2 / 255
"""Half a level of an 8-bit image after each axis; cubic weights enlarge the first by up to about a fifth."""

NAMES = ("none", "crop_flip", "affine", "multi_crop", "multi_crop_two_global")
GLOBAL = CropKind(32, (0.25, 1.0), jitter_fraction=0.8, grey_fraction=0.2, blur_fraction=0.3, solarize_fraction=0.4)


def extents(num_images: int, height: int = 48, width: int = 48) -> np.ndarray:
    """Return heights and widths of images that fill their arrays."""
    return np.tile((height, width), (num_images, 1))


def augmentation(name: str) -> Augmentation:
    """Return the augmentation of 48 px images with 32 px crops and 3 local crops of 16 px."""
    config = TrainingConfig(augmentation=cast(Any, name), crop_size=32, num_local_crops=3, local_crop_size=16)
    return build_augmentation(config, 48)


def photos(count: int, height: int = 48, width: int = 48) -> torch.Tensor:
    """Return uint8 [N, H, W, 3]: smooth colors with sharp edges, including black, white and gray."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    smooth = torch_interpolate(coarse, size=(height, width), mode="bicubic") * 2 - 0.5
    smooth[:, :, :8, :8] = smooth[:, :1, :8, :8]
    smooth[:, :, 20:24] = 1 - smooth[:, :, 20:24]
    return smooth.clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).contiguous()


def some_draws(count: int, augmented: Augmentation) -> np.ndarray:
    return draws(5, np.arange(count), np.zeros(count, dtype=np.int64), augmented.num_draws)


def numbers(count: int, num_draws: int = DRAWS_PER_CROP) -> np.ndarray:
    return draws(5, np.arange(count), np.zeros(count, dtype=np.int64), num_draws)


def column(values: list[float]) -> torch.Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1)


def test_to_float_is_channels_first_in_0_to_1():
    images = torch.zeros(1, 2, 3, 3, dtype=torch.uint8)
    images[0, 1, 2, 0] = 255
    floats = to_float(images)
    assert floats.shape == (1, 3, 2, 3)
    assert floats[0, 0, 1, 2] == 1.0
    assert floats.sum() == 1.0


def test_normalize_maps_mean_to_zero_and_one_deviation_to_one():
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    torch.testing.assert_close(Normalize()(mean), torch.zeros(1, 3, 1, 1))
    torch.testing.assert_close(Normalize()(mean + std), torch.ones(1, 3, 1, 1))


@pytest.mark.parametrize("module", [Normalize(), *map(augmentation, NAMES)])
def test_augmentation_has_no_parameters_or_state(module: torch.nn.Module):
    assert not list(module.parameters())
    assert not module.state_dict()


def test_no_augmentation_returns_the_image():
    (images,) = augmentation("none")(photos(2), np.empty((2, 0)))
    assert torch.equal(images, to_float(photos(2)))


@pytest.mark.parametrize(
    ("name", "num_crops", "shapes"),
    [
        ("none", 1, [(4, 3, 48, 48)]),
        ("affine", 1, [(4, 3, 48, 48)]),
        ("crop_flip", 1, [(4, 3, 32, 32)]),
        ("multi_crop", 4, [(4, 3, 32, 32), (12, 3, 16, 16)]),
        ("multi_crop_two_global", 5, [(8, 3, 32, 32), (12, 3, 16, 16)]),
    ],
)
def test_number_and_sizes_of_crops(name: str, num_crops: int, shapes: list[tuple[int, ...]]):
    augmented = augmentation(name)
    crops = augmented(photos(4), some_draws(4, augmented))
    assert augmented.num_crops == num_crops
    assert [tuple(each.shape) for each in crops] == shapes
    assert all(each.dtype == torch.float32 and each.min() >= 0 and each.max() <= 1 for each in crops)


def test_default_crop_size_is_image_size():
    config = TrainingConfig(augmentation="crop_flip", num_local_crops=3, local_crop_size=16)
    augmented = build_augmentation(config, 48)
    assert augmented(photos(1), some_draws(1, augmented))[0].shape == (1, 3, 48, 48)


def test_crops_are_ordered_crop_by_crop():
    values = torch.tensor([10, 20, 30], dtype=torch.uint8)
    plain = RandomCrops((CropKind(8, (0.25, 1.0)), CropKind(8, (0.05, 0.25))))
    (crops,) = plain(values.view(3, 1, 1, 1).expand(3, 16, 16, 3), some_draws(3, plain))
    torch.testing.assert_close(crops[:, 0, 0, 0] * 255, values.float().repeat(2))


@pytest.mark.parametrize("name", ["crop_flip", "affine", "multi_crop", "multi_crop_two_global"])
def test_each_image_and_use_has_different_crops(name: str):
    augmented = augmentation(name)
    same = photos(1).expand(4, -1, -1, -1)
    uses = draws(5, np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), augmented.num_draws)
    for crops in augmented(same, uses):
        for crop in crops.split(4):
            assert all(not torch.allclose(crop[i], crop[j]) for i in range(4) for j in range(i))


@pytest.mark.parametrize("name", NAMES)
def test_crops_do_not_depend_on_batch(name: str):
    augmented = augmentation(name)
    images, drawn = photos(40), some_draws(40, augmented)
    together = augmented(images, drawn)
    for row in (0, 17, 39):
        alone = augmented(images[row : row + 1], drawn[row : row + 1])
        for crops, own in zip(together, alone, strict=True):
            torch.testing.assert_close(own, crops[row::40], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["crop_flip", "multi_crop"])
def test_padding_does_not_change_crops(name: str):
    augmented, alone = augmentation(name), photos(8, 30, 40)
    drawn = some_draws(8, augmented)
    in_corner = torch.full((8, 48, 48, 3), 255, dtype=torch.uint8)
    in_corner[:, :30, :40] = alone
    for crops, own in zip(augmented(in_corner, drawn, extents(8, 30, 40)), augmented(alone, drawn), strict=True):
        assert torch.equal(crops, own)


def test_matrix_resampling_ignores_padding():
    alone, drawn = photos(8, 30, 40), draw_crops(GLOBAL, numbers(8), extents(8, 30, 40))
    in_corner = torch.full((8, 48, 48, 3), 255, dtype=torch.uint8)
    in_corner[:, :30, :40] = alone
    made = [operations.multiply(images, np.arange(8), drawn, 32, "bicubic") for images in (in_corner, alone)]
    torch.testing.assert_close(*made)


@pytest.mark.parametrize("name", NAMES)
def test_crops_do_not_depend_on_global_random_state(name: str):
    augmented = augmentation(name)
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        made.append(augmented(photos(8), some_draws(8, augmented)))
    assert all(torch.equal(first, second) for first, second in zip(*made, strict=True))


def test_mixed_precision_changes_nothing():
    augmented = augmentation("multi_crop")
    plain = augmented(photos(4), some_draws(4, augmented))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = augmented(photos(4), some_draws(4, augmented))
    assert all(torch.equal(first, second) for first, second in zip(plain, mixed, strict=True))


def test_input_images_are_not_modified():
    augmented = augmentation("multi_crop")
    images = photos(8)
    augmented(images, some_draws(8, augmented))
    assert torch.equal(images, photos(8))


FACTORS = [0.6, 0.93, 1.0, 1.4]
TURNS = [-0.1, -0.03, 0.0, 0.1]


@pytest.mark.parametrize(
    ("ours", "torchvisions", "factors"),
    [
        (operations.adjust_brightness, reference.adjust_brightness, FACTORS),
        (operations.adjust_contrast, reference.adjust_contrast, FACTORS),
        (operations.adjust_saturation, reference.adjust_saturation, FACTORS),
        (operations.adjust_hue, reference.adjust_hue, TURNS),
        (operations.adjust_hue, reference.adjust_hue, [-1 / 6, 1 / 6, 0.16, -0.12]),
    ],
)
def test_color_operations_match_torchvision(ours, torchvisions, factors: list[float]):
    images = to_float(photos(4))
    expected = [torchvisions(image, factor) for image, factor in zip(images, factors, strict=True)]
    torch.testing.assert_close(
        ours(images.clone(), column(factors)), torch.stack(expected), rtol=0, atol=FLOAT_TOLERANCE
    )


def test_hue_shift_turns_red_orange_and_keeps_gray():
    red_and_grey = torch.tensor([[1.0, 0.0, 0.0], [0.4, 0.4, 0.4]]).view(2, 3, 1, 1)
    turned = operations.adjust_hue(red_and_grey.clone(), column([1 / 12, 1 / 12])).view(2, 3)
    torch.testing.assert_close(turned, torch.tensor([[1.0, 0.5, 0.0], [0.4, 0.4, 0.4]]))


def test_grayscale_matches_torchvision():
    images = to_float(photos(3))
    torch.testing.assert_close(
        operations.grey(images), reference.rgb_to_grayscale(images, 3), rtol=0, atol=FLOAT_TOLERANCE
    )


def test_solarize_inverts_values_from_one_half():
    values = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]).view(1, 1, 1, 5)
    assert operations.solarize(values).flatten().tolist() == [0.0, 0.25, 0.5, 0.25, 0.0]
    images = to_float(photos(3))
    assert torch.equal(operations.solarize(images), reference.solarize(images, 0.5))


def test_blur_uses_sigma_per_image():
    images, sigma = to_float(photos(4)), [0.1, 0.5, 1.1, 2.0]
    expected = [reference.gaussian_blur(image, [13, 13], [own, own]) for image, own in zip(images, sigma, strict=True)]
    blurred = operations.blur(images, torch.tensor(sigma))
    torch.testing.assert_close(blurred, torch.stack(expected), rtol=0, atol=FLOAT_TOLERANCE)


def test_affine_uses_parameters_per_image():
    images = to_float(photos(4))
    degrees, scales = [-8.0, 8.0, 3.0, 0.0], [0.9, 1.1, 1.0, 1.0]
    shifts = [[0.06, -0.06], [-0.05, 0.01], [0.0, 0.0], [0.0, 0.06]]
    expected = [
        reference.affine(
            image, degree, [48 * share for share in shift], scale, [0.0, 0.0], v2.InterpolationMode.BILINEAR
        )
        for image, degree, shift, scale in zip(images, degrees, shifts, scales, strict=True)
    ]
    moved = operations.affine(images, torch.tensor(degrees), torch.tensor(shifts), torch.tensor(scales))
    torch.testing.assert_close(moved, torch.stack(expected), rtol=0, atol=1e-4)


def drawn_boxes(boxes: list[list[int]], flipped: list[bool]) -> CropDraws:
    """Return crop parameters with these boxes and flips, and no color operations."""
    nothing = np.zeros(len(boxes), dtype=np.int64)
    return CropDraws(
        boxes=np.array(boxes),
        flipped=np.array(flipped),
        order=nothing,
        factors=np.ones((len(boxes), 4), dtype=np.float32),
        grey=nothing > 0,
        sigma=nothing.astype(np.float32),
        solarized=nothing > 0,
    )


BOXES = [[0, 0, 40, 60], [3, 11, 31, 25], [17, 5, 9, 12], [20, 30, 20, 30], [39, 59, 1, 1]]
"""Top, left, height and width in images of 40 by 60: downscaled, slightly downscaled, upscaled."""

FLIPPED = [False, True, False, True, True]


@pytest.mark.parametrize("size", [32, 64])
def test_center_crop_matches_torchvision(size: int):
    images = to_float(photos(2, 64, 64))
    resized = reference.resize(images, [round(size * 256 / 224)], antialias=True)
    torch.testing.assert_close(operations.center_crop(images, size), reference.center_crop(resized, [size]))


MODES = {"bilinear": v2.InterpolationMode.BILINEAR, "bicubic": v2.InterpolationMode.BICUBIC}


@pytest.mark.parametrize("mode", MODES)
def test_cpu_resampling_equals_torchvision_in_8_bits(mode: operations.Interpolation):
    images, drawn = photos(5, 40, 60), drawn_boxes(BOXES, FLIPPED)
    resampled = operations.interpolate(images, np.arange(5), drawn, 24, mode)
    for image, box, flipped, own in zip(images.permute(0, 3, 1, 2), BOXES, FLIPPED, resampled, strict=True):
        expected = reference.resized_crop(image, *box, size=[24, 24], interpolation=MODES[mode], antialias=True)
        assert torch.equal((own * 255).round().byte(), expected.flip(2) if flipped else expected)


@pytest.mark.parametrize("mode", MODES)
def test_matrix_resampling_matches_torchvision_on_floats(mode: operations.Interpolation):
    images, drawn = photos(5, 40, 60), drawn_boxes(BOXES, FLIPPED)
    resampled = operations.multiply(images, np.arange(5), drawn, 24, mode)
    for image, box, flipped, own in zip(to_float(images), BOXES, FLIPPED, resampled, strict=True):
        crop = reference.resized_crop(image, *box, size=[24, 24], interpolation=MODES[mode], antialias=True)
        expected = crop.clamp(0, 1)
        torch.testing.assert_close(own, expected.flip(2) if flipped else expected, rtol=0, atol=FLOAT_TOLERANCE)


def test_both_resampling_methods_differ_by_two_roundings():
    soft = photos(8) // 2 + 64  # between 64 and 191, so that 8 bits do not clip overshoots
    drawn = draw_crops(GLOBAL, numbers(32), extents(32))
    by_interpolation, by_matrices = (
        way(soft, np.arange(32) % 8, drawn, 32, "bicubic") for way in (operations.interpolate, operations.multiply)
    )
    torch.testing.assert_close(by_interpolation, by_matrices, rtol=0, atol=TWO_ROUNDINGS)


def test_both_resampling_methods_differ_little_at_black_and_white():
    drawn = draw_crops(GLOBAL, numbers(32), extents(32))
    by_interpolation, by_matrices = (
        way(photos(8), np.arange(32) % 8, drawn, 32, "bicubic") for way in (operations.interpolate, operations.multiply)
    )
    difference = (by_interpolation - by_matrices).abs()
    assert (difference > TWO_ROUNDINGS).float().mean() < 0.01
    assert difference.max() < 0.05


def chain(image: torch.Tensor, drawn: CropDraws, row: int, size: int) -> torch.Tensor:
    """Return crop `row` of a uint8 [3, H, W] image, computed by torchvision's functions in sequence."""
    box = drawn.boxes[row].tolist()
    crop = reference.resized_crop(image, *box, size=[size, size], interpolation=BICUBIC, antialias=True)
    crop = crop.flip(2).float() / 255 if drawn.flipped[row] else crop.float() / 255
    adjust = (reference.adjust_brightness, reference.adjust_contrast, reference.adjust_saturation, reference.adjust_hue)
    for place in JITTER_ORDERS[drawn.order[row]]:
        crop = adjust[place](crop, float(drawn.factors[row, place]))
    crop = reference.rgb_to_grayscale(crop, 3) if drawn.grey[row] else crop
    sigma = float(drawn.sigma[row])
    crop = reference.gaussian_blur(crop, [13, 13], [sigma, sigma]) if sigma else crop
    return reference.solarize(crop, 0.5) if drawn.solarized[row] else crop


def test_batched_crops_match_torchvision_one_by_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("training.augmentation.augmentation.CPU_CHUNK_BYTES", 70 * 3 * 32**2 * 4)
    images = photos(50)
    drawn = draw_crops(GLOBAL, numbers(200), extents(200))
    expected = [chain(images[row % 50].permute(2, 0, 1), drawn, row, 32) for row in range(200)]
    assert set(drawn.order) == set(range(len(JITTER_ORDERS)))
    torch.testing.assert_close(
        make_crops(images, drawn, 32, "bicubic"), torch.stack(expected), rtol=0, atol=FLOAT_TOLERANCE
    )


def draws_of(**places: float) -> np.ndarray:
    """Return the draws of one crop, 0.5 except for the given constants' columns."""
    row = np.full((1, DRAWS_PER_CROP), 0.5)
    for name, value in places.items():
        row[:, getattr(training.augmentation.crops, name)] = value
    return row


def test_box_follows_from_draws():
    # Half of 100 x 200 is 100 x 100; of 1 and 101 positions, draws of 0.9 and 0.5 select number 0 and number 50.
    half = draws_of(AREA_DRAWS=1 / 3, TOP_DRAW=0.9, LEFT_DRAW=0.5)
    assert crop_boxes((0.25, 1.0), half, extents(1, 100, 200)).tolist() == [[0, 50, 100, 100]]


def test_first_box_that_fits_is_used():
    tries = draws_of(AREA_DRAWS=1 - 1e-9, TOP_DRAW=0.0, LEFT_DRAW=0.0)
    tries[0, 3], tries[0, 7] = 1 / 3, 0.0  # 141 x 141 does not fit; the fourth try is 100 x 100, the eighth 71 x 71
    assert crop_boxes((0.25, 1.0), tries, extents(1, 100, 200)).tolist() == [[0, 0, 100, 100]]


def test_fallback_is_largest_central_box():
    whole = draws_of(AREA_DRAWS=1 - 1e-9)
    assert crop_boxes((0.25, 1.0), whole, extents(1, 40, 10)).tolist() == [[13, 0, 13, 10]]
    assert crop_boxes((0.25, 1.0), whole, extents(1, 10, 40)).tolist() == [[0, 13, 10, 13]]
    assert central_boxes(extents(1)).tolist() == [[0, 0, 48, 48]]


@pytest.mark.parametrize(("height", "width"), [(256, 256), (31, 97), (97, 31), (3, 3)])
@pytest.mark.parametrize("areas", [(0.05, 0.25), (0.25, 1.0), (0.999, 1.0)])
def test_boxes_are_not_empty_and_inside_the_image(areas: tuple[float, float], height: int, width: int):
    top, left, box_height, box_width = crop_boxes(areas, numbers(2000), extents(2000, height, width)).T
    assert min(top.min(), left.min()) == 0
    assert min(box_height.min(), box_width.min()) >= 1
    assert (top + box_height).max() <= height
    assert (left + box_width).max() <= width


@pytest.mark.parametrize("areas", [(0.05, 0.25), (0.25, 1.0), (0.08, 1.0)])
def test_boxes_are_distributed_as_in_torchvision(areas: tuple[float, float]):
    torch.manual_seed(0)
    image = torch.empty(3, 200, 240)
    crop = v2.RandomResizedCrop(1, areas)
    theirs = np.array([list(crop.make_params([image]).values()) for _ in range(4000)], dtype=float)
    ours = crop_boxes(areas, numbers(4000), extents(4000, 200, 240)).astype(float)
    for statistic in (box_area, box_log_ratio, box_centre_down, box_centre_right):
        first, second = statistic(ours), statistic(theirs)
        deviation = second.std() * (2 / 4000) ** 0.5  # of the difference of two means
        assert abs(first.mean() - second.mean()) < 4 * deviation
        assert first.std() == pytest.approx(second.std(), rel=0.05)


def box_area(boxes: np.ndarray) -> np.ndarray:
    return boxes[:, 2] * boxes[:, 3] / (200 * 240)


def box_log_ratio(boxes: np.ndarray) -> np.ndarray:
    return np.log(boxes[:, 3] / boxes[:, 2])


def box_centre_down(boxes: np.ndarray) -> np.ndarray:
    return boxes[:, 0] + boxes[:, 2] / 2


def box_centre_right(boxes: np.ndarray) -> np.ndarray:
    return boxes[:, 1] + boxes[:, 3] / 2


def assert_share(chosen: np.ndarray, probability: float) -> None:
    """Fail if the fraction deviates by more than four standard deviations."""
    deviation = (probability * (1 - probability) / len(chosen)) ** 0.5
    assert abs(chosen.mean() - probability) <= 4 * deviation


def kinds_of(name: str) -> tuple[CropKind, ...]:
    return cast(RandomCrops, augmentation(name)).kinds


@pytest.mark.parametrize(
    ("kind", "blur_fraction", "solarize_fraction"),
    [
        (kinds_of("multi_crop")[0], 0.2, 0.2),
        (kinds_of("multi_crop")[1], 0.5, 0.0),
        (kinds_of("multi_crop_two_global")[0], 1.0, 0.0),
        (kinds_of("multi_crop_two_global")[1], 0.1, 0.2),
        (kinds_of("multi_crop_two_global")[4], 0.5, 0.0),
    ],
)
def test_operation_frequencies_match_the_paper(kind: CropKind, blur_fraction: float, solarize_fraction: float):
    drawn = draw_crops(kind, numbers(4000), extents(4000))
    assert_share(drawn.flipped, 0.5)
    assert_share(drawn.order > 0, 0.8)
    assert_share(drawn.grey, 0.2)
    assert_share(drawn.sigma > 0, blur_fraction)
    assert_share(drawn.solarized, solarize_fraction)
    for order in range(1, 25):
        assert_share(drawn.order == order, 0.8 / 24)


def test_strengths_are_uniform_in_the_papers_range():
    drawn = draw_crops(kinds_of("multi_crop_two_global")[0], numbers(4000), extents(4000))
    uniform = np.column_stack((drawn.factors, drawn.sigma))
    low, high = np.array([0.6, 0.6, 0.8, -0.1, 0.1]), np.array([1.4, 1.4, 1.2, 0.1, 2.0])
    shares = (uniform - low) / (high - low)
    assert shares.min() >= -1e-6
    assert shares.max() <= 1 + 1e-6
    np.testing.assert_allclose(shares.mean(axis=0), 0.5, atol=0.02)  # four standard deviations are 0.018
    np.testing.assert_allclose((shares < 0.25).mean(axis=0), 0.25, atol=0.03)


def test_crop_areas_are_published_defaults_or_settings():
    assert [kind.areas for kind in kinds_of("multi_crop")[:2]] == [(0.25, 1.0), (0.05, 0.25)]  # t-ReX
    assert [kind.areas for kind in kinds_of("multi_crop_two_global")[1:3]] == [(0.4, 1.0), (0.05, 0.4)]  # DINO
    config = TrainingConfig(augmentation="multi_crop", crop_scale=(0.3, 0.9), local_crop_scale=(0.1, 0.3))
    given = cast(RandomCrops, build_augmentation(config, 48))
    assert [kind.areas for kind in given.kinds[:2]] == [(0.3, 0.9), (0.1, 0.3)]


def test_interpolation_modes_match_their_sources():
    assert cast(RandomCrops, augmentation("crop_flip")).mode == "bilinear"
    assert cast(RandomCrops, augmentation("multi_crop")).mode == "bicubic"


def test_crop_flip_does_not_change_colors():
    (kind,) = kinds_of("crop_flip")
    drawn = draw_crops(kind, numbers(4000), extents(4000))
    areas = drawn.boxes[:, 2] * drawn.boxes[:, 3] / 48**2
    assert 0.07 < areas.min() < 0.1
    assert_share(drawn.flipped, 0.5)
    assert not drawn.order.any()
    assert not drawn.grey.any()
    assert not drawn.sigma.any()
    assert not drawn.solarized.any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_gpu_makes_the_same_crops_without_synchronization(name: str):
    augmented = augmentation(name)
    images, drawn = photos(64), some_draws(64, augmented)
    on_gpu, expected = images.cuda(), augmented(images, drawn)
    augmented(on_gpu, drawn)
    torch.cuda.set_sync_debug_mode("error")
    try:
        made = augmented(on_gpu, drawn)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for crops, on_cpu in zip(made, expected, strict=True):
        difference = (crops.cpu() - on_cpu).abs()
        assert (difference < 4 * TWO_ROUNDINGS).float().mean() > 0.98
        assert difference.mean() < TWO_ROUNDINGS
