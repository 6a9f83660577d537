import numpy as np
import pytest

from generation.sample import NO_LABEL
from training.data.variety import WINDOW_BATCHES, Variety


def test_overlap_counts_images_of_previous_batch():
    variety = Variety()
    batches = [[0, 1, 2, 3], [3, 4, 5, 0], [0, 6, 7, 8]]  # two of four again, then one
    for serials in batches:
        variety.add(np.array(serials), np.zeros(4, np.int64))
    assert (variety.overlap, variety.mean_overlap) == (0.375, 0.375)


def test_overlap_recognizes_images_of_other_passes():
    variety = Variety(num_images=4)
    for serials in ([0, 1, 2, 3], [4, 5, 6, 7]):
        variety.add(np.array(serials), np.zeros(4, np.int64))
    assert variety.overlap == 1.0


def test_overlap_and_classes_use_latest_batches():
    variety = Variety()
    for _ in range(2):  # the same images twice, of five classes
        variety.add(np.arange(5), np.array([1, 2, 3, 4, NO_LABEL]))
    assert (variety.overlap, variety.num_classes) == (1.0, 4)
    for step in range(1, 1 + WINDOW_BATCHES):
        variety.add(5 * step + np.arange(5), np.array([7, 7, 8, 8, 8]))
    assert (variety.overlap, variety.num_classes) == (0.0, 2)
    assert variety.mean_overlap == pytest.approx(1 / (1 + WINDOW_BATCHES))
