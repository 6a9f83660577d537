"""Real labelled images as a Ray Dataset. Knows no classifier."""

import numpy as np
import ray.data
from PIL import Image

from generation.digits.real_digits import evaluation_digits, training_digits

NUM_BLOCKS = 8
"""Parts that a small set travels in."""


def check_real_images(name: str, label_space: str, must_have_images: bool = False) -> None:
    """Raise ValueError if the set does not have the classes of `label_space`, or no images where it must."""
    if name == "none" and must_have_images:
        raise ValueError("evaluation.dataset is 'none', so there is nothing to evaluate on. Choose digits.")
    if name == "digits" and label_space != "digits":
        raise ValueError(f"evaluation.dataset is 'digits', but the classes are those of '{label_space}'. Choose none.")


def real_images(name: str, image_size: int) -> ray.data.Dataset:
    """Return rows `label` int64 and `image` uint8 [image_size, image_size, 3]; ValueError for an unknown name."""
    if name != "digits":
        raise ValueError(f"evaluation.dataset is '{name}', which names no real images. Choose digits.")
    images, labels = evaluation_digits()
    resized = np.stack([_resize(image, image_size) for image in images])
    rows = [{"image": image, "label": label} for image, label in zip(resized, labels, strict=True)]
    return ray.data.from_items(rows, override_num_blocks=NUM_BLOCKS)


def real_training_images(name: str, image_size: int, num_rows: int, seed: int) -> ray.data.Dataset:
    """Return rows as of `real_images`, and their `index`, of images that no evaluation uses.

    Over and over, every time in another order, until there are so many rows.
    """
    if name != "digits":
        raise ValueError(f"evaluation.dataset is '{name}', which has no images to train on. Choose digits.")
    images, labels = training_digits()
    resized = [_resize(image, image_size) for image in images]
    random = np.random.Generator(np.random.Philox(key=seed))
    order = np.concatenate([random.permutation(len(images)) for _ in range(-(-num_rows // len(images)))])[:num_rows]
    rows = [{"index": i, "label": labels[i], "image": resized[i]} for i in order.tolist()]
    return ray.data.from_items(rows, override_num_blocks=NUM_BLOCKS)


def _resize(image: np.ndarray, image_size: int) -> np.ndarray:
    """Return uint8 [image_size, image_size, 3], bicubic where the size differs."""
    size = (image_size, image_size)
    return (
        image if image.shape[:2] == size else np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    )
