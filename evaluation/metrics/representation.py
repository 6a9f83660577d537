"""Metrics of a frozen network's features, without a classifier on top: the four of arXiv 2212.08420.

Arrays in, numbers out; `describe` checks the arguments of the other functions. Knows no network, image or file, and
computes distances in blocks, never all pairs at once.
"""

from collections.abc import Iterator

import numpy as np
from sklearn.metrics import pairwise_distances_chunked

from evaluation.result import Representation

BLOCK_MEBIBYTES = 64
"""Maximum size of a block of distances."""

NEXT_TO_ZERO = 1e-5
EPSILON_SQUARED = 0.5
"""The `--eps` of the paper's code, which is the square."""


def describe(features: np.ndarray, labels: np.ndarray) -> Representation:
    """Return all four metrics for `features` float [N, D] and `labels` int [N]; ValueError for other arrays."""
    features = checked_features(features)
    labels = checked_labels(labels, len(features))
    return {
        "sparsity": sparsity(features),
        "intra_class_distance": intra_class_distance(features, labels),
        "feature_redundancy": feature_redundancy(features),
        "coding_length": coding_length(features),
    }


def sparsity(features: np.ndarray) -> float:
    """Return the fraction, 0..1, of activations with a magnitude of at most `NEXT_TO_ZERO`."""
    return float(np.mean(np.abs(features) <= NEXT_TO_ZERO))


def intra_class_distance(features: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean L2 distance, 0..2, between two L2-normalized features of a class, averaged over classes.

    Zero vectors stay zero. Classes with one image have no pair and are skipped.
    """
    return mean_distance_within_classes(_unit_rows(features), labels)


def feature_redundancy(features: np.ndarray) -> float:
    """Return the mean |Pearson correlation|, 0..1, over pairs of different dimensions.

    Dimensions that are constant over the images have no correlation and are skipped.
    """
    varying = features[:, np.ptp(features, axis=0) > 0]
    num_varying = varying.shape[1]
    if num_varying < 2:
        raise ValueError(
            f"{num_varying} of {features.shape[1]} feature dimensions vary over the {len(features)} images; a "
            "correlation needs two. Use more images, or a network that has not collapsed."
        )
    magnitudes = np.abs(np.corrcoef(varying, rowvar=False))
    return float((magnitudes.sum() - np.trace(magnitudes)) / (num_varying * (num_varying - 1)))


def coding_length(features: np.ndarray) -> float:
    """Return 1/2 ln det(I + d / (m eps^2) Z Z^T) in nats, Z [d, m] the L2-normalized features (arXiv 2006.08558).

    Like the paper's code, this projects features onto the unit sphere.
    """
    rows = _unit_rows(features)
    num_images, num_dimensions = rows.shape
    # det(I + A A^T) = det(I + A^T A): the smaller of the two.
    gram = rows @ rows.T if num_images < num_dimensions else rows.T @ rows
    scaled = gram * (num_dimensions / (num_images * EPSILON_SQUARED))
    return float(np.linalg.slogdet(np.eye(len(gram)) + scaled).logabsdet / 2)


def _unit_rows(features: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(lengths > 0, lengths, 1.0)


def mean_distance_within_classes(features: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean over classes of the mean L2 distance within a class; classes with one image are skipped."""
    classes = (features[labels == label] for label in np.unique(labels))
    means = [mean_pairwise_distance(points) for points in classes if len(points) > 1]
    if not means:
        raise ValueError(
            f"None of the {len(features)} images shares its class with another. Pass two or more per class."
        )
    return float(np.mean(means))


def mean_pairwise_distance(points: np.ndarray) -> float:
    """Return the mean L2 distance over pairs of different rows of `points` [N, D], N at least 2."""
    num_points = len(points)
    total = sum(float(block.sum()) for _, block in distance_blocks(points, points))
    return total / (num_points * (num_points - 1))


def distance_blocks(points: np.ndarray, others: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield slices of rows of `points` [N, D] with their L2 distances to all `others` [M, D], float64 [rows, M].

    Accurate to about 1e-8 of the vectors' lengths (|a|^2 - 2ab + |b|^2). If `others` is the same array, the distance of
    a row to itself is exactly 0.
    """
    start = 0
    for block in pairwise_distances_chunked(points, others, metric="euclidean", working_memory=BLOCK_MEBIBYTES):
        yield slice(start, start + len(block)), block
        start += len(block)


def checked_features(features: np.ndarray, name: str = "features") -> np.ndarray:
    """Return `features` as float64 [N, D]; ValueError unless N and D are at least 1 and every value is finite."""
    if np.ndim(features) != 2 or 0 in np.shape(features):
        raise ValueError(
            f"{name} has shape {list(np.shape(features))}; expected [N, D], both at least 1. Pass one feature vector "
            "per image."
        )
    values = np.asarray(features, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{name} has NaN or infinite values in {len(bad)} of {len(values)} rows, first in row {bad[0]}. "
            "Check the network that computed them."
        )
    return values


def checked_labels(labels: np.ndarray, num_images: int, name: str = "labels") -> np.ndarray:
    """Return `labels` as an array; ValueError unless they are integers [num_images]."""
    values = np.asarray(labels)
    if values.shape != (num_images,) or values.dtype.kind not in "iu":
        raise ValueError(
            f"{name} has shape {list(values.shape)} and type {values.dtype}, but there are {num_images} features. "
            "Pass one integer per feature vector."
        )
    return values
