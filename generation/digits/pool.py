"""The training images of the embedded model, with their prompts.

The images are made from `training_digits` alone, independently of the model and its training.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from generation.digits.backgrounds import BACKGROUNDS, composite
from generation.digits.real_digits import training_digits, training_positions
from generation.recipes.labels import ClassEntry, load_label_space
from generation.recipes.prompts import PAPER_TEMPLATES

FORM_WEIGHTS = {
    "class_name": 0.13,
    "hypernym": 0.13,
    "definition": 0.46,
    "background": 0.14,
    "hypernym_background": 0.14,
}
"""Frequency of each prompt form; the forms without background show what real digits look like."""

MAX_SHIFT_PIXELS = 1.0
"""Largest shift of an augmented digit, in pixels of 32, in each direction."""

MAX_ROTATION_DEGREES = 5.0
"""Largest rotation of an augmented digit, in each direction."""

MAX_ZOOM_FRACTION = 0.05
"""Largest zoom of an augmented digit, in each direction."""


@dataclass(frozen=True)
class Pool:
    """Images with their prompts; the prompt of image `i` is `prompts[prompt_ids[i]]`."""

    images: np.ndarray
    """uint8 [N, 32, 32, 3]."""

    prompt_ids: np.ndarray
    """int64 [N]."""

    prompts: tuple[str, ...]


def training_digest() -> str:
    """Return the SHA-256 of the training images' bytes, followed by their sorted data-set positions."""
    digest = hashlib.sha256(training_digits()[0].tobytes())
    digest.update(np.sort(training_positions()).astype("<i8").tobytes())
    return digest.hexdigest()


def all_prompts() -> tuple[str, ...]:
    """Return all prompts of the training images: each form, class and background once."""
    return tuple(
        paper_prompt(form, entry, background)
        for form in FORM_WEIGHTS
        for entry in load_label_space("digits").classes
        for background in (BACKGROUNDS if needs_background(form) else BACKGROUNDS[:1])
    )


def paper_prompt(form: str, entry: ClassEntry, background: str) -> str:
    """Return a prompt form of the paper with all lemmas and the first hypernym; `background` is ignored if unused."""
    return PAPER_TEMPLATES[form].format(
        lemmas=", ".join(entry.lemmas),
        hypernym=entry.hypernyms[0],
        definition=entry.definition,
        background=background,
    )


def needs_background(form: str) -> bool:
    """Return whether the form has a background."""
    return "{background}" in PAPER_TEMPLATES[form]


def build_pool(num_images: int, seed: int) -> Pool:
    """Return images drawn with replacement from the training digits, augmented and composited."""
    rng = np.random.default_rng(seed)
    digits, labels = training_digits()
    prompts = all_prompts()
    ids = {prompt: i for i, prompt in enumerate(prompts)}
    entries = load_label_space("digits").classes
    images = np.empty((num_images, *digits.shape[1:]), np.uint8)
    prompt_ids = np.empty(num_images, np.int64)
    for i in range(num_images):
        row = rng.integers(len(digits))
        form = rng.choice(list(FORM_WEIGHTS), p=list(FORM_WEIGHTS.values()))
        background = rng.choice(BACKGROUNDS) if needs_background(form) else "plain"
        images[i] = composite(augment(digits[row, ..., 0] / 255, rng), background, rng)
        prompt_ids[i] = ids[paper_prompt(form, entries[labels[row]], background)]
    return Pool(images, prompt_ids, prompts)


def augment(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return `ink` [H, W] in 0..1, slightly shifted, rotated and zoomed."""
    turn = np.deg2rad(rng.uniform(-MAX_ROTATION_DEGREES, MAX_ROTATION_DEGREES))
    zoom = 1 + rng.uniform(-MAX_ZOOM_FRACTION, MAX_ZOOM_FRACTION)
    shift = rng.uniform(-MAX_SHIFT_PIXELS, MAX_SHIFT_PIXELS, 2)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) / zoom
    centre = (np.array(ink.shape) - 1) / 2
    offset = centre - matrix @ (centre + shift)
    moved = ndimage.affine_transform(ink, matrix, offset, order=1)  # pyright: ignore[reportArgumentType]
    return np.clip(moved, 0, 1)
