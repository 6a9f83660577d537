"""Transfer of a frozen network's features to other classes, as in arXiv 2212.08420.

Works on arrays only. The protocol follows the same authors' code for
arXiv 2206.15369 (github.com/naver/trex, folder transfer): settings are searched on a fifth of the training images, the
classifier is refitted on all of them, and the test images are classified once.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch.nn import functional

from evaluation.metrics.representation import checked_features, checked_labels
from evaluation.result import LinearResult

if TYPE_CHECKING:
    import optuna

Solver = Literal["lbfgs", "sgd"]
"""`lbfgs` is scikit-learn's, for tens of thousands of images; `sgd` is torch's, for more, best on a GPU."""

C_RANGE = (1e-5, 1e6)
"""Search range of C, as in scikit-learn: C times the sum of the images' losses, plus half the squared weights."""

LEARNING_RATE_RANGE = (0.1, 100.0)
"""Search range of the learning rate of `sgd`, as in the original code; features of length 1 tolerate such rates."""

VALIDATION_FRACTION = 0.2
"""Fraction of each class's training images that settings are validated on."""

LBFGS_ITERATIONS = 2000
"""Maximum number of iterations; a fit that needs more is used as it is, as in the original code."""

SGD_EPOCHS = 100
SGD_BATCH_SIZE = 1024
SGD_MOMENTUM = 0.9

ROWS_CLASSIFIED_AT_ONCE = 1024
"""Number of features copied at a time, to bound memory."""


@dataclass(frozen=True)
class LabeledFeatures:
    """Features of images with their labels."""

    features: np.ndarray
    """float [N, D]; single precision is kept."""

    labels: np.ndarray
    """int [N]: any integers, the same for a class in training and test."""


@dataclass(frozen=True)
class Settings:
    """Hyperparameters that are searched."""

    C: float
    """Inverse regularization strength, above 0; see `C_RANGE`."""

    learning_rate: float = 0.0
    """Initial learning rate of `sgd`; `lbfgs` has none."""


class Transfer(LinearResult):
    """Result for one seed, with the best settings found."""

    C: float
    learning_rate: float
    """0 for `lbfgs`, which has none."""


Predictor = Callable[[np.ndarray], np.ndarray]
"""Function from features [N, D] to class numbers, int [N]."""

Fit = Callable[[np.ndarray, Settings], Predictor]
"""Function that fits a classifier with given settings to rows of the training images, int [N], of all classes."""


def fit_transfer(
    trainval: LabeledFeatures,
    test: LabeledFeatures,
    solver: Solver,
    device: str = "cpu",
    seed: int = 0,
    num_trials: int = 30,
) -> Transfer:
    """Return the results on `test` of a classifier fitted to `trainval` with the best settings of `num_trials` trials.

    `device` is the torch device of `sgd`, reproducible on the same device; `lbfgs` runs on the CPU only. `seed` decides
    the validation images, the settings tried and the order of `sgd`. In addition to single-precision features, `lbfgs`
    needs memory for one copy of those of `trainval`; `sgd` needs none, except one on a device other than the CPU.
    """
    trainval, test = with_class_numbers(trainval, test)
    fit = fitter(trainval, solver, seed, device)
    settings, validation_top1 = best_settings(trainval, fit, solver, seed, num_trials)
    classify = fit(np.arange(len(trainval.labels)), settings)
    hits = classes_of(classify, test.features, np.arange(len(test.labels))) == test.labels
    return {
        "top1": float(hits.mean()),
        "mean_per_class": mean_per_class(hits, test.labels),
        "C": settings.C,
        "learning_rate": settings.learning_rate,
        "validation_top1": validation_top1,
        "num_trainval": len(trainval.labels),
        "num_test": len(test.labels),
        "num_classes": int(trainval.labels.max()) + 1,
    }


