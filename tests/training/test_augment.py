import pytest
import torch

from training.augment import build_augmentation, normalize, to_float


def test_pixels_become_channels_first_in_0_to_1():
    images = torch.zeros(1, 2, 3, 3, dtype=torch.uint8)
    images[0, 1, 2, 0] = 255
    floats = to_float(images)
    assert floats.shape == (1, 3, 2, 3)
    assert floats[0, 0, 1, 2] == 1.0
    assert floats.sum() == 1.0


def test_imagenets_mean_becomes_zero_and_one_deviation_more_becomes_one():
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    torch.testing.assert_close(normalize()(mean), torch.zeros(1, 3, 1, 1))
    torch.testing.assert_close(normalize()(mean + std), torch.ones(1, 3, 1, 1))


@pytest.mark.parametrize("name", ["crop_flip", "affine"])
def test_each_image_of_a_batch_draws_its_own_parameters(name: str):
    torch.manual_seed(0)
    image = torch.rand(1, 3, 32, 32)
    crops = build_augmentation(name, 32)(image.repeat(4, 1, 1, 1))
    assert crops.shape == (4, 3, 32, 32)
    assert all(not torch.allclose(crops[i], crops[j]) for i in range(4) for j in range(i))


def test_no_augmentation_leaves_the_image():
    image = torch.rand(2, 3, 32, 32)
    assert torch.equal(build_augmentation("none", 32)(image), image)
