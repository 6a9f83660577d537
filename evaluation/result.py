"""What an evaluation comes to, as `evaluation.json` has it: written by `evaluate`, checked when it is read again.

Fractions are 0..1. What may be missing was not measured.
"""

import json
from typing import Any, NotRequired

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

STRICT = ConfigDict(strict=True, extra="allow")
"""Numbers are no text, and other keys are kept as they are."""

Pair = tuple[float, float]
"""Lower and upper end of an interval of 95%."""


@with_config(STRICT)
class ModelFacts(TypedDict):
    """Which model was evaluated."""

    name: str
    architecture: str
    checkpoint: str
    label_space: str
    num_classes: int
    image_size: int
    num_images: int
    """Different ones that it was trained on, other than real ones that were mixed in."""

    num_trained: int
    """All uses of them."""

    trained_on: str
    """`generated`, `real`, or both."""

    recipe_sha256: str
    guidance_scale: list[float]
    templates: list[str]
    augmentation: str


@with_config(STRICT)
class Circumstances(TypedDict):
    """Where and when it was evaluated."""

    commit: str
    machine: str
    date: str


@with_config(STRICT)
class ClassResult(TypedDict):
    """`metrics.classification.ClassMeasures`."""

    label: int
    class_name: str
    num_images: int
    num_top1: int
    num_top5: int
    top1: float | None
    top5: float | None
    top1_interval: Pair | None


@with_config(STRICT)
class ConfusionResult(TypedDict):
    """`metrics.classification.Confusion`."""

    label: int
    predicted: int
    num_images: int


@with_config(STRICT)
class BinResult(TypedDict):
    """`metrics.classification.CalibrationBin`."""

    confidence: float
    accuracy: float
    num_images: int


@with_config(STRICT)
class SetResult(TypedDict):
    """The numbers of one set of real images: `metrics.classification.Measures`, and which images these are of."""

    num_images: int
    num_without_label: int
    num_shared_classes: int
    num_unreadable: int
    unreadable: list[str]
    top1: float
    top1_interval: Pair
    top5: float
    top5_interval: Pair
    mean_per_class_top1: float
    ece: float
    ece_interval: Pair
    calibration: list[BinResult]
    per_class: list[ClassResult]
    confusions: list[ConfusionResult]
    images: str
    """Tells the images that are counted: two models are compared on the same ones."""

    top1_hits: str
    """Which of them are right, packed as text."""


@with_config(STRICT)
class RepresentationResult(TypedDict):
    """What the features of a set's images are like: `metrics.representation.Representation`, and of which images."""

    set: str
    num_images: int
    num_unreadable: int
    num_dimensions: int
    sparsity: float
    intra_class_distance: float
    feature_redundancy: float
    coding_length: float


@with_config(STRICT)
class TransferResult(TypedDict):
    """How linear classifiers on the features do on a set, in the mean over seeds."""

    top1: float
    top1_interval: Pair | None
    mean_per_class: float
    validation_top1: float
    num_classes: int
    num_trainval: int
    num_test: int
    num_seeds: int
    num_unreadable: int
    split: str
    """`published` by the set's authors, or `drawn` here."""


@with_config(STRICT)
class GroupResult(TypedDict):
    """The mean over a group of sets."""

    top1: float
    num_sets: int
    num_sets_in_all: int


@with_config(STRICT)
class Transfers(TypedDict):
    """All sets of them."""

    sets: dict[str, TransferResult]
    groups: dict[str, GroupResult]
    log_odds_average: float | None
    """arXiv 1805.08974."""


class Results(TypedDict):
    """What is measured of a model."""

    sets: dict[str, SetResult]
    representation: NotRequired[RepresentationResult]
    transfer: NotRequired[Transfers]


@with_config(STRICT)
class Evaluation(Results):
    """What `evaluation.json` holds."""

    model: ModelFacts
    circumstances: Circumstances
    settings: str
    """YAML of the job's config."""


LATER = {
    "model": {"trained_on": "generated"},
    "sets": {"images": "", "top1_hits": ""},
    "transfer": {"split": "", "num_seeds": 1, "num_unreadable": 0, "top1_interval": None},
}
"""What files of earlier versions lack, and what stands for it."""


def read_evaluation(text: bytes) -> Evaluation:
    """Return the evaluation in a JSON; ValueError with the first place at which it is none."""
    try:
        return TypeAdapter(Evaluation).validate_json(json.dumps(completed(json.loads(text))))
    except ValidationError as error:
        raise ValueError(fault(error)) from error


def completed(evaluation: Any) -> Any:
    """Return a JSON with what `LATER` has, as far as its shape is that of an evaluation."""
    if not isinstance(evaluation, dict):
        return evaluation
    if not evaluation.get("transfer", True):
        del evaluation["transfer"]
    transfer = evaluation.get("transfer", {})
    if isinstance(transfer, dict) and transfer:
        transfer.setdefault("groups", {})
    sets, transfer_sets = evaluation.get("sets"), transfer.get("sets") if isinstance(transfer, dict) else None
    for kind, parts in (("model", {"": evaluation.get("model")}), ("sets", sets), ("transfer", transfer_sets)):
        for part in parts.values() if isinstance(parts, dict) else ():
            if isinstance(part, dict):
                part |= {name: value for name, value in LATER[kind].items() if name not in part}
    return evaluation


def fault(error: ValidationError) -> str:
    """Return in a few words what is wrong, of several things the first."""
    first = error.errors()[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    return f"{place or 'the whole'} is missing, or of another type"
