"""Schema of `evaluation.json`, written by `evaluate` and validated when it is read.

Fractions are 0..1. Optional entries were not measured; defaults replace entries that older files lack.
"""

from typing import Annotated, NotRequired

from pydantic import BeforeValidator, ConfigDict, Field, Strict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

Interval = Annotated[tuple[float, float], Strict(strict=False)]
"""Lower and upper bound of a 95% interval; a list in JSON."""


class ModelFacts(TypedDict):
    """The evaluated model."""

    name: str
    architecture: str
    checkpoint: str
    label_space: str
    num_classes: int
    image_size: int
    num_images: int
    """Distinct training images, without real images that were mixed in."""

    num_trained: int
    """Uses of training images in all."""

    trained_on: Annotated[str, Field(default="generated")]
    """`generated`, `real`, or both."""

    recipe_sha256: str
    guidance_scale: list[float]
    templates: list[str]
    augmentation: str


class EvaluationEnvironment(TypedDict):
    """Where and when the model was evaluated."""

    commit: str
    machine: str
    date: str


class ClassResult(TypedDict):
    """Results of one class; accuracies and interval are None without images."""

    label: int
    class_name: str
    num_images: int
    num_top1: int
    num_top5: int
    top1: float | None
    top5: float | None
    top1_interval: Interval | None


class Confusion(TypedDict):
    """Number of images of a class with one top prediction, correct or not (several labels may be accepted)."""

    label: int
    predicted: int
    num_images: int


class CalibrationBin(TypedDict):
    """Images with similar confidence in their top prediction."""

    confidence: float
    """Mean confidence."""

    accuracy: float
    """Fraction of correct top predictions."""

    num_images: int
    """At least 1."""


class Measures(TypedDict):
    """Classification metrics."""

    num_images: int
    """Images counted."""

    num_without_label: int
    """Images skipped because they have no accepted label."""

    top1: float
    """Fraction of images with a correct top prediction."""

    top1_interval: Interval

    top5: float
    """Fraction of images with a correct label among the predictions (five or fewer)."""

    top5_interval: Interval

    mean_per_class_top1: float
    """Unweighted mean of top1 over the classes with images."""

    ece: float
    """Expected calibration error: mean over images of their bin's |accuracy - confidence|."""

    ece_interval: Interval
    """Percentile bootstrap over images; all other intervals are Wilson's. Resampling widens small gaps: the interval of
    a well-calibrated classifier may lie above its `ece`.
    """

    calibration: list[CalibrationBin]
    """Non-empty bins, by ascending confidence."""

    per_class: list[ClassResult]
    """All classes that predictions are restricted to, by label."""

    confusions: list[Confusion]
    """All pairs that occur, including the diagonal, by label, then prediction."""


class SetResult(Measures):
    """Classification metrics of one set of real images, and which images they cover."""

    num_shared_classes: int
    num_unreadable: int
    unreadable: list[str]
    images: Annotated[str, Field(default="")]
    """Identifies the images counted; two models are only compared on the same images."""

    top1_hits: Annotated[str, Field(default="")]
    """Which of these images have a correct top prediction, packed as text."""


class Representation(TypedDict):
    """Four metrics of the features of labeled images."""

    sparsity: float
    """Fraction of activations near zero, 0..1."""

    intra_class_distance: float
    """Mean distance between two normalized features of a class, 0..2."""

    feature_redundancy: float
    """Mean |Pearson correlation| between two dimensions, 0..1."""

    coding_length: float
    """In nats, 0 or more; grows with the volume that the features span."""


class RepresentationResult(Representation):
    """Representation metrics of a set's features."""

    set: str
    num_images: int
    num_unreadable: int
    num_dimensions: int


class LinearResult(TypedDict):
    """Test results of a linear classifier fitted to frozen features on a set of other classes."""

    top1: float
    """Fraction of test images classified correctly."""

    mean_per_class: float
    """Unweighted mean of the per-class accuracies on the test images."""

    validation_top1: float
    """Fraction of validation images classified correctly; the settings were chosen on these."""

    num_classes: int
    num_trainval: int
    num_test: int


class TransferResult(LinearResult):
    """Mean over seeds."""

    top1_interval: Annotated[Interval | None, Field(default=None)]
    num_seeds: Annotated[int, Field(default=1)]
    num_unreadable: Annotated[int, Field(default=0)]
    split: Annotated[str, Field(default="")]
    """Origin of the test split: `published` by the authors, or `drawn` by Figment."""


class GroupResult(TypedDict):
    """Mean over a group of sets."""

    top1: float
    num_sets: int
    num_sets_in_all: int


class Transfers(TypedDict):
    """Results of all transfer sets."""

    sets: dict[str, TransferResult]
    groups: Annotated[dict[str, GroupResult], Field(default_factory=dict)]
    log_odds_average: float | None
    """Mean log odds of top-1 over sets (arXiv 1805.08974)."""


class Results(TypedDict):
    """Everything measured on a model."""

    sets: dict[str, SetResult]
    representation: NotRequired[RepresentationResult]
    transfer: NotRequired[Annotated[Transfers | None, BeforeValidator(lambda found: found or None)]]


@with_config(ConfigDict(strict=True, extra="allow"))
class Evaluation(Results):
    """Contents of `evaluation.json`; rejects numbers given as text, and keeps unknown keys unchanged at every level."""

    model: ModelFacts
    circumstances: EvaluationEnvironment
    settings: str
    """YAML of the job's config."""


def read_evaluation(text: bytes) -> Evaluation:
    """Return the evaluation in a JSON file's bytes; ValueError naming the first invalid entry."""
    try:
        return TypeAdapter(Evaluation).validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            raise ValueError(first["msg"]) from error
        location = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        raise ValueError(f"{location or 'the whole file'} is missing or has the wrong type") from error
