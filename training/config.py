"""Settings of training: the classifier, its optimization, and the workers it runs on."""

from dataclasses import dataclass, field
from typing import Literal

from generation.ranges import (
    AtLeastOne,
    BelowOne,
    Count,
    Documented,
    Gpus,
    NotNegative,
    Positive,
    check_ranges,
)
from generation.recipes.plan import FIRST_HELD_OUT_INDEX

CHANGEABLE_ON_RESUME = (
    "real_images",
    "allow_unreadable",
    "num_workers",
    "gpus_per_worker",
    "cpus_per_worker",
    "label_selector",
    "threads_per_worker",
    "accumulate_batches",
    "reservoir_bytes",
    "reservoir_format",
    "reservoir_min_images",
    "max_waiting_fraction",
    "channels_last",
    "compile",
    "checkpoint_every_steps",
    "max_restarts",
    "early_stop_epochs",
    "keep_best",
    "loggers",
    "log_every_steps",
    "journal",
)
"""Settings that may change on resume: they do not affect what is learned."""


SMALLEST_CROP = 7
"""Minimum crop size in pixels: the blur kernel extends 6 pixels on each side."""


@dataclass(frozen=True)
class TrainingConfig(Documented):
    """Settings of classifier training on a stream of samples."""

    architecture: str = "resnet50"
    """Classifier architecture: a torchvision name, else a timm name; `timm/NAME` always means timm's."""

    head: Literal["linear", "cosine"] = "linear"
    """Last layer: `linear`, or `cosine`, the cosine similarity of features and class weights (arXiv 2206.15369)."""

    temperature: Positive = 0.1
    """Divisor of the cosine head's similarities; unused with `head: linear`."""

    num_images: AtLeastOne = 1_300_000
    """Images to train on in total; each reuse of an image counts."""

    reuse: int | str = 1
    """How many times each image is used for training, each time with a different augmentation (uses of an image that
    two workers share may get the same one). `auto` keeps using an image until a new one replaces it, so that training
    need not wait for generation.
    """

    min_reuse: AtLeastOne = 1
    """Minimum number of uses per image with `reuse: auto`."""

    max_reuse: int = 32
    """Maximum number of uses per image with `reuse: auto`; beyond it, training waits for new images."""

    max_waiting_fraction: BelowOne = 0.01
    """With `reuse: auto`, the fraction of time, 0 to below 1, that training may wait for new images before it reuses
    one beyond `min_reuse`.
    """

    reservoir_bytes: int = 1_000_000_000
    """Memory in bytes of each worker's reservoir, which holds the images to reuse."""

    reservoir_format: Literal["pixels", "png"] = "pixels"
    """How the reservoir stores images: raw `pixels`, or `png`, which fits more images but decodes one at every use."""

    reservoir_min_images: Count = 0
    """With reuse, the number of images that each worker's reservoir holds before the first batch is drawn, and keeps
    until the stream ends; with fewer, successive batches overlap more. 0 chooses it from batch size, number of classes
    and memory (`training.data.reservoir.min_images`); 1 starts as soon as a batch can be drawn.
    """

    real_images: str = ""
    """Real images to mix into each batch: `digits`, or a folder with one subfolder of images per class, named by synset
    or class name. Empty uses none.
    """

    real_fraction: BelowOne = 0.0
    """Fraction of real images in each batch, 0 to below 1. Each real image is used once per pass over the set; passes
    repeat as needed.
    """

    real_image_size: Count = 0
    """Side in pixels of the square that a whole real photograph must fit into before random crops: larger photographs
    are downscaled, smaller ones are not resized. 0 uses the recipe's image size.
    """

    allow_unreadable: Count = 0
    """Maximum number of undecodable real training images to skip; each is replaced by another image of its class.
    Beyond it, the run stops with an error.
    """

    upright: bool = False
    """Rotate real images by their EXIF orientation; torchvision does not."""

    separate_batch_norm: bool = False
    """Use separate batch normalization statistics for real and generated images (arXiv 1911.09665). Evaluation uses
    those of real images.
    """

    weight_by_score: bool = False
    """Weight each image's loss by its score from `recipe.check`, divided by the mean score of its batch; real images
    score 1.
    """

    soft_labels: NotNegative = 0.0
    """Weight of a second loss term, the cross-entropy with the class probabilities of the model in `recipe.check`. 0
    leaves it out; other values need `data.source: stream`, since shards store no probabilities.
    """

    num_epochs: AtLeastOne = 100
    """Number of logical epochs: equal parts of the run, each ending with validation and a checkpoint."""

    num_held_out: int = 1_000
    """Number of generated validation images, which are never trained on."""

    global_batch_size: AtLeastOne = 256
    """Images per optimization step, over all workers."""

    accumulate_batches: AtLeastOne = 1
    """Batches per optimization step and worker (gradient accumulation); batch normalization sees each one alone."""

    base_learning_rate: Positive = 0.1
    """Peak learning rate per 256 images of `global_batch_size`, scaled linearly (arXiv 1706.02677)."""

    final_learning_rate: NotNegative = 1e-6
    """Learning rate at the end of the cosine decay."""

    warmup_fraction: BelowOne = 0.1
    """Fraction of the run, 0 to below 1, in which the learning rate rises linearly from 0 to its peak."""

    momentum: NotNegative = 0.9
    """Momentum of SGD."""

    weight_decay: NotNegative = 1e-4
    """Weight decay of SGD; not applied to biases and normalization parameters."""

    ema_decay: BelowOne = 0.0
    """Decay per step of the exponential moving average of weights, which validation and checkpoints then use. 0
    disables averaging.
    """

    augmentation: Literal["none", "crop_flip", "affine", "multi_crop", "multi_crop_two_global"] = "crop_flip"
    """Augmentation of training images: `none`; `crop_flip`, random resized crops and flips, as usual for ImageNet;
    `multi_crop`, one global crop and local crops, as in t-ReX (arXiv 2206.15369); `multi_crop_two_global`, as in DINO
    (arXiv 2104.14294); `affine`, small shifts, scalings and rotations without flips, for digits.
    """

    crop_size: Count = 0
    """Side of a (global) crop in pixels; 0 uses the image size."""

    crop_scale: tuple[float, ...] = ()
    """Minimum and maximum area of a (global) crop as fractions of the image's area, above 0 and up to 1. Empty uses the
    augmentation's published values: 0.08 and 1 for `crop_flip`, 0.25 and 1 for `multi_crop`, 0.4 and 1 for
    `multi_crop_two_global`.
    """

    local_crop_scale: tuple[float, ...] = ()
    """Minimum and maximum area of a local crop as fractions of the image's area, above 0 and up to 1. Empty uses 0.05
    and 0.25 for `multi_crop`, 0.05 and 0.4 for `multi_crop_two_global`.
    """

    num_local_crops: Count = 8
    """Local crops per image with `multi_crop` and `multi_crop_two_global`; the loss is the mean over all crops."""

    local_crop_size: AtLeastOne = 96
    """Side of a local crop in pixels."""

    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    """Numeric precision, as Lightning's Trainer spells it."""

    channels_last: bool = False
    """Use the channels-last memory format, which speeds up half-precision convolutions on GPUs."""

    compile: bool = False
    """Compile the network with torch.compile, which takes a minute or more when training starts."""

    seed: int = 0
    """Random seed of initial weights, augmentation, and the order of shards and real images; 0 to 2**32 - 1."""

    deterministic: bool = False
    """Train in index order with deterministic algorithms, so that two runs on the same kind of device end with bitwise
    equal weights; slower.
    """

    checkpoint_every_steps: Count = 0
    """Optimization steps between additional checkpoints, which reduce the work lost with a worker. 0 writes checkpoints
    only at the end of each epoch.
    """

    max_restarts: Count = 3
    """How many times training restarts from its last checkpoint after losing a worker; 0 never restarts."""

    early_stop_epochs: Count = 0
    """Stop after this many epochs without improvement of the validation accuracy; 0 disables early stopping."""

    keep_best: bool = False
    """Write the checkpoint of the epoch with the best validation accuracy to `best.ckpt`."""

    loggers: tuple[str, ...] = ()
    """Loggers besides CSV and TensorBoard: `wandb` and `mlflow`; each must be installed."""

    log_every_steps: AtLeastOne = 10
    """Optimization steps between rows of metrics."""

    journal: bool = False
    """Write the samples of each step, with their use numbers, to `journal/`."""

    num_workers: AtLeastOne = 1
    """Number of Ray Train workers, each with a replica of the classifier."""

    gpus_per_worker: Gpus = 1.0
    """GPUs per worker; 0 trains on the CPU."""

    cpus_per_worker: NotNegative = 1.0
    """CPU cores that Ray reserves per worker; `threads_per_worker` sets the number of threads used."""

    label_selector: dict[str, str] = field(default_factory=dict)
    """Ray node labels that a worker's node must match, as for `generation.label_selector`; empty allows any node."""

    threads_per_worker: AtLeastOne = 1
    """Number of torch threads per worker."""

    def __post_init__(self) -> None:
        check_ranges(self, "training")
        if not (self.gpus_per_worker or self.cpus_per_worker):
            raise ValueError(
                "training.gpus_per_worker and cpus_per_worker are 0, so Ray reserves nothing for a worker. Set one of "
                "them above 0."
            )
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"training.seed is {self.seed}; use 0 to 2**32 - 1.")
        if unknown := set(self.loggers) - {"wandb", "mlflow"}:
            raise ValueError(f"training.loggers lists {', '.join(sorted(unknown))}; use wandb or mlflow.")
        self._check_crops()
        self._check_reuse()
        self._check_batches()
        self._check_real()

    def _check_crops(self) -> None:
        if self.real_image_size and not self.crops_at_random:
            raise ValueError(
                f"training.real_image_size is {self.real_image_size}, but training.augmentation={self.augmentation} "
                "crops real images to squares of recipe.image_size. Remove the setting."
            )
        for name in ("crop_size", "local_crop_size"):
            if 0 < getattr(self, name) < SMALLEST_CROP:
                raise ValueError(f"training.{name} is {getattr(self, name)}; use {SMALLEST_CROP} or more pixels.")
        taking = {"crop_scale": self.crops_at_random, "local_crop_scale": self.augmentation.startswith("multi_crop")}
        for name, is_taken in taking.items():
            scale = getattr(self, name)
            if scale and not is_taken:
                raise ValueError(
                    f"training.{name} is {list(scale)}, but training.augmentation={self.augmentation} has no such "
                    "crops. Remove the setting."
                )
            if scale and not (len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1):
                raise ValueError(
                    f"training.{name} is {list(scale)}; use the minimum and maximum fraction of the image area, such "
                    "as [0.25, 1.0]."
                )

    def _check_reuse(self) -> None:
        is_number = isinstance(self.reuse, int) and not isinstance(self.reuse, bool)
        if self.reuse != "auto" and not (is_number and int(self.reuse) >= 1):
            raise ValueError(f"training.reuse is {self.reuse!r}; use auto, or 1 or more without quotes.")
        if self.reuse == "auto" and self.deterministic:
            raise ValueError(
                "training.reuse is auto, which depends on timing, but training.deterministic is true. Set "
                "training.reuse to a number."
            )
        num_batches = self.num_steps * self.accumulate_batches
        if isinstance(self.reuse, int) and self.reuse > num_batches > 0:
            raise ValueError(
                f"training.reuse is {self.reuse}, but the run has {num_batches} batches and uses an image at most once "
                f"per batch. Use {num_batches} or less, or raise training.num_images."
            )
        if self.max_reuse < self.min_reuse:
            raise ValueError(f"training.max_reuse is {self.max_reuse}, less than min_reuse {self.min_reuse}. Raise it.")

    def _check_batches(self) -> None:
        num_parts = self.num_workers * self.accumulate_batches
        if self.global_batch_size % num_parts:
            raise ValueError(
                f"training.global_batch_size {self.global_batch_size} is not divisible by training.num_workers "
                f"{self.num_workers} times accumulate_batches {self.accumulate_batches}. "
                f"Try {max(1, self.global_batch_size // num_parts) * num_parts}."
            )
        if self.batch_size_per_worker < 2:
            raise ValueError(
                f"training.global_batch_size {self.global_batch_size} gives each of {self.num_workers} workers batches "
                f"of 1 image; batch normalization needs 2. Use {2 * num_parts} or more."
            )
        if self.num_held_out < self.num_workers:
            raise ValueError(
                f"training.num_held_out is {self.num_held_out}; use at least 1 per worker, {self.num_workers} or more."
            )
        if self.steps_per_epoch < 1:
            raise ValueError(
                f"training.num_images {self.num_images} is too few for {self.num_epochs} epochs of at least one "
                f"batch of {self.global_batch_size}. Use {self.num_epochs * self.global_batch_size} or more."
            )

    def _check_real(self) -> None:
        if bool(self.real_images) != bool(self.real_fraction):
            raise ValueError(
                f"training.real_images is '{self.real_images}' and real_fraction {self.real_fraction}; set both or "
                "neither."
            )
        if self.separate_batch_norm and not self.real_images:
            raise ValueError(
                "training.separate_batch_norm is true, but there are no real images. Set training.real_images."
            )
        num_real, least = self.batch_size_per_worker * self.real_fraction, 2 if self.separate_batch_norm else 1
        if self.real_images and not least <= round(num_real) <= self.batch_size_per_worker - least:
            raise ValueError(
                f"training.real_fraction {self.real_fraction} of a worker's batch of {self.batch_size_per_worker} "
                f"leaves fewer than {least} real or generated images. Use another fraction, or larger batches."
            )
        if abs(num_real - round(num_real)) > 1e-3:
            raise ValueError(
                f"training.real_fraction {self.real_fraction} of a worker's batch of {self.batch_size_per_worker} is "
                f"{num_real:g} images, not a whole number. "
                f"Try {max(1, round(num_real)) / self.batch_size_per_worker:g}."
            )

    @property
    def crops_at_random(self) -> bool:
        """Whether training uses random crops, which need whole photographs."""
        return self.augmentation not in ("none", "affine")

    @property
    def num_real_per_batch(self) -> int:
        """Real images in a worker's batch."""
        return round(self.batch_size_per_worker * self.real_fraction)

    @property
    def num_generated_per_batch(self) -> int:
        """Generated images in a worker's batch."""
        return self.batch_size_per_worker - self.num_real_per_batch

    @property
    def num_real_per_step(self) -> int:
        """Real images per optimization step, over all workers."""
        return self.num_real_per_batch * self.num_workers * self.accumulate_batches

    @property
    def batch_size_per_worker(self) -> int:
        """Images in a worker's batch: its share of a step, divided by `accumulate_batches`."""
        return self.global_batch_size // (self.num_workers * self.accumulate_batches)

    @property
    def steps_per_epoch(self) -> int:
        """Optimization steps per logical epoch."""
        return self.num_images // (self.num_epochs * self.global_batch_size)

    @property
    def num_steps(self) -> int:
        """Optimization steps of the whole run."""
        return self.steps_per_epoch * self.num_epochs

    @property
    def least_uses(self) -> int:
        """Minimum number of uses per image."""
        return self.min_reuse if isinstance(self.reuse, str) else self.reuse

    @property
    def most_uses(self) -> int:
        """Maximum number of uses per image."""
        return self.max_reuse if isinstance(self.reuse, str) else self.reuse

    @property
    def num_samples(self) -> int:
        """Generated samples to request; with `reuse: auto` the run may end before all of them arrive."""
        num_per_step = self.global_batch_size - self.num_real_per_step
        if self.deterministic:  # whole steps for each worker; a few samples may be used less often
            return -(-self.num_steps // self.least_uses) * num_per_step
        return -(-self.num_steps * num_per_step // self.least_uses)

    def indices(self, num_replays: int = 0) -> tuple[range, range]:
        """Return the recipe indices of one training pass, and those of the validation samples.

        The run makes `1 + num_replays` passes; ValueError if its samples do not divide into that many.
        """
        num_images, rest = divmod(self.num_samples, 1 + num_replays)
        if rest:
            raise ValueError(
                f"data.replays is {num_replays}, but the run's {self.num_samples} samples do not divide into "
                f"{1 + num_replays} passes. Change training.num_images so that they do, in whole epochs and batches."
            )
        return range(num_images), range(FIRST_HELD_OUT_INDEX, FIRST_HELD_OUT_INDEX + self.num_held_out)

    @property
    def peak_learning_rate(self) -> float:
        """Learning rate at the end of the warm-up."""
        return self.base_learning_rate * self.global_batch_size / 256

    @property
    def num_trained(self) -> int:
        """Images actually trained on: `num_images` rounded down to whole steps and epochs."""
        return self.num_steps * self.global_batch_size
