"""What a frozen network's features are like, with no classifier on top: the four measures of arXiv 2212.08420.

Arrays in, numbers out; `describe` checks what the others are given. It knows no network, no image and no file, and
holds blocks of distances, never all pairs.
"""

from collections.abc import Iterator

import numpy as np
from sklearn.metrics import pairwise_distances_chunked

from evaluation.result import Representation

BLOCK_MEBIBYTES = 64
"""Largest block of distances that is held at once."""

NEXT_TO_ZERO = 1e-5
EPSILON_SQUARED = 0.5
"""The source's `--eps`, which is the square."""


def describe(features: np.ndarray, labels: np.ndarray) -> Representation:
    """Return all four for `features` float [N, D] and `labels` int [N]; ValueError where these are no such arrays."""
    features = checked_features(features)
    labels = checked_labels(labels, len(features))
    return {
        "sparsity": sparsity(features),
        "intra_class_distance": intra_class_distance(features, labels),
        "feature_redundancy": feature_redundancy(features),
        "coding_length": coding_length(features),
    }


def sparsity(features: np.ndarray) -> float:
    """Return the share, 0..1, of activations whose magnitude is at most `NEXT_TO_ZERO`."""
    return float(np.mean(np.abs(features) <= NEXT_TO_ZERO))


def intra_class_distance(features: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean L2 distance, 0..2, of two L2-normalised features of a class, every class counting alike.

    A vector of zeros stays one; classes with one image have no pair and are left out.
    """
    return mean_distance_within_classes(_unit_rows(features), labels)


def feature_redundancy(features: np.ndarray) -> float:
    """Return the mean |Pearson correlation|, 0..1, over pairs of different dimensions.

    Dimensions that are constant over the images have no correlation and are left out.
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
    """Return 1/2 ln det(I + d / (m eps^2) Z Z^T) in nats, Z [d, m] the L2-normalised features (arXiv 2006.08558).

    The source's code puts features on the unit sphere, as is done here.
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
    """Return the mean over classes of the mean L2 distance of two of a class; classes with one image are left out."""
    classes = (features[labels == label] for label in np.unique(labels))
    means = [mean_pairwise_distance(points) for points in classes if len(points) > 1]
    if not means:
        raise ValueError(
            f"None of the {len(features)} images shares its class with another. Give two or more per class."
        )
    return float(np.mean(means))


def mean_pairwise_distance(points: np.ndarray) -> float:
    """Return the mean L2 distance over pairs of different rows of `points` [N, D], N at least 2."""
    num_points = len(points)
    total = sum(float(block.sum()) for _, block in distance_blocks(points, points))
    return total / (num_points * (num_points - 1))


def distance_blocks(points: np.ndarray, others: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield rows of `points` [N, D] as a slice, with their L2 distances to all of `others` [M, D] as float64 [rows, M].

    Good to about 1e-8 of the vectors' lengths (|a|^2 - 2ab + |b|^2); a row of `points` to itself is exactly 0 if
    `others` is the same array.
    """
    start = 0
    for block in pairwise_distances_chunked(points, others, metric="euclidean", working_memory=BLOCK_MEBIBYTES):
        yield slice(start, start + len(block)), block
        start += len(block)


def checked_features(features: np.ndarray, name: str = "features") -> np.ndarray:
    """Return `features` as float64 [N, D]; ValueError unless N and D are at least 1 and every value is finite."""
    if np.ndim(features) != 2 or 0 in np.shape(features):
        raise ValueError(
            f"{name} has shape {list(np.shape(features))}; expected [N, D], both at least 1. Give one feature vector "
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
            "Give one integer per feature vector."
        )
    return values
