"""Settings of evaluation: real image sets, metrics, and resources."""

from dataclasses import dataclass, field
from typing import Literal

from generation.ranges import AtLeastOne, Count, Documented, Gpus, check_ranges


@dataclass(frozen=True)
class EvaluationConfig(Documented):
    """How a classifier is evaluated on real images."""

    sets: tuple[str, ...] = ()
    """Real image sets to evaluate on: `imagenet_val` and others in docs/evaluation.md, or any name with a folder in
    `paths`. `digits` are 540 real handwritten digits that are never trained on. If this and `transfer` are empty, a run
    ends without evaluation.
    """

    paths: dict[str, str] = field(default_factory=dict)
    """Folder of each set, by name. `imagenet_devkit` is ImageNet's devkit, for validation images that are not in class
    folders."""

    transfer: tuple[str, ...] = ()
    """Sets of other classes, such as `dtd` (all are in docs/evaluation.md), each with its folder in `paths`, on which a
    linear classifier is fitted to the frozen features.
    """

    transfer_seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of transfer. Each decides the validation images, the settings tried and the order of training; results are
    the mean over seeds with an interval.
    """

    every_images: Count = 0
    """A training run saves its weights each time it has trained on this many images, to evaluate accuracy over images
    and device time with `ray_jobs.evaluate checkpoint=RUN`, during the run or later. 0 saves only the last weights. At
    least `training.global_batch_size`.
    """

    representation: bool = False
    """Whether to measure the representation (sparsity, redundancy, ...) on the first set's images."""

    resize_size: Count = 0
    """Size in pixels to which an image's shorter side is resized before the crop. 0 is 256/224 of the crop, or the size
    that torchvision or timm defines for its weights. Ignored for digits, which are not cropped."""

    crop_size: Count = 0
    """Height and width of the center crop, in pixels; 0 is the size that the classifier was trained on."""

    interpolation: Literal["own", "bilinear", "bicubic"] = "own"
    """Interpolation when resizing; `own` is bilinear, or what torchvision or timm defines for its weights."""

    upright: bool = False
    """Whether images are rotated by their EXIF orientation; torchvision does not do this."""

    allow_unreadable: Count = 0
    """Number of undecodable images per set that are skipped; with more, the job fails."""

    allow_missing_classes: bool = False
    """Whether a set may lack images of some of its classes; predictions are then restricted to the classes it has."""

    outputs: str = ""
    """Folder in which network outputs are cached as Parquet and reused; empty is `outputs` next to the checkpoint."""

    batch_size: AtLeastOne = 128
    """Images per batch on each actor."""

    num_actors: AtLeastOne = 1
    """Actors that run inference, each with a copy of the classifier."""

    num_readers: AtLeastOne = 2
    """Processes that read and decode images."""

    gpus_per_actor: Gpus = 0.0
    """GPUs per actor; 0 runs inference on the CPU."""

    label_selector: dict[str, str] = field(default_factory=dict)
    """Ray node labels that restrict where actors run, as for `generation.label_selector`; empty allows any node."""

    threads_per_actor: AtLeastOne = 2
    """Threads that torch uses in an actor; Ray reserves one core for each actor."""

    def __post_init__(self) -> None:
        """Reject invalid settings before anything starts."""
        check_ranges(self, "evaluation")
        if not self.transfer_seeds or len(set(self.transfer_seeds)) < len(self.transfer_seeds):
            raise ValueError(
                f"evaluation.transfer_seeds is {list(self.transfer_seeds)}; use one or more different seeds."
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
