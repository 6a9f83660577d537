"""Batched augmentation on the training device, by kornia: each image of a batch draws its own parameters."""

import torch
from kornia import augmentation as kornia

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def to_float(images_nhwc: torch.Tensor) -> torch.Tensor:
    """Return float [N, 3, H, W] in 0..1 for uint8 [N, H, W, 3]."""
    return images_nhwc.permute(0, 3, 1, 2).float() / 255


def normalize() -> torch.nn.Module:
    """Return the map from 0..1 to ImageNet's mean and standard deviation, for training and evaluation alike."""
    return kornia.Normalize(mean=torch.tensor(IMAGENET_MEAN), std=torch.tensor(IMAGENET_STD))


def build_augmentation(name: str, image_size: int) -> torch.nn.Module:
    """Return the augmentation of that name, from and to float [N, 3, image_size, image_size] in 0..1."""
    if name == "crop_flip":
        return torch.nn.Sequential(
            kornia.RandomResizedCrop((image_size, image_size), scale=(0.25, 1.0)), kornia.RandomHorizontalFlip()
        )
    if name == "affine":
        return torch.nn.Sequential(
            kornia.RandomAffine(degrees=8.0, translate=(0.06, 0.06), scale=(0.9, 1.1), p=1.0),
            kornia.RandomBrightness((0.8, 1.2), p=1.0),
        )
    return torch.nn.Identity()
