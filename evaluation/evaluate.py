"""Evaluate a model on real images: classification, representation, transfer."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evaluation.config import EvaluationConfig
from evaluation.images.class_names import NOT_SHARED, matching_labels
from evaluation.images.digits import DIGITS, digit_images
from evaluation.images.real_sets import RealSet, whole_set
from evaluation.images.transfer_sets import TransferSet, open_transfer_set
from evaluation.inference.network import KINDS, Kinds
from evaluation.inference.outputs import Outputs, infer_sets
from evaluation.inference.trained_model import EvaluatedModel
from evaluation.inference.transfers import transfer
from evaluation.metrics.classification import Guesses, is_counted, measure, top1_hits
from evaluation.metrics.intervals import pack_hits
from evaluation.metrics.representation import describe
from evaluation.result import RepresentationResult, Results, SetResult
from generation.recipes.labels import LabelSpace, load_label_space

Log = Callable[[str], None]


@dataclass(frozen=True)
class EvaluationPlan:
    """Images to evaluate on, listed but not opened."""

    sets: list[RealSet]
    transfers: list[TransferSet]


def open_transfer(name: str, config: EvaluationConfig, label_space: LabelSpace) -> TransferSet:
    """Return the images of a transfer set; for `digits`, of the classes that the classifier does not know."""
    if name == DIGITS:
        return unknown_digits(label_space)
    if name not in config.paths:
        raise ValueError(f"evaluation.transfer lists '{name}', which has no path. Add evaluation.paths.{name}=FOLDER.")
    return open_transfer_set(name, config.paths[name])


def unknown_digits(label_space: LabelSpace) -> TransferSet:
    """Return the digits of classes that the classifier does not know; ValueError for fewer than two classes."""
    is_unknown = matching_labels(load_label_space(DIGITS), label_space) == NOT_SHARED
    if is_unknown.sum() < 2:
        raise ValueError(
            f"evaluation.transfer lists 'digits', but the classifier ({label_space.name}) knows all of them, or all "
            "but one. Train a classifier on some digits, such as zero to four."
        )
    trainval, test = (
        whole_set(f"{DIGITS}/{part}", "", source, is_unknown[source.class_numbers()])
        for part, source in (("trainval", digit_images(for_training=True)), ("test", digit_images()))
    )
    return TransferSet(DIGITS, trainval, test, "lbfgs", "published")


def evaluate(
    model: EvaluatedModel, planned: EvaluationPlan, config: EvaluationConfig, folder: Path, log: Log
) -> Results:
    """Return the results under the names used in tables and pages; fractions are 0..1.

    Each image is read once, the sets' images first. Features of one set are in memory at a time; of transfer sets,
    those being fitted, at most one set per core. ValueError if there are too few images for a metric.
    """
    described = planned.sets[:1] if config.representation else []
    requested: dict[RealSet, Kinds] = {
        images: KINDS if images in described else ("guesses",) for images in planned.sets
    }
    set_outputs = infer_sets(requested, model, config, folder, log)
    results: Results = {"sets": {}}
    for images in planned.sets:
        measures = results["sets"][images.name] = classification(model, images, set_outputs[images])
        log(f"{images.name}: top-1 {measures['top1']:.2%} of {measures['num_images']:,} images")
    for images in described:
        results["representation"] = representation(images, set_outputs[images])
    if planned.transfers:
        featured = [images for each in planned.transfers for images in (each.trainval, each.test)]
        features = infer_sets(dict.fromkeys(featured, ("features",)), model, config, folder, log)
        results["transfer"] = transfer(planned.transfers, features, config, folder, log)
    return results


def classification(model: EvaluatedModel, images: RealSet, outputs: Outputs) -> SetResult:
    """Return the classification results of one set."""
    accepted = [images.accepted_labels[row] for row in outputs.rows.tolist()] if images.accepted_labels else None
    guesses = Guesses(images.labels[outputs.rows], outputs.read("prediction"), outputs.read("confidence"), accepted)
    counted = images.positions[outputs.rows[is_counted(guesses)]]
    return {
        **measure(guesses, model.label_space.class_names, images.shared_labels),
        "images": f"{images.source.names_hash} {zlib.crc32(counted.tobytes())}",
        "top1_hits": pack_hits(top1_hits(guesses)),
        "num_unreadable": len(outputs.unreadable),
        "unreadable": list(outputs.unreadable),
        "num_shared_classes": len(images.shared_labels),
    }


def representation(images: RealSet, outputs: Outputs) -> RepresentationResult:
    """Return the representation metrics of a set's features."""
    features = outputs.read("feature")
    return {
        "set": images.name,
        "num_images": len(features),
        "num_unreadable": len(outputs.unreadable),
        "num_dimensions": features.shape[1],
        **describe(features, images.labels[outputs.rows]),
    }
