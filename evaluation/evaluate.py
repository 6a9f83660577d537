"""All that is told of a model on real images: how it classifies them, what its features are like and serve for."""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray

from evaluation.class_names import NOT_SHARED, matching_labels
from evaluation.config import EvaluationConfig
from evaluation.decoding import Crop
from evaluation.digit_images import DIGITS, DigitImages
from evaluation.inference import KINDS, Kinds
from evaluation.intervals import packed
from evaluation.kept_outputs import folder_name
from evaluation.metrics import Guesses, is_counted, measure, to_json, top1_hits
from evaluation.model import Looked
from evaluation.outputs import Outputs, outputs_of
from evaluation.reading import crop_for
from evaluation.real_sets import RealSet, open_sets, whole_set
from evaluation.representation import describe
from evaluation.transfer import Labelled, Solver, Transfer, fit_transfer, log_odds_average
from evaluation.transfer_sets import open_transfer_set
from generation.labels import LabelSpace, load_label_space
from generation.storage import Storage

TRANSFER_VERSION = 1
"""Of how classifiers are fitted to features: with another, none that is kept is used."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class TransferImages:
    """A set of other classes to tell apart by a network's features."""

    name: str
    trainval: RealSet
    test: RealSet
    solver: Solver
    split: str
    """`published` by the set's authors, or `drawn` here."""


@dataclass(frozen=True)
class Planned:
    """Images to evaluate on, all listed and none opened."""

    sets: list[RealSet]
    transfers: list[TransferImages]


def plan_evaluation(config: EvaluationConfig, label_space: LabelSpace) -> Planned:
    """Return the images that the settings name, for a classifier of these classes; ValueError for what cannot be."""
    transfers = [open_transfer(name, config, label_space) for name in config.transfer]
    return Planned(open_sets(config, label_space), transfers)


def open_transfer(name: str, config: EvaluationConfig, label_space: LabelSpace) -> TransferImages:
    """Return the images of a transfer set; of `digits` those of classes that the classifier does not know."""
    if name == DIGITS:
        return unknown_digits(label_space)
    if name not in config.paths:
        raise ValueError(
            f"evaluation.transfer has '{name}', and where its images are is not said. Add "
            f"evaluation.paths.{name}=FOLDER."
        )
    found, place = open_transfer_set(name, config.paths[name]), config.paths[name]
    trainval = whole_set(f"{name}/trainval", place, found.trainval)
    return TransferImages(name, trainval, whole_set(f"{name}/test", place, found.test), found.solver, found.split)


def unknown_digits(label_space: LabelSpace) -> TransferImages:
    """Return the digits of classes that a classifier does not know; ValueError if there are not two."""
    is_unknown = matching_labels(load_label_space(DIGITS), label_space) == NOT_SHARED
    if is_unknown.sum() < 2:
        raise ValueError(
            f"evaluation.transfer has 'digits', but {label_space.name} has all of them, or all but one. Train a "
            "classifier of some of them, such as zero to four."
        )
    trainval, test = (
        whole_set(f"{DIGITS}/{part}", "", source, is_unknown[source.class_numbers()])
        for part, source in (("trainval", DigitImages(for_training=True)), ("test", DigitImages()))
    )
    return TransferImages(DIGITS, trainval, test, "lbfgs", "published")


def check_shown(planned: Planned, config: EvaluationConfig, own: Crop) -> None:
    """Raise ValueError if images cannot be shown as configured to a network that by default is shown `own`."""
    for images in planned.sets:
        crop_for(own, config, images.has_border)


def evaluate(model: Looked, planned: Planned, config: EvaluationConfig, outputs: Path, say: Say) -> dict[str, Any]:
    """Return what tables and pages are made of, by what each is called there; fractions are 0..1.

    Images are looked at once, the sets' first; of features one set's at a time are in memory. ValueError where images
    are too few for what is asked.
    """
    described = planned.sets[:1] if config.representation else []
    wanted: dict[RealSet, Kinds] = {images: KINDS if images in described else ("guesses",) for images in planned.sets}
    said = outputs_of(wanted, model, config, outputs, say)
    told: dict[str, Any] = {"sets": {}}
    for images in planned.sets:
        measures = told["sets"][images.name] = classification(model, images, said[images])
        say(f"{images.name}: top-1 {measures['top1']:.2%} of {measures['num_images']:,} images")
    for images in described:
        told["representation"] = representation(images, said[images])
    if planned.transfers:
        featured = [images for each in planned.transfers for images in (each.trainval, each.test)]
        features = outputs_of(dict.fromkeys(featured, ("features",)), model, config, outputs, say)
        told["transfer"] = transfer(planned.transfers, features, config, outputs, say)
    return told


