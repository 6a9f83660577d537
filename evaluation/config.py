"""Settings of evaluation: which real images, what is told of them, and on what."""

from dataclasses import dataclass, field
from typing import Literal

from generation.ranges import AtLeastOne, Count, Gpus, check_ranges


@dataclass(frozen=True)
class EvaluationConfig:
    """How a classifier is tested on real images."""

    sets: tuple[str, ...] = ()
    """Names in `images.real_sets.KNOWN`, or others that `paths` has; with none, and no `transfer`, a run ends
    without a test. `digits` are 540 real handwritten digits that nothing was trained on.
    """

    paths: dict[str, str] = field(default_factory=dict)
    """Where sets are, by name; `imagenet_devkit` too, where validation images are not sorted into folders."""

    transfer: tuple[str, ...] = ()
    """Names of `evaluation.images.transfer_sets`, each with its place in `paths`: other classes, told apart by frozen
    features.
    """

    transfer_seeds: tuple[int, ...] = (0, 1, 2)
    """Of the validation images, the settings tried and the order of training in transfer: of several seeds the mean is
    told, with its interval.
    """

    every_images: Count = 0
    """After how many images trained on a run keeps its weights, each time; `ray_jobs.evaluate checkpoint=RUN` evaluates
    them while it goes on, or later: how accuracy grew with images and device time. 0 keeps the last ones alone. As many
    as `training.global_batch_size`, or more.
    """

    representation: bool = False
    """Whether the features of the first set's images are described."""

    resize_size: Count = 0
    """What an image's shorter side is made, in pixels; 0 is 256/224 of the crop, or what weights of
    torchvision's or timm's go by. Digits are shown whole."""

    crop_size: Count = 0
    """Height and width of what is cropped from its centre, in pixels; 0 is what the classifier was trained on."""

    interpolation: Literal["own", "bilinear", "bicubic"] = "own"
    """How an image is resized; `own` is bilinear, or what weights of torchvision's or timm's go by."""

    upright: bool = False
    """Whether images are turned as their EXIF says; torchvision does not."""

    allow_unreadable: Count = 0
    """Images of a set that may be left out because they cannot be decoded; with more, the job fails."""

    allow_missing_classes: bool = False
    """Whether a set may lack images of classes that it should have; guesses are then among the others."""

    outputs: str = ""
    """Folder where what networks say of images is kept as Parquet, and is not worked out again; empty is `outputs`
    beside the checkpoint.
    """

    batch_size: AtLeastOne = 128
    """Images classified at once."""

    num_actors: AtLeastOne = 1
    """Copies of the classifier that share the images."""

    num_readers: AtLeastOne = 2
    """Processes that read and decode."""

    gpus_per_actor: Gpus = 0.0
    """0 classifies on the CPU."""

    label_selector: dict[str, str] = field(default_factory=dict)
    """Labels of the nodes that may hold an actor, as for `generation.label_selector`."""

    threads_per_actor: AtLeastOne = 2
    """Threads that torch may use in an actor; Ray counts one core as taken."""

    def __post_init__(self) -> None:
        """Refuse impossible settings before anything starts."""
        check_ranges(self, "evaluation")
        if not self.transfer_seeds or len(set(self.transfer_seeds)) < len(self.transfer_seeds):
            raise ValueError(
                f"evaluation.transfer_seeds is {list(self.transfer_seeds)}; give one or more different seeds."
            )
        if 0 < self.resize_size < self.crop_size:
            raise ValueError(
                f"evaluation.resize_size is {self.resize_size}, smaller than crop_size; use {self.crop_size} or more."
            )
        for which, names in (("sets", self.sets), ("transfer", self.transfer)):
            if twice := {name for name in names if names.count(name) > 1}:
                raise ValueError(f"evaluation.{which} lists {', '.join(sorted(twice))} more than once; list each once.")
        for name in self.paths:
            if name.split("/", maxsplit=1)[0] == "digits":
                raise ValueError(f"evaluation.paths.{name} is set, but the digits ship with Figment. Remove it.")
        if self.representation and not self.sets:
            raise ValueError("evaluation.representation is true, but evaluation.sets is empty. Add a set.")

    def check_step(self, num_images: int) -> None:
        """Raise ValueError if `every_images` is smaller than an optimisation step."""
        if 0 < self.every_images < num_images:
            raise ValueError(
                f"evaluation.every_images is {self.every_images}, smaller than a step (training.global_batch_size); "
                f"use {num_images} or more."
            )
