"""Transfer to several sets over several seeds: linear classifiers on features, each a Ray task with a cached result."""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from evaluation.config import EvaluationConfig
from evaluation.images.real_sets import RealSet
from evaluation.images.transfer_sets import TransferSet
from evaluation.inference.output_cache import folder_name
from evaluation.inference.outputs import Outputs
from evaluation.inference.trained_model import EvaluationError
from evaluation.metrics.intervals import student_interval
from evaluation.metrics.transfer import LabeledFeatures, Solver, Transfer, fit_transfer, log_odds_average
from evaluation.result import GroupResult, TransferResult, Transfers
from generation.shards.storage import Storage

TRANSFER_VERSION = 2
"""Bump when the fitting of classifiers changes; cached results of other versions are ignored."""

GROUPS = {
    "small": ("aircraft", "cars", "dtd", "eurosat", "flowers", "food101", "pets", "sun397"),
    "iNaturalist": ("inat2018", "inat2019"),
    "ImageNet-CoG": ("cog_l1", "cog_l2", "cog_l3", "cog_l4", "cog_l5"),
}
"""Groups of sets for which arXiv 2212.08420 reports a mean."""

Log = Callable[[str], None]


def transfer(
    transfers: Sequence[TransferSet],
    features: Mapping[RealSet, Outputs],
    config: EvaluationConfig,
    folder: Path,
    log: Log,
) -> Transfers:
    """Return the accuracy of linear classifiers on frozen features, by set, and means over sets."""
    outputs = {each.name: [features[images] for images in (each.trainval, each.test)] for each in transfers}
    found = fit_sets(transfers, outputs, config, Storage(str(folder)), log)
    results: dict[str, TransferResult] = {}
    for each in transfers:
        num_unreadable = sum(len(one.unreadable) for one in outputs[each.name])
        of_set = mean_over_seeds(found[each.name]) | {"split": each.split, "num_unreadable": num_unreadable}
        results[each.name] = cast(TransferResult, of_set)
    average = log_odds_average(
        [each["top1"] for each in results.values()], [each["num_test"] for each in results.values()]
    )
    return {"sets": results, "groups": group_means(results), "log_odds_average": average}


def fit_sets(
    transfers: Sequence[TransferSet],
    outputs: Mapping[str, Sequence[Outputs]],
    config: EvaluationConfig,
    cache: Storage,
    log: Log,
) -> dict[str, list[Transfer]]:
    """Return the results of each set for each seed, fitted by Ray tasks unless they are cached.

    A set's features are read when a core is free for them. After a failure, the results of running fits are still
    cached before the error is raised.
    """
    files = {
        each.name: {seed: result_file(each, outputs[each.name], seed) for seed in config.transfer_seeds}
        for each in transfers
    }
    fits = Fits(cache, log)
    for each in transfers:
        missing = {seed: file for seed, file in files[each.name].items() if not cache.exists(file)}
        while missing and len(fits.running) >= max(1, int(ray.cluster_resources().get("CPU", 1))):  # may grow
            fits.cache_next()
        if missing and not fits.failed:
            fits.start(each, outputs[each.name], missing, config)
    while fits.running:
        fits.cache_next()
    if fits.failed:
        raise fits.failed[0]
    return {name: [json.loads(cache.read(file)) for file in of_set.values()] for name, of_set in files.items()}