def classification(model: Looked, images: RealSet, said: Outputs) -> dict[str, Any]:
    """Return the numbers of one set."""
    accepted = [images.accepted[row] for row in said.rows.tolist()] if images.accepted else None
    guesses = Guesses(images.labels[said.rows], said.read("prediction"), said.read("confidence"), accepted)
    return {
        **to_json(measure(guesses, model.label_space.class_names, images.shared)),
        **of_each_image(images, said, guesses),
        "num_unreadable": len(said.unreadable),
        "unreadable": list(said.unreadable),
        "num_shared_classes": len(images.shared),
    }


def of_each_image(images: RealSet, said: Outputs, guesses: Guesses) -> dict[str, Any]:
    """Return which images are right, as text, and what tells these images: two models are compared on the same ones."""
    positions = images.positions[said.rows[is_counted(guesses)]]
    told = f"{images.source.names_hash} {zlib.crc32(positions.tobytes())}"
    return {"images": told, "top1_hits": packed(top1_hits(guesses))}


def representation(images: RealSet, said: Outputs) -> dict[str, Any]:
    """Return what the features of a set's images are like."""
    features = said.read("feature")
    told = {"set": images.name, "num_images": len(features), "num_unreadable": len(said.unreadable)}
    return {**told, "num_dimensions": features.shape[1], **asdict(describe(features, images.labels[said.rows]))}


def transfer(
    transfers: Sequence[TransferImages],
    features: Mapping[RealSet, Outputs],
    config: EvaluationConfig,
    outputs: Path,
    say: Say,
) -> dict[str, Any]:
    """Return how well frozen features tell other classes apart, by set, and their mean log odds."""
    told: dict[str, Any] = {}
    kept = Storage(str(outputs))
    for each in transfers:
        said = [features[images] for images in (each.trainval, each.test)]
        name = name_of_kept(each, said)
        if not kept.exists(name):
            trainval, test = (labelled(*pair) for pair in zip((each.trainval, each.test), said, strict=True))
            say(f"transfer to {each.name}: {len(trainval.labels):,} images to fit, {len(test.labels):,} to test")
            found = fitted(trainval, test, each.solver, config, say)
            kept.write(name, json.dumps(asdict(found), indent=2).encode())
        found = Transfer(**json.loads(kept.read(name)))
        num_unreadable = sum(len(one.unreadable) for one in said)
        told[each.name] = {**asdict(found), "split": each.split, "num_unreadable": num_unreadable}
        say(f"transfer to {each.name}: top-1 {found.top1:.2%}")
    average = log_odds_average([each["top1"] for each in told.values()], [each["num_test"] for each in told.values()])
    return {"sets": told, "log_odds_average": average}


def name_of_kept(transfer: TransferImages, said: Sequence[Outputs]) -> str:
    """Return the file that keeps what was found, which may have taken hours.

    Features that are worked out anew, whatever for, are in files of other names, and are fitted anew.
    """
    key = {
        "version": TRANSFER_VERSION,
        "features": [each.kept.parts() for each in said],
        "rows": [zlib.crc32(each.rows.tobytes()) for each in said],
        "solver": transfer.solver,
    }
    return f"{folder_name(f'transfer-{transfer.name}', key)}.json"


def fitted(trainval: Labelled, test: Labelled, solver: Solver, config: EvaluationConfig, say: Say) -> Transfer:
    """Return how a linear classifier does, fitted here, or on a GPU where networks have one and the solver likes it."""
    if solver != "sgd" or not config.gpus_per_actor:
        return fit_transfer(trainval, test, solver, say=say)
    on_gpu: Any = ray.remote(num_gpus=config.gpus_per_actor, label_selector=config.label_selector)(fit_transfer)
    return ray.get(on_gpu.remote(trainval, test, solver, device="cuda"))


def labelled(images: RealSet, said: Outputs) -> Labelled:
    """Return features with the labels of their images."""
    return Labelled(said.read("feature"), images.labels[said.rows])
