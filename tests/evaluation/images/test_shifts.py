"""Shifts of the real digits: what each shift does to an image, and what the shifted image depends on."""

import numpy as np
import pytest
from PIL import Image

from evaluation.images import shifts
from evaluation.images.shifts import SHIFTS, check_shift, erode, shift_image, shift_random, shifted_digits, texture
from generation.digits.real_digits import evaluation_digits

BLACK = np.zeros((32, 32, 3), dtype=np.uint8)

each_shift = pytest.mark.parametrize("name", SHIFTS)


def grey(rows: list[list[int]]) -> np.ndarray:
    """Return an image with these values in each of its three channels, uint8 [H, W, 3]."""
    return np.repeat(np.array(rows, dtype=np.uint8)[:, :, None], 3, axis=2)


def dot(row: int, column: int, value: int = 255) -> np.ndarray:
    """Return a black image with one pixel of another value."""
    image = BLACK.copy()
    image[row, column] = value
    return image


@each_shift
def test_shift_keeps_the_number_size_and_labels_of_images(name: str):
    images, labels = shifted_digits(name)
    assert images.shape == (540, 32, 32, 3)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(labels, evaluation_digits()[1])


@each_shift
def test_shift_is_deterministic(name: str):
    digits, _ = evaluation_digits()
    first, second = (np.stack([shift_image(name, digits[i], i) for i in range(8)]) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@each_shift
def test_shifted_image_does_not_depend_on_other_images(name: str):
    alone = shift_image(name, evaluation_digits()[0][539], 539)
    np.testing.assert_array_equal(alone, shifted_digits(name)[0][539])


@each_shift
def test_shift_does_not_modify_the_original(name: str):
    digit = evaluation_digits()[0][0]
    before = digit.copy()
    digit.flags.writeable = False
    assert (shift_image(name, digit, 0) != before).any()
    np.testing.assert_array_equal(digit, before)


@pytest.mark.parametrize("name", ["backgrounds", "noisy", "rotated"])
def test_random_shift_depends_on_the_position(name: str):
    digit = evaluation_digits()[0][0]
    assert (shift_image(name, digit, 0) != shift_image(name, digit, 1)).any()


@pytest.mark.parametrize("name", ["inverted", "blurred", "thinned"])
def test_shift_without_random_numbers_ignores_the_position(name: str):
    digit = evaluation_digits()[0][0]
    np.testing.assert_array_equal(shift_image(name, digit, 0), shift_image(name, digit, 1))


def test_shifts_use_different_random_numbers():
    assert shift_random("noisy", 3).random() != shift_random("rotated", 3).random()


def test_random_numbers_have_known_values():
    words = [int(shift_random(name, 0).bit_generator.random_raw()) for name in ("noisy", "rotated")]
    assert words == [6535822134556162905, 5538451775705414167]


def test_inversion_swaps_black_and_white():
    image = grey([[0, 255, 100]])
    assert shift_image("inverted", image, 0)[0, :, 1].tolist() == [255, 0, 155]


def test_full_ink_hides_the_background_and_no_ink_shows_it():
    image = BLACK.copy()
    image[:, :16] = 255
    field = texture(32, 32, shift_random("backgrounds", 5))
    shifted = shift_image("backgrounds", image, 5)
    assert (shifted[:, :16] == 255).all()
    np.testing.assert_array_equal(shifted[:, 16:], np.rint(field[:, 16:]))


def test_brightness_of_ink_is_its_opacity_over_the_background(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shifts, "texture", lambda height, width, random: np.full((height, width, 3), 100.0))
    assert shift_image("backgrounds", grey([[51]]), 0).ravel().tolist() == [51 + 80] * 3


def test_background_is_smooth_coloured_and_darker_than_ink():
    fields = np.stack([texture(32, 32, shift_random("backgrounds", position)) for position in range(50)])
    assert fields.min() >= 0
    assert 130 < fields.max() <= 144
    assert abs(np.diff(fields, axis=2)).max() < 144 / 4
    assert fields.std(axis=(1, 2)).min() > 10
    assert abs(fields[..., 0] - fields[..., 1]).mean() > 10


def test_noise_has_zero_mean_and_a_standard_deviation_of_96():
    image = np.full((32, 32, 3), 128, dtype=np.uint8)
    noisy = np.stack([shift_image("noisy", image, position) for position in range(40)])
    # quantiles of a normal distribution at -1, 0 and 1 standard deviations, which clipping does not change
    low, middle, high = np.quantile(noisy, [0.158655, 0.5, 0.841345])
    assert abs(middle - 128) <= 2
    assert abs((high - low) / 2 - 96) <= 2


def test_noise_differs_between_channels():
    noisy = shift_image("noisy", np.full((32, 32, 3), 128, dtype=np.uint8), 0)
    assert (noisy[..., 0] != noisy[..., 1]).mean() > 0.9


def test_blurred_dot_is_a_gaussian_with_sigma_2_5():
    blurred = shift_image("blurred", dot(16, 16), 0)
    offsets = np.arange(-15, 16)
    bell = np.exp(-(offsets**2) / (2 * 2.5**2))
    bell /= bell.sum()
    np.testing.assert_allclose(blurred[16, 1:32, 0], 255 * bell[15] * bell, atol=0.51)
    assert blurred[16, 16].tolist() == [6, 6, 6]  # 255 / (2 pi 2.5^2) = 6.49


def test_blur_keeps_an_image_of_one_color():
    image = np.full((32, 32, 3), [10, 120, 250], dtype=np.uint8)
    np.testing.assert_array_equal(shift_image("blurred", image, 0), image)


def test_rotation_matches_pil():
    digit = evaluation_digits()[0][7]
    degrees = -30 + 60 * shift_random("rotated", 7).random()
    expected = Image.fromarray(digit).rotate(degrees, Image.Resampling.BILINEAR, fillcolor=(0, 0, 0))
    np.testing.assert_array_equal(shift_image("rotated", digit, 7), np.asarray(expected))


def test_rotations_span_thirty_degrees_in_each_direction(monkeypatch: pytest.MonkeyPatch):
    angles: list[float] = []
    monkeypatch.setattr(Image.Image, "rotate", lambda image, degrees, _resample: angles.append(degrees) or image)
    for position in range(540):
        shift_image("rotated", BLACK, position)
    assert -30 <= min(angles) < -29
    assert 29 < max(angles) <= 30
    assert abs(np.mean(angles)) < 3


def test_rotation_fills_the_corners_with_black():
    white = np.full((32, 32, 3), 255, dtype=np.uint8)
    rotated = [i for i in range(20) if abs(-30 + 60 * shift_random("rotated", i).random()) > 10]
    assert len(rotated) > 5
    for position in rotated:
        image = shift_image("rotated", white, position)
        assert image[[0, 0, 31, 31], [0, 31, 0, 31]].max() == 0
        assert image[8:24, 8:24].min() == 255


def test_erosion_returns_the_darkest_value_in_a_diamond():
    image = np.full((7, 7, 3), 200, dtype=np.uint8)
    image[3, 3] = 10
    assert (erode(image)[:, :, 0] == 10).astype(int).tolist() == [
        [0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0, 0],
        [0, 0, 1, 1, 1, 0, 0],
        [0, 1, 1, 1, 1, 1, 0],
        [0, 0, 1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0],
    ]


def test_erosion_never_adds_ink():
    for digit in evaluation_digits()[0]:
        assert (erode(digit) <= digit).all()


def test_thinned_stroke_is_the_middle_of_the_stroke_in_white():
    stroke = [0, 0, 90, 90, 90, 90, 90, 90, 90, 0, 0]
    thin = shift_image("thinned", grey([stroke] * 9), 0)
    assert thin[4, :, 0].tolist() == [0, 0, 0, 0, 255, 255, 255, 0, 0, 0, 0]


def test_stroke_that_reaches_the_border_is_not_shortened():
    stroke = [0, 0, 255, 255, 255, 255, 255, 0, 0]
    assert shift_image("thinned", grey([stroke] * 9), 0)[:, 4, 0].tolist() == [255] * 9


def test_thinning_keeps_a_black_image():
    np.testing.assert_array_equal(shift_image("thinned", BLACK, 0), BLACK)


def test_every_thinned_digit_has_white_ink():
    assert (shifted_digits("thinned")[0].max(axis=(1, 2, 3)) == 255).all()


def test_unknown_shift_is_refused_with_the_nearest_names():
    with pytest.raises(ValueError, match=r"no shift 'blured'\. Did you mean blurred"):
        shifted_digits("blured")


def test_unrelated_shift_name_is_refused_with_all_names():
    with pytest.raises(ValueError, match="inverted or backgrounds or noisy or blurred or rotated or thinned"):
        check_shift("xyzxyz")
