"""Classification metrics of one set of real images: accuracies, calibration, confusions, intervals.

Works on arrays only. Counts are exact; accuracies divide once, at the very end.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.metrics.intervals import wilson_interval
from evaluation.result import CalibrationBin, ClassResult, Confusion, Interval, Measures

NUM_BINS = 15
"""Bins of equal width over the confidences (arXiv 1706.04599); each includes its upper edge, the first also 0."""

NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class Guesses:
    """A classifier's best predictions for N images; ValueError unless N is at least 1 and all arrays fit together."""

    labels: np.ndarray
    """int64 [N], the correct label of each image."""

    predictions: np.ndarray
    """int64 [N, K] with K from 1 to 5, best first."""

    confidences: np.ndarray
    """float [N], the probability of the first prediction, 0..1."""

    accepted_labels: Sequence[np.ndarray] | None = None
    """N int arrays with all labels that count as correct for an image (arXiv 2006.07159). An empty array excludes the
    image from every metric; None accepts only `labels`."""

    def __post_init__(self) -> None:
        """Reject arrays that do not fit together."""
        num_images = self.labels.size
        if not num_images:
            raise ValueError("There are no images with a label to evaluate. Pass at least one.")
        num_guesses = min(max(self.predictions.size // num_images, 1), 5)
        _check("labels", self.labels, (num_images,))
        _check("predictions", self.predictions, (num_images, num_guesses))
        _check("confidences", self.confidences, (num_images,), kind="f")
        if self.accepted_labels is None:
            return
        if len(self.accepted_labels) != num_images:
            raise ValueError(
                f"accepted_labels has {len(self.accepted_labels)} arrays for {num_images} images. Pass one per image."
            )
        for i, of_image in enumerate(self.accepted_labels):
            if of_image.size:
                _check(f"accepted_labels[{i}]", of_image, (of_image.size,))


def measure(
    guesses: Guesses, class_names: Sequence[str], shared_labels: np.ndarray | None = None, seed: int = 0
) -> Measures:
    """Return all metrics of `guesses`, where label i has the name `class_names[i]`.

    `shared_labels` int64 [S] are the labels that predictions are restricted to, None for all; ValueError if others
    occur. A class's images are those with its label in `labels`, whatever else is accepted. Intervals depend only on
    counts, confidences and `seed`.
    """
    competing = _competing_labels(guesses, len(class_names), shared_labels)
    counted = _with_label(guesses)
    hits, confidences = _hits(counted), counted.confidences.astype(np.float64)
    right, num_images = hits[:, 0], len(hits)
    num_top1, num_top5 = int(right.sum()), int(hits.any(axis=1).sum())
    bins = np.digitize(confidences, np.arange(1, NUM_BINS) / NUM_BINS, right=True)
    gaps = right - confidences
    per_class = _per_class(counted.labels, hits, competing, class_names)
    return {
        "num_images": num_images,
        "num_without_label": len(guesses.labels) - num_images,
        "top1": num_top1 / num_images,
        "top1_interval": wilson_interval(num_top1, num_images),
        "top5": num_top5 / num_images,
        "top5_interval": wilson_interval(num_top5, num_images),
        "mean_per_class_top1": float(np.mean([row["top1"] for row in per_class if row["top1"] is not None])),
        "ece": _ece(bins, gaps),
        "ece_interval": _ece_interval(bins, gaps, seed),
        "calibration": _calibration(bins, confidences, right),
        "per_class": per_class,
        "confusions": _confusions(counted),
    }


def top1_hits(guesses: Guesses) -> np.ndarray:
    """Return bool [N]: whether the first prediction is correct, for the images counted."""
    return _hits(_with_label(guesses))[:, 0]


def is_counted(guesses: Guesses) -> np.ndarray:
    """Return bool [N]: whether an image has an accepted label."""
    if guesses.accepted_labels is None:
        return np.ones(len(guesses.labels), dtype=bool)
    return np.array([of_image.size > 0 for of_image in guesses.accepted_labels])


def _ece_interval(bins: np.ndarray, gaps: np.ndarray, seed: int) -> Interval:
    # One resample at a time keeps N numbers in memory and in the processor's cache.
    random, num_images = np.random.default_rng(seed), len(bins)
    draws = (random.integers(num_images, size=num_images) for _ in range(NUM_RESAMPLES))
    low, high = np.percentile([_ece(bins[drawn], gaps[drawn]) for drawn in draws], [2.5, 97.5])
    return float(low), float(high)


def _ece(bins: np.ndarray, gaps: np.ndarray) -> float:
    # n_b / N * |accuracy - confidence| of a bin is |sum of its images' (hit - confidence)| / N.
    return float(np.abs(np.bincount(bins, weights=gaps)).sum() / len(bins))


def _calibration(bins: np.ndarray, confidences: np.ndarray, right: np.ndarray) -> list[CalibrationBin]:
    num_images = np.bincount(bins)
    confidence, num_right = (np.bincount(bins, weights=of_images) for of_images in (confidences, right))
    return [
        {
            "confidence": float(confidence[b] / num_images[b]),
            "accuracy": float(num_right[b] / num_images[b]),
            "num_images": int(num_images[b]),
        }
        for b in np.flatnonzero(num_images)
    ]


def _per_class(
    labels: np.ndarray, hits: np.ndarray, competing: np.ndarray, class_names: Sequence[str]
) -> list[ClassResult]:
    sets = (labels, labels[hits[:, 0]], labels[hits.any(axis=1)])
    counts = np.stack([np.bincount(of_set, minlength=len(class_names)) for of_set in sets], axis=1).tolist()
    return [_of_class(label, class_names[label], *counts[label]) for label in map(int, competing)]


def _of_class(label: int, class_name: str, num_images: int, num_top1: int, num_top5: int) -> ClassResult:
    return {
        "label": label,
        "class_name": class_name,
        "num_images": num_images,
        "num_top1": num_top1,
        "num_top5": num_top5,
        "top1": num_top1 / num_images if num_images else None,
        "top5": num_top5 / num_images if num_images else None,
        "top1_interval": wilson_interval(num_top1, num_images) if num_images else None,
    }


def _confusions(guesses: Guesses) -> list[Confusion]:
    pairs = np.stack([guesses.labels, guesses.predictions[:, 0]], axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    return [
        {"label": label, "predicted": guess, "num_images": num_images}
        for (label, guess), num_images in zip(found.tolist(), counts.tolist(), strict=True)
    ]


def _with_label(guesses: Guesses) -> Guesses:
    if guesses.accepted_labels is None:
        return guesses
    kept = np.flatnonzero(is_counted(guesses)).tolist()
    accepted_labels = [guesses.accepted_labels[i] for i in kept]
    return Guesses(guesses.labels[kept], guesses.predictions[kept], guesses.confidences[kept], accepted_labels)


def _hits(guesses: Guesses) -> np.ndarray:
    """Return bool [N, K]: whether a prediction is correct."""
    if guesses.accepted_labels is None:
        return guesses.predictions == guesses.labels[:, None]
    images = np.repeat(np.arange(len(guesses.labels)), [of_image.size for of_image in guesses.accepted_labels])
    rows, ranks = np.nonzero(guesses.predictions[images] == np.concatenate(guesses.accepted_labels)[:, None])
    hits = np.zeros(guesses.predictions.shape, dtype=bool)
    hits[images[rows], ranks] = True
    return hits


def _competing_labels(guesses: Guesses, num_classes: int, shared_labels: np.ndarray | None) -> np.ndarray:
    """Return the labels that predictions are restricted to, ascending; ValueError if others occur."""
    every = np.arange(num_classes)
    if shared_labels is not None:
        _check("shared_labels", shared_labels, (shared_labels.size,))
        _check_among("shared_labels", shared_labels, every)
    if guesses.accepted_labels is not None:
        _check_among("accepted_labels", np.concatenate(guesses.accepted_labels), every)
    competing = every if shared_labels is None else np.unique(shared_labels)
    _check_among("labels", guesses.labels, competing)
    _check_among("predictions", guesses.predictions, competing)
    return competing


def _check_among(name: str, labels: np.ndarray, allowed: np.ndarray) -> None:
    others = np.setdiff1d(labels, allowed)
    if others.size:
        raise ValueError(
            f"{name} has the label {int(others[0])}, which is not among the {len(allowed)} allowed labels. Pass a "
            "class name for each label, and drop images and predictions of other labels."
        )


def _check(name: str, values: np.ndarray, shape: tuple[int, ...], kind: str = "i") -> None:
    """Raise ValueError unless `values` of that shape are labels (kind "i", 0 or more) or probabilities ("f", 0..1)."""
    if values.shape != shape or values.dtype.kind != kind:
        raise ValueError(
            f"{name} has shape {list(values.shape)} and type {values.dtype}; expected {list(shape)} and "
            f"{'float32' if kind == 'f' else 'int64'}. Pass one entry per image, with its five best predictions."
        )
    bad = values[(values < 0) | ((values > 1) & (kind == "f")) | np.isnan(values)]
    if bad.size:
        needed = "use softmax outputs, 0 to 1." if kind == "f" else "labels are 0 or more. Drop such images."
        raise ValueError(f"{name} has the value {bad[0]}; {needed}")
