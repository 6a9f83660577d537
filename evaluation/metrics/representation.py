"""The four metrics of arXiv 2212.08420 for the features of a frozen network; no classifier is trained on the features.

Works on arrays only. `describe` checks the arrays; the metrics' own functions expect valid arrays. Distances are
computed in blocks, never for all pairs at once.
"""

from collections.abc import Iterator

import numpy as np

from evaluation.result import Representation

BLOCK_MEBIBYTES = 64
"""Maximum size of a block of distances, in MiB."""

NEXT_TO_ZERO = 1e-5
"""Largest magnitude of an activation that `sparsity` counts as zero."""

EPSILON_SQUARED = 0.5
"""eps^2 in `coding_length`. The option `--eps` of the paper's code is this square, not eps."""


def describe(features: np.ndarray, labels: np.ndarray) -> Representation:
    """Return the four metrics of `features` float [N, D] with `labels` int [N].

    ValueError for arrays of another shape or type, for values that are not finite, and if a metric is undefined.
    """
    features = checked_features(features)
    labels = checked_labels(labels, len(features))
    return {
        "sparsity": sparsity(features),
        "intra_class_distance": intra_class_distance(features, labels),
        "feature_redundancy": feature_redundancy(features),
        "coding_length": coding_length(features),
    }


def sparsity(features: np.ndarray) -> float:
    """Return the fraction of activations with a magnitude of at most `NEXT_TO_ZERO`, 0..1."""
    return float(np.mean(np.abs(features) <= NEXT_TO_ZERO))


def intra_class_distance(features: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean L2 distance between the L2-normalized features of two images of a class, 0..2.

    This is the mean over classes. Zero vectors stay zero. Classes with one image have no pair and are skipped.
    """
    return mean_distance_within_classes(_unit_rows(features), labels)


def feature_redundancy(features: np.ndarray) -> float:
    """Return the mean |Pearson correlation| over pairs of different feature dimensions, 0..1.

    Dimensions that have the same value in all images have no correlation and are skipped.
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
    """Return 1/2 ln det(I + d / (m eps^2) Z Z^T) in nats (arXiv 2006.08558).

    Z [d, m] is the matrix of the features, which are L2-normalized as in the code of arXiv 2212.08420.
    """
    rows = _unit_rows(features)
    num_images, num_dimensions = rows.shape
    # det(I + A A^T) = det(I + A^T A), so the smaller matrix is used.
    gram = rows @ rows.T if num_images < num_dimensions else rows.T @ rows
    scaled = gram * (num_dimensions / (num_images * EPSILON_SQUARED))
    return float(np.linalg.slogdet(np.eye(len(gram)) + scaled).logabsdet / 2)


def _unit_rows(features: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(lengths > 0, lengths, 1.0)


def mean_distance_within_classes(features: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean L2 distance within a class, averaged over classes; classes with one image are skipped."""
    classes = (features[labels == label] for label in np.unique(labels))
    means = [mean_pairwise_distance(points) for points in classes if len(points) > 1]
    if not means:
        raise ValueError(
            f"None of the {len(features)} images shares its class with another. Pass two or more images per class."
        )
    return float(np.mean(means))


def mean_pairwise_distance(points: np.ndarray) -> float:
    """Return the mean L2 distance over pairs of different rows of `points` [N, D]; N must be at least 2."""
    num_points = len(points)
    total = sum(float(block.sum()) for _, block in distance_blocks(points, points))
    return total / (num_points * (num_points - 1))


def distance_blocks(points: np.ndarray, others: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield slices of rows of `points` [N, D], each with the L2 distances to all `others` [M, D], float64 [rows, M].

    The squared distance is computed as |a|^2 - 2ab + |b|^2; errors are about 1e-8 of the vectors' lengths. If `others`
    is `points` itself, the distance of a row to itself is exactly 0.
    """
    from sklearn.metrics import pairwise_distances_chunked

    start = 0
    for block in pairwise_distances_chunked(points, others, metric="euclidean", working_memory=BLOCK_MEBIBYTES):
        yield slice(start, start + len(block)), block
        start += len(block)


def checked_features(features: np.ndarray, name: str = "features") -> np.ndarray:
    """Return `features` as float64 [N, D]; ValueError unless N and D are at least 1 and every value is finite."""
    if np.ndim(features) != 2 or 0 in np.shape(features):
        raise ValueError(
            f"{name} has shape {list(np.shape(features))}; expected [N, D] with N and D at least 1. Pass one feature "
            "vector per image."
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
