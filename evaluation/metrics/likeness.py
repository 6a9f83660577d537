"""How near generated images come to real ones, and how much of the real ones they reach, as a judge sees both.

It knows no generator, network or file; `judgement` checks what the others are given. Distances are those of the
features as given, not normalised, and are held in blocks.
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
    """What two sets share; a point's neighbourhood is the open ball up to the k-th nearest other point of its set."""

    precision: float
    """Share of generated images in a real image's neighbourhood, 0..1 (arXiv 1904.06991)."""

    recall: float
    """Share of real images in a generated image's neighbourhood, 0..1 (arXiv 1904.06991)."""

    density: float
    """Real neighbourhoods that a generated image lies in, over k: 0 or more, about 1 for equals (arXiv 2002.09797)."""

    coverage: float
    """Share of real images with a generated one in their neighbourhood, 0..1 (arXiv 2002.09797)."""


@dataclass(frozen=True, eq=False)
class Judged:
    """Images as a judge sees them, a classifier trained on real ones."""

    labels: np.ndarray
    """int64 [N]: what each shows, or was asked to show."""

    features: np.ndarray
    """float [N, D]."""

    predictions: np.ndarray
    """int [N]: the judge's first guess."""

    def at(self, rows: np.ndarray) -> "Judged":
        """Return some of them, given as bool [N] or as int64."""
        return Judged(self.labels[rows], self.features[rows], self.predictions[rows])

    def recognised(self) -> float:
        """Return the share that the judge takes for what they should show, 0..1."""
        return float(np.mean(self.predictions == self.labels))

    def diversity(self) -> float:
        """Return the mean over classes of the mean L2 distance of two features of a class."""
        return mean_distance_within_classes(self.features, self.labels)

    def checked(self, name: str) -> "Judged":
        """Return them with features in double precision; ValueError unless features and labels are such."""
        features = checked_features(self.features, name)
        return Judged(checked_labels(self.labels, len(features), f"{name}_labels"), features, self.predictions)


Pair = tuple[Judged, Judged]
"""Real and generated images."""


def judgement(
    real: Judged, generated: Judged, class_names: Sequence[str], num_neighbours: int = 5, seed: int = 0
) -> dict[str, Any]:
    """Return what tables say of generated images, all and by class; ValueError if classes differ or have too few.

    Of each class as many of both are compared, of the larger set some that are drawn by `seed`: coverage and recall
    grow with the number of generated images, and the Fréchet distance falls.
    """
    every = real, generated = real.checked("real"), generated.checked("generated")
    if real.features.shape[1] != generated.features.shape[1]:
        raise ValueError(
            f"Real features have {real.features.shape[1]} dimensions and generated ones {generated.features.shape[1]}. "
            "Use one network for both."
        )
    labels = shared_classes(real.labels, generated.labels, num_neighbours)
    rows, generated_rows = equal_numbers(real.labels, generated.labels, seed)
    alike = real.at(rows), generated.at(generated_rows)
    per_class = [
        {
            "label": label,
            "class_name": class_names[label],
            **_told(_of_class(every, label), _of_class(alike, label), num_neighbours),
        }
        for label in labels
    ]
    return {"num_neighbours": num_neighbours, "overall": _told(every, alike, num_neighbours), "per_class": per_class}


def _told(every: Pair, alike: Pair, num_neighbours: int) -> dict[str, int | float]:
    """Return the numbers of real and generated images, of which as many are `alike`: those are compared."""
    (real, generated), features = every, (alike[0].features, alike[1].features)
    return {
        **asdict(overlap(*features, num_neighbours)),
        "num_real": len(features[0]),
        "num_generated": len(features[1]),
        "frechet_distance": frechet_distance(*features),
        "diversity": alike[1].diversity(),
        "recognised": generated.recognised(),
        "real_recognised": real.recognised(),
        "real_diversity": real.diversity(),
    }


def _of_class(images: Pair, label: int) -> Pair:
    real, generated = (each.at(each.labels == label) for each in images)
    return real, generated


def equal_numbers(labels: np.ndarray, other_labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of both, int64 and ascending, of which each class has as many, in both."""
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
    """Return the classes, if both have them and enough images of each; ValueError otherwise."""
    if num_neighbours < 1:
        raise ValueError(f"num_neighbours is {num_neighbours}; use 1 or more, such as 5.")
    lonely = np.setxor1d(real_labels, generated_labels)
    if len(lonely):
        raise ValueError(
            f"{len(lonely)} class(es) have only real or only generated images, first {lonely[0]}. Give both for each "
            "class."
        )
    for name, labels in (("real", real_labels), ("generated", generated_labels)):
        classes, counts = np.unique(labels, return_counts=True)
        fewest = counts.argmin()
        if counts[fewest] <= num_neighbours:
            raise ValueError(
                f"There are {counts[fewest]} {name} images of class {classes[fewest]}, too few for {num_neighbours} "
                f"neighbours. Give at least {num_neighbours + 1}, or lower num_neighbours."
            )
    return np.unique(real_labels).tolist()


def overlap(real: np.ndarray, generated: np.ndarray, num_neighbours: int = 5) -> Overlap:
    """Return what `generated` [M, D] shares with `real` [N, D], defined as in the package `prdc`."""
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
    """Return float64 [N]: how far each of `points` [N, D] is from its k-th nearest other one.

    As in `prdc`: the k + 1 nearest with the point itself, whose distance is 0. With k copies the radius is 0, and
    nothing lies inside, as only what is strictly nearer counts.
    """
    blocks = distance_blocks(points, points)
    return np.concatenate([np.partition(block, num_neighbours, axis=1)[:, num_neighbours] for _, block in blocks])


def frechet_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """Return |m - n|^2 + Tr(S + T - 2 (S T)^(1/2)) of both sets' means and covariances, 0 or more (arXiv 1706.08500).

    It depends on the number of images, the more the fewer they are: compare values of equal numbers of images only.
    """
    # With S = F^T F and T = G^T G the singular values of F G^T are the roots of S T's eigenvalues: real, never squared.
    f, g = _covariance_factor(real), _covariance_factor(generated)
    shared = np.linalg.svd(f @ g.T, compute_uv=False).sum()
    shift = np.sum((real.mean(axis=0) - generated.mean(axis=0)) ** 2)
    return max(0.0, float(shift + np.sum(f**2) + np.sum(g**2) - 2 * shared))


def _covariance_factor(points: np.ndarray) -> np.ndarray:
    """Return F [N or D, the lesser; D], whose F^T F is the covariance of `points` [N, D]."""
    centred = (points - points.mean(axis=0)) / np.sqrt(len(points) - 1)
    return centred if len(centred) <= centred.shape[1] else cast(np.ndarray, np.linalg.qr(centred, mode="r"))