def best_settings(
    trainval: LabeledFeatures, fit: Fit, solver: Solver, seed: int, num_trials: int
) -> tuple[Settings, float]:
    """Return the first settings with the highest validation top-1, and that top-1; `fit` fits `trainval`."""
    import optuna

    held_out = held_out_rows(trainval.labels, VALIDATION_FRACTION, seed)
    if num_trials < 1 or not held_out.any():
        raise ValueError(
            f"{num_trials} trials and {held_out.sum()} validation images are too few to choose settings. Use at least "
            "one trial and one class with two training images."
        )
    train, validation = np.flatnonzero(~held_out), np.flatnonzero(held_out)

    def validation_top1(trial: "optuna.Trial") -> float:
        C = trial.suggest_float("C", *C_RANGE, log=True)  # noqa: N806, as scikit-learn calls it
        rate = trial.suggest_float("learning_rate", *LEARNING_RATE_RANGE, log=True) if solver == "sgd" else 0.0
        classes = classes_of(fit(train, Settings(C, rate)), trainval.features, validation)
        return float(np.mean(classes == trainval.labels[validation]))

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed, multivariate=solver == "sgd")
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(validation_top1, n_trials=num_trials)
    return Settings(**study.best_params), study.best_value


def classes_of(classify: Predictor, features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return a classifier's predictions for some rows of features, int [number of rows]."""
    parts = (rows[start : start + ROWS_CLASSIFIED_AT_ONCE] for start in range(0, len(rows), ROWS_CLASSIFIED_AT_ONCE))
    return np.concatenate([classify(features[part]) for part in parts])


def held_out_rows(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Return the rows to hold out, bool [N]: the fraction of each class, rounded down, but at least one of two or more.

    The only image of a class is not held out.
    """
    _, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    shuffled = np.random.default_rng(seed).permutation(len(numbers))
    rows_by_class = shuffled[np.argsort(numbers[shuffled], kind="stable")]
    place_in_class = np.arange(len(numbers)) - np.repeat(np.cumsum(counts) - counts, counts)
    wanted = np.where(counts > 1, np.maximum((counts * fraction).astype(np.int64), 1), 0)
    held_out = np.zeros(len(numbers), dtype=np.bool_)
    held_out[rows_by_class[place_in_class < np.repeat(wanted, counts)]] = True
    return held_out


def fitter(trainval: LabeledFeatures, solver: Solver, seed: int, device: str) -> Fit:
    """Return a function that fits classifiers to rows of `trainval`, whose labels are class numbers 0..K-1."""
    if solver == "lbfgs":
        return lambda rows, settings: fit_lbfgs(trainval, rows, settings)
    features, labels = _on(device, np.asarray(trainval.features, np.float32)), _on(device, trainval.labels)
    return lambda rows, settings: fit_sgd(features, labels, rows, settings, seed)


def _on(device: str, array: np.ndarray) -> torch.Tensor:
    """Return an array on a device, without a copy on the CPU: it is read-only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # as Ray's are
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def fit_lbfgs(trainval: LabeledFeatures, rows: np.ndarray, settings: Settings) -> Predictor:
    """Return scikit-learn's logistic regression on unnormalized features; deterministic without a seed.

    It uses one BLAS thread: products are small, and threads that wait for each other on shared cores take many times as
    long.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    regression = LogisticRegression(C=settings.C, max_iter=LBFGS_ITERATIONS)
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # as of `LBFGS_ITERATIONS`
        return regression.fit(trainval.features[rows], trainval.labels[rows]).predict


def fit_sgd(features: torch.Tensor, labels: torch.Tensor, rows: np.ndarray, settings: Settings, seed: int) -> Predictor:
    """Return a linear layer on L2-normalized features, trained from zeros by SGD with cosine decay on their device.

    Batch size, epochs and momentum are those of the original code, which searches a weight decay of 1e-12..1e-4 for all
    parameters. Here the decay is 1 / (C N) for N images and excludes the bias, so that C means the same as for `lbfgs`
    (with three or more classes); the rate is limited to the decay's inverse, well below the point where decay alone
    makes weights explode.
    """
    layer = torch.nn.Linear(features.shape[1], int(labels.max()) + 1, device=features.device)
    for parameter in layer.parameters():
        torch.nn.init.zeros_(parameter)
    decay = 1 / (settings.C * len(rows))
    groups = [{"params": [layer.weight], "weight_decay": decay}, {"params": [layer.bias]}]
    optimizer = torch.optim.SGD(groups, lr=min(settings.learning_rate, 1 / decay), momentum=SGD_MOMENTUM)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, SGD_EPOCHS)
    random = np.random.default_rng(seed)
    for _ in range(SGD_EPOCHS):
        for batch in torch.from_numpy(random.permutation(rows)).to(features.device).split(SGD_BATCH_SIZE):
            loss = functional.cross_entropy(layer(functional.normalize(features[batch])), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return lambda others: _classes_by_layer(layer, others)


@torch.inference_mode()
def _classes_by_layer(layer: torch.nn.Linear, features: np.ndarray) -> np.ndarray:
    """Return the class number of each row after L2 normalization, int64 [N]."""
    on_device = torch.tensor(features, dtype=torch.float32, device=layer.weight.device)
    return layer(functional.normalize(on_device)).argmax(dim=1).cpu().numpy()


def mean_per_class(hits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean over the classes of `labels` int [N] of the fraction of `hits` bool [N] within the class."""
    _, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return float(np.mean(np.bincount(numbers, weights=hits) / counts))


def log_odds_average(accuracies: Sequence[float], num_test: Sequence[int]) -> float:
    """Return the mean over sets of ln(p / (1 - p)), with p in 0..1 the set's accuracy (arXiv 1805.08974).

    Unlike the paper, p is clipped to 1 / (2 n) and 1 - 1 / (2 n), half a test image from infinite odds; n is the set's
    `num_test`.
    """
    if not accuracies or len(accuracies) != len(num_test) or min(num_test) < 1:
        raise ValueError(
            f"There are {len(accuracies)} accuracies for sets of {list(num_test)} test images. Pass one or more, and "
            "the number of test images for each."
        )
    if bad := [p for p in accuracies if not 0 <= p <= 1]:
        raise ValueError(f"An accuracy is {bad[0]}; log-odds need a fraction in 0..1, not a percentage.")
    inside = [min(max(p, 0.5 / n), 1 - 0.5 / n) for p, n in zip(accuracies, num_test, strict=True)]
    return float(np.mean([math.log(p / (1 - p)) for p in inside]))


def with_class_numbers(trainval: LabeledFeatures, test: LabeledFeatures) -> tuple[LabeledFeatures, LabeledFeatures]:
    """Return both with labels as class numbers 0..K-1; ValueError unless one classifier fits both."""
    trainval, test = _checked(trainval, "trainval"), _checked(test, "test")
    if trainval.features.shape[1] != test.features.shape[1]:
        raise ValueError(
            f"trainval has features of {trainval.features.shape[1]} dimensions, test of {test.features.shape[1]}. Use "
            "one network for both."
        )
    classes = np.unique(trainval.labels)
    if len(classes) < 2:
        raise ValueError(f"trainval has only images of class {classes[0]}; at least two classes are needed.")
    missing = np.setdiff1d(test.labels, classes)
    if len(missing):
        raise ValueError(
            f"test has {len(missing)} classes that trainval lacks, first {missing[0]}. Use the same class numbers "
            "in both, or drop these images."
        )
    trainval = LabeledFeatures(trainval.features, np.searchsorted(classes, trainval.labels))
    return trainval, LabeledFeatures(test.features, np.searchsorted(classes, test.labels))


def _checked(labelled: LabeledFeatures, name: str) -> LabeledFeatures:
    """Return it as arrays, checked as in `representation`, but without a copy in double precision."""
    features = np.asarray(labelled.features)
    if features.ndim != 2 or not features.size or not np.isfinite([features.min(), features.max()]).all():
        checked_features(features, f"{name}.features")
    return LabeledFeatures(features, checked_labels(labelled.labels, len(features), f"{name}.labels"))
