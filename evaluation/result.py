"""What an evaluation comes to, as `evaluation.json` has it: written by `evaluate`, checked when it is read again.

Fractions are 0..1. What may be missing was not measured; defaults stand for what files of earlier versions lack.
"""

from typing import Annotated, NotRequired

from pydantic import BeforeValidator, ConfigDict, Field, Strict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

Interval = Annotated[tuple[float, float], Strict(strict=False)]
"""Lower and upper end of an interval of 95%; a list in JSON."""


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

    trained_on: Annotated[str, Field(default="generated")]
    """`generated`, `real`, or both."""

    recipe_sha256: str
    guidance_scale: list[float]
    templates: list[str]
    augmentation: str


class Circumstances(TypedDict):
    """Where and when it was evaluated."""

    commit: str
    machine: str
    date: str


class ClassResult(TypedDict):
    """The numbers of one class's images; accuracies and interval are None without images."""

    label: int
    class_name: str
    num_images: int
    num_top1: int
    num_top5: int
    top1: float | None
    top5: float | None
    top1_interval: Interval | None


class Confusion(TypedDict):
    """How many images of a class have a certain first guess; with accepted labels that need not be a wrong one."""

    label: int
    predicted: int
    num_images: int


class CalibrationBin(TypedDict):
    """Images whose first guesses are about equally confident."""

    confidence: float
    """Mean of them."""

    accuracy: float
    """Share of right first guesses."""

    num_images: int
    """At least 1."""


class Measures(TypedDict):
    """The numbers of a classifier's guesses."""

    num_images: int
    """Images counted."""

    num_without_label: int
    """Images left out, as no label is accepted for them."""

    top1: float
    """Share of images whose first guess is right."""

    top1_interval: Interval

    top5: float
    """Share of images with a right one among the guesses (five or fewer)."""

    top5_interval: Interval

    mean_per_class_top1: float
    """Mean of top1 over the classes with images, which count alike."""

    ece: float
    """Expected calibration error: mean over images of their bin's |accuracy - confidence|."""

    ece_interval: Interval
    """By the percentile bootstrap over images, all others by Wilson. Resampling widens small gaps: a well-calibrated
    classifier's interval may lie above its `ece`.
    """

    calibration: list[CalibrationBin]
    """Bins that hold images, by rising confidence."""

    per_class: list[ClassResult]
    """Every competing class, by label."""

    confusions: list[Confusion]
    """All pairs that occur, the diagonal too, by label, then predicted."""


class SetResult(Measures):
    """The numbers of one set of real images, and which images these are of."""

    num_shared_classes: int
    num_unreadable: int
    unreadable: list[str]
    images: Annotated[str, Field(default="")]
    """Tells the images that are counted: two models are compared on the same ones."""

    top1_hits: Annotated[str, Field(default="")]
    """Which of them are right, packed as text."""


class Representation(TypedDict):
    """Four numbers on the features of labelled images."""

    sparsity: float
    """Share of activations that are next to zero, 0..1."""

    intra_class_distance: float
    """Mean distance of two normalised features of a class, 0..2."""

    feature_redundancy: float
    """Mean |Pearson correlation| of two dimensions, 0..1."""

    coding_length: float
    """In nats, 0 or more; it grows with the volume that the features fill."""


class RepresentationResult(Representation):
    """What the features of a set's images are like."""

    set: str
    num_images: int
    num_unreadable: int
    num_dimensions: int


class LinearResult(TypedDict):
    """How a linear classifier on the features does on the test images of a set of other classes."""

    top1: float
    """Share of the test images that are classified right."""

    mean_per_class: float
    """Mean over the classes of the test images of the share within the class."""

    validation_top1: float
    """Share of the validation images, which its settings were chosen for."""

    num_classes: int
    num_trainval: int
    num_test: int


class TransferResult(LinearResult):
    """The mean over seeds."""

    top1_interval: Annotated[Interval | None, Field(default=None)]
    num_seeds: Annotated[int, Field(default=1)]
    num_unreadable: Annotated[int, Field(default=0)]
    split: Annotated[str, Field(default="")]
    """`published` by the set's authors, or `drawn` here."""


class GroupResult(TypedDict):
    """The mean over a group of sets."""

    top1: float
    num_sets: int
    num_sets_in_all: int


class Transfers(TypedDict):
    """All sets of them."""

    sets: dict[str, TransferResult]
    groups: Annotated[dict[str, GroupResult], Field(default_factory=dict)]
    log_odds_average: float | None
    """arXiv 1805.08974."""


class Results(TypedDict):
    """What is measured of a model."""

    sets: dict[str, SetResult]
    representation: NotRequired[RepresentationResult]
    transfer: NotRequired[Annotated[Transfers | None, BeforeValidator(lambda found: found or None)]]


@with_config(ConfigDict(strict=True, extra="allow"))
class Evaluation(Results):
    """What `evaluation.json` holds; numbers are no text, and other keys are kept as they are, all the way down."""

    model: ModelFacts
    circumstances: Circumstances
    settings: str
    """YAML of the job's config."""


def read_evaluation(text: bytes) -> Evaluation:
    """Return the evaluation in a JSON; ValueError with the first place at which it is none."""
    try:
        return TypeAdapter(Evaluation).validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            raise ValueError(first["msg"]) from error
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        raise ValueError(f"{place or 'the whole'} is missing, or of another type") from error
