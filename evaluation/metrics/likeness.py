"""Quality of generated images: how close they are to real images, and how much of the real variety they cover.

Works on arrays only; `quality_report` checks the arguments of the other functions. Distances are between features as
given, not normalized, and are computed in blocks.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np

from evaluation.metrics.representation import (
    checked_features,
    checked_labels,
    distance_blocks,
    mean_distance_within_classes,
)


@dataclass(frozen=True)
class Overlap:
    """Overlap of two sets; a point's neighbourhood is the open ball up to the k-th nearest other point of its set."""

    precision: float
    """Fraction of generated images in a real image's neighbourhood, 0..1 (arXiv 1904.06991)."""

    recall: float
    """Fraction of real images in a generated image's neighbourhood, 0..1 (arXiv 1904.06991)."""

    density: float
    """Mean number of real neighbourhoods around a generated image, over k: 0 or more, about 1 for equal distributions
    (arXiv 2002.09797)."""

    coverage: float
    """Fraction of real images with a generated one in their neighbourhood, 0..1 (arXiv 2002.09797)."""


@dataclass(frozen=True, eq=False)
class ClassifiedImages:
    """Images with the features and predictions of the reference classifier, which was trained on real images."""

    labels: np.ndarray
    """int64 [N]: the class of each image, or the class requested for it."""

    features: np.ndarray
    """float [N, D]."""

    predictions: np.ndarray
    """int [N]: the classifier's top prediction."""

    def at(self, rows: np.ndarray) -> "ClassifiedImages":
        """Return the images selected by bool [N] or int64 indices."""
        return ClassifiedImages(self.labels[rows], self.features[rows], self.predictions[rows])

    def recognised(self) -> float:
        """Return the fraction classified as its label, 0..1."""
        return float(np.mean(self.predictions == self.labels))

    def diversity(self) -> float:
        """Return the mean over classes of the mean L2 distance between two features of a class."""
        return mean_distance_within_classes(self.features, self.labels)

    def checked(self, name: str) -> "ClassifiedImages":
        """Return the images with features in double precision; ValueError for invalid features or labels."""
        features = checked_features(self.features, name)
        return ClassifiedImages(
            checked_labels(self.labels, len(features), f"{name}_labels"), features, self.predictions
        )


Pair = tuple[ClassifiedImages, ClassifiedImages]
"""Real and generated images."""


