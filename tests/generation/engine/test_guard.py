import numpy as np

from generation.engine.actor import refusals
from generation.engine.generator import GeneratedImages


def generated(*images: np.ndarray, finite: bool = True, flagged: bool = False) -> GeneratedImages:
    return GeneratedImages(
        images_nhwc=np.stack(images),
        darkest=np.array([image.min() for image in images]),
        brightest=np.array([image.max() for image in images]),
        finite=np.full(len(images), finite),
        flagged=np.full(len(images), flagged),
    )


BLACK = np.zeros((8, 8, 3), np.uint8)
ALMOST_BLACK = np.full((8, 8, 3), 2, np.uint8)
GREY = np.full((8, 8, 3), 128, np.uint8)
DOT_ON_BLACK = BLACK.copy()
DOT_ON_BLACK[4, 4] = 255


def test_black_and_flat_images_are_refused_but_not_a_dot_on_black():
    assert refusals(generated(BLACK, ALMOST_BLACK, GREY, DOT_ON_BLACK)) == ["black", "black", "flat", ""]


def test_non_finite_is_the_first_reason():
    assert refusals(generated(DOT_ON_BLACK, finite=False)) == ["non_finite"]


def test_flagged_image_is_refused():
    assert refusals(generated(BLACK, flagged=True)) == ["flagged"]