@dataclass(frozen=True)
class Fits:
    """Running Ray tasks that fit classifiers; each result is cached when its task ends."""

    cache: Storage
    log: Log
    running: dict[ray.ObjectRef, tuple[str, int, str]] = field(default_factory=dict)
    """Set, seed and result file of each task."""

    failed: list[Exception] = field(default_factory=list)

    def start(
        self, images: TransferSet, outputs: Sequence[Outputs], missing: Mapping[int, str], config: EvaluationConfig
    ) -> None:
        """Start a fit to a set's features for each seed; the features stay in memory until all of them end."""
        trainval, test = (
            LabeledFeatures(one.read("feature"), part.labels[one.rows])
            for part, one in zip((images.trainval, images.test), outputs, strict=True)
        )
        self.log(
            f"transfer to {images.name}: {len(trainval.labels):,} training images, {len(test.labels):,} test images, "
            f"{len(missing)} seeds"
        )
        sets = ray.put((trainval, test))
        for seed, file in missing.items():
            self.running[start_fit(sets, images.solver, seed, config)] = images.name, seed, file

    def cache_next(self) -> None:
        """Wait for the next task to end, and cache its result."""
        (ended,), _ = ray.wait(list(self.running))
        name, seed, file = self.running.pop(ended)
        try:
            found = ray.get(ended)
        except RayError as error:
            self.failed.append(fit_error(name, seed, error))
            self.log(f"transfer to {name}, seed {seed}: failed; waiting for the running fits")
            return
        self.cache.write(file, json.dumps(found, indent=2).encode())
        self.log(f"transfer to {name}: top-1 {found['top1']:.2%}")


def fit_error(name: str, seed: int, error: RayError) -> Exception:
    """Return the error for a failed fit: one line if a user can fix it, else Ray's error with the traceback."""
    cause = error.cause if isinstance(error, RayTaskError) else None
    if isinstance(cause, ValueError):
        return EvaluationError(f"Transfer to {name} with seed {seed}: {cause} Finished fits are kept.")
    error.add_note(f"In the transfer to {name} with seed {seed}. Finished fits are kept.")
    return error


def start_fit(sets: ray.ObjectRef, solver: Solver, seed: int, config: EvaluationConfig) -> ray.ObjectRef:
    """Start a Ray task that fits a classifier, on a GPU if networks use one and the solver benefits."""
    on_gpu = solver == "sgd" and config.gpus_per_actor > 0
    options = {"num_gpus": config.gpus_per_actor, "label_selector": config.label_selector} if on_gpu else {}
    fit: Any = ray.remote(num_cpus=1, **options)(fit_in_task)
    return fit.remote(sets, solver, seed, "cuda" if on_gpu else "cpu")


def fit_in_task(sets: tuple[LabeledFeatures, LabeledFeatures], solver: Solver, seed: int, device: str) -> Transfer:
    """Return the test results of a linear classifier on features."""
    return fit_transfer(*sets, solver, device, seed)


def mean_over_seeds(found: Sequence[Transfer]) -> dict[str, Any]:
    """Return the mean of a set's results over seeds, with Student's 95% interval for top-1 if there are several."""
    means = {
        name: float(np.mean([each[name] for each in found])) for name in ("top1", "mean_per_class", "validation_top1")
    }
    numbers = {name: found[0][name] for name in ("num_trainval", "num_test", "num_classes")}
    interval = student_interval([each["top1"] for each in found])
    return {**means, "top1_interval": interval, **numbers, "num_seeds": len(found), "seeds": list(found)}


def group_means(results: Mapping[str, TransferResult]) -> dict[str, GroupResult]:
    """Return the mean top-1 of each group with results, and over how many sets."""
    groups = {group: [results[name]["top1"] for name in names if name in results] for group, names in GROUPS.items()}
    return {
        group: {"top1": float(np.mean(found)), "num_sets": len(found), "num_sets_in_all": len(GROUPS[group])}
        for group, found in groups.items()
        if found
    }


def result_file(transfer: TransferSet, outputs: Sequence[Outputs], seed: int) -> str:
    """Return the cache file of a result, which may have taken hours.

    Recomputed features are in files with other names, so classifiers are fitted to them again.
    """
    key = {
        "version": TRANSFER_VERSION,
        "features": [[path.name for path in each.cache.parts()] for each in outputs],
        "rows": [zlib.crc32(each.rows.tobytes()) for each in outputs],
        "solver": transfer.solver,
        "seed": seed,
    }
    return f"{folder_name(f'transfer-{transfer.name}', key)}.json"