def quality_report(
    real: ClassifiedImages,
    generated: ClassifiedImages,
    class_names: Sequence[str],
    num_neighbours: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the quality of generated images, overall and by class; ValueError if classes differ or are too small.

    Each class is compared at equal numbers of both, with a subset of the larger set drawn by `seed`: coverage and
    recall grow with the number of generated images, and the Fréchet distance falls.
    """
    every = real, generated = real.checked("real"), generated.checked("generated")
    if real.features.shape[1] != generated.features.shape[1]:
        raise ValueError(
            f"Real features have {real.features.shape[1]} dimensions and generated features "
            f"{generated.features.shape[1]}. Use one network for both."
        )
    labels = shared_classes(real.labels, generated.labels, num_neighbours)
    rows, generated_rows = equal_numbers(real.labels, generated.labels, seed)
    balanced = real.at(rows), generated.at(generated_rows)
    per_class = [
        {
            "label": label,
            "class_name": class_names[label],
            **_metrics(_of_class(every, label), _of_class(balanced, label), num_neighbours),
        }
        for label in labels
    ]
    return {
        "num_neighbours": num_neighbours,
        "overall": _metrics(every, balanced, num_neighbours),
        "per_class": per_class,
    }


def _metrics(every: Pair, balanced: Pair, num_neighbours: int) -> dict[str, int | float]:
    """Return the metrics of real and generated images; `balanced` are equal numbers of both, for the comparisons."""
    (real, generated), features = every, (balanced[0].features, balanced[1].features)
    return {
        **asdict(overlap(*features, num_neighbours)),
        "num_real": len(features[0]),
        "num_generated": len(features[1]),
        "frechet_distance": frechet_distance(*features),
        "diversity": balanced[1].diversity(),
        "recognised": generated.recognised(),
        "real_recognised": real.recognised(),
        "real_diversity": real.diversity(),
    }


def _of_class(images: Pair, label: int) -> Pair:
    real, generated = (each.at(each.labels == label) for each in images)
    return real, generated


def equal_numbers(labels: np.ndarray, other_labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return indices of both sets, int64 and ascending, with equal numbers of each class."""
    random = np.random.default_rng(seed)
    chosen: tuple[list[np.ndarray], list[np.ndarray]] = [], []
    for label in np.unique(labels):
        rows = [np.flatnonzero(each == label) for each in (labels, other_labels)]
        number = min(map(len, rows))
        for of_set, of_class in zip(chosen, rows, strict=True):
            of_set.append(random.choice(of_class, number, replace=False))
    first, second = (np.sort(np.concatenate(of_set)) for of_set in chosen)
    return first, second


def shared_classes(real_labels: np.ndarray, generated_labels: np.ndarray, num_neighbours: int) -> list[int]:
    """Return the classes; ValueError unless both sets have the same classes, with enough images of each."""
    if num_neighbours < 1:
        raise ValueError(f"num_neighbours is {num_neighbours}; use 1 or more, such as 5.")
    lonely = np.setxor1d(real_labels, generated_labels)
    if len(lonely):
        raise ValueError(
            f"{len(lonely)} class(es) have only real or only generated images, first {lonely[0]}. Pass both for each "
            "class."
        )
    for name, labels in (("real", real_labels), ("generated", generated_labels)):
        classes, counts = np.unique(labels, return_counts=True)
        fewest = counts.argmin()
        if counts[fewest] <= num_neighbours:
            raise ValueError(
                f"There are {counts[fewest]} {name} images of class {classes[fewest]}, too few for {num_neighbours} "
                f"neighbours. Pass at least {num_neighbours + 1}, or lower num_neighbours."
            )
    return np.unique(real_labels).tolist()


def overlap(real: np.ndarray, generated: np.ndarray, num_neighbours: int = 5) -> Overlap:
    """Return the overlap of `generated` [M, D] and `real` [N, D], defined as in the package `prdc`."""
    real_radii = neighbour_radii(real, num_neighbours)
    generated_radii = neighbour_radii(generated, num_neighbours)
    num_hits = np.zeros(len(generated), dtype=np.int64)
    num_recalled = num_covered = 0
    for rows, distances in distance_blocks(real, generated):
        in_real = distances < real_radii[rows, None]
        num_hits += in_real.sum(axis=0)
        num_covered += int(in_real.any(axis=1).sum())
        num_recalled += int((distances < generated_radii).any(axis=1).sum())
    return Overlap(
        precision=float(np.mean(num_hits > 0)),
        recall=num_recalled / len(real),
        density=float(num_hits.mean() / num_neighbours),
        coverage=num_covered / len(real),
    )


def neighbour_radii(points: np.ndarray, num_neighbours: int) -> np.ndarray:
    """Return float64 [N]: the distance of each of `points` [N, D] to its k-th nearest other point.

    As in `prdc`: the k + 1 nearest include the point itself at distance 0. With k copies the radius is 0 and the
    neighbourhood is empty, because only strictly smaller distances count.
    """
    blocks = distance_blocks(points, points)
    return np.concatenate([np.partition(block, num_neighbours, axis=1)[:, num_neighbours] for _, block in blocks])


def frechet_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """Return |m - n|^2 + Tr(S + T - 2 (S T)^(1/2)) of both sets' means and covariances, 0 or more (arXiv 1706.08500).

    It depends on the number of images, most for small numbers: compare values only at equal numbers of images.
    """
    # With S = F^T F and T = G^T G the singular values of F G^T are the roots of S T's eigenvalues: real, never squared.
    f, g = _covariance_factor(real), _covariance_factor(generated)
    shared = np.linalg.svd(f @ g.T, compute_uv=False).sum()
    shift = np.sum((real.mean(axis=0) - generated.mean(axis=0)) ** 2)
    return max(0.0, float(shift + np.sum(f**2) + np.sum(g**2) - 2 * shared))


def _covariance_factor(points: np.ndarray) -> np.ndarray:
    """Return F [min(N, D), D] with F^T F the covariance of `points` [N, D]."""
    centred = (points - points.mean(axis=0)) / np.sqrt(len(points) - 1)
    return centred if len(centred) <= centred.shape[1] else cast(np.ndarray, np.linalg.qr(centred, mode="r"))
