"""Settings of training: the classifier, its optimisation, and the workers it runs on."""

from dataclasses import dataclass, field
from typing import Literal

from generation.ranges import AtLeastOne, BelowOne, Count, Gpus, NotNegative, Positive, check_ranges
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
"""Settings that may be others when a run goes on: they say where and how, not what is learnt."""


SMALLEST_CROP = 7
"""Pixels: a blur reaches six on each side."""


@dataclass(frozen=True)
class TrainingConfig:
    """How a classifier is trained on a stream of samples."""

    architecture: str = "resnet50"
    """A classifier by torchvision's name, else by timm's; `timm/NAME` is timm's in any case."""

    head: Literal["linear", "cosine"] = "linear"
    """Last layer; `cosine` compares directions of features and classes, as the paper's cosine softmax does."""

    temperature: Positive = 0.1
    """By which a cosine head's similarities are divided."""

    num_images: AtLeastOne = 1_300_000
    """Images to train on; one that is used again counts again."""

    reuse: int | str = 1
    """How often each image is trained on, every time under another augmentation (where two
    workers share one, some may coincide); `auto` as often as it takes for
    training not to wait: an image then goes when a new one needs its place.
    """

    min_reuse: AtLeastOne = 1
    """With `auto`, no image is used less often."""

    max_reuse: int = 32
    """With `auto`, no image is used more often; training waits instead."""

    max_waiting_fraction: BelowOne = 0.01
    """With `auto`, the share of its time that training may wait for new images rather than use one again."""

    reservoir_bytes: int = 1_000_000_000
    """Memory of each worker for images that are used again."""

    reservoir_format: Literal["pixels", "png"] = "pixels"
    """How they are kept there: as they are, or encoded, which holds more and costs a decoding for every use."""

    reservoir_min_images: Count = 0
    """Where images are used again, how many each worker has before it draws batches from them, and keeps until no
    more come: from few images batches are alike, and teach less. 0 follows from batch, classes and memory, as
    `training.data.reservoir.min_images` has it; with 1 training starts as soon as it can.
    """

    real_images: str = ""
    """Real images to mix in: `digits`, or a folder that has a folder of images for each class, named by its synset or
    its name.
    """

    real_fraction: BelowOne = 0.0
    """Their share of each batch, 0 to below 1; each is used once in a pass over them, again and again."""

    real_image_size: Count = 0
    """Height and width, in pixels, of the square into which a real photograph is fitted, whole, for random crops:
    larger ones are shrunk, smaller ones stay as they are. 0 is the recipe's image size.
    """

    allow_unreadable: Count = 0
    """Real images to train on that may be left out because they cannot be decoded, others of their class in their
    place; with more, the run ends.
    """

    upright: bool = False
    """Whether real images are turned as their EXIF says; torchvision does not."""

    separate_batch_norm: bool = False
    """Whether real and generated images have batch statistics of their own (arXiv 1911.09665); real ones' are kept for
    evaluation.
    """

    num_epochs: AtLeastOne = 100
    """Logical epochs: the run is cut into this many parts, each ending with the held-out accuracy and a checkpoint."""

    num_held_out: int = 1_000
    """Generated images that are never trained on, to see how training goes."""

    global_batch_size: AtLeastOne = 256
    """Images in an optimisation step, over all workers."""

    accumulate_batches: AtLeastOne = 1
    """Parts that a worker does its share of a step in, one after another; batch normalisation sees each part alone."""

    base_learning_rate: Positive = 0.1
    """Peak learning rate for steps of 256 images; for others it is in proportion (arXiv 1706.02677)."""

    final_learning_rate: NotNegative = 1e-6
    """What the learning rate has fallen to at the end, by a cosine."""

    warmup_fraction: BelowOne = 0.1
    """Share of all images in which the learning rate rises linearly from 0 to its peak, 0..1."""

    momentum: NotNegative = 0.9
    weight_decay: NotNegative = 1e-4
    """On weights; biases and the parameters of normalisation have none."""

    ema_decay: BelowOne = 0.0
    """Each step keeps this share of the averaged weights, which are those that are judged and kept; 0 averages none."""

    augmentation: Literal["none", "crop_flip", "affine", "multi_crop", "multi_crop_two_global"] = "crop_flip"
    """`multi_crop` is t-ReX's (arXiv 2206.15369), one global crop and local ones; `multi_crop_two_global` DINO's
    (arXiv 2104.14294); `crop_flip` as usual for ImageNet; `affine` small shifts, scales and turns, for digits, which
    do not flip.
    """

    crop_size: Count = 0
    """Height and width of a (global) crop, in pixels; 0 is the image's own."""

    crop_scale: tuple[float, ...] = ()
    """Smallest and largest share of the image's area that a (global) crop has, above 0 and up to 1; empty is what the
    augmentation's source has: 0.08 and 1 with `crop_flip`, 0.25 and 1 with `multi_crop`, 0.4 and 1 with
    `multi_crop_two_global`.
    """

    local_crop_scale: tuple[float, ...] = ()
    """The same of a local crop: empty is 0.05 and 0.25 with `multi_crop`, 0.05 and 0.4 with `multi_crop_two_global`."""

    num_local_crops: Count = 8
    """With `multi_crop` and `multi_crop_two_global`; a step's loss is the mean over all crops."""

    local_crop_size: AtLeastOne = 96
    """Height and width of a local crop, in pixels."""

    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    """As Lightning's Trainer spells it."""

    channels_last: bool = False
    """Lay weights and activations out channel by channel, as convolutions in half precision like it on GPUs."""

    compile: bool = False
    """Compile the network when training starts, for a minute or more."""

    seed: int = 0
    """Of the initial weights, the augmentation, and the order of shards and real images."""

    deterministic: bool = False
    """Train in the order of the indices, so that two runs end with the same weights to the bit on the same kind of
    device; slower.
    """

    checkpoint_every_steps: Count = 0
    """Checkpoints in between, to lose less where a worker is lost; 0 writes them at the ends of epochs alone."""

    max_restarts: Count = 3
    """How often training goes on from its last checkpoint after a worker was lost."""

    early_stop_epochs: Count = 0
    """Stop after so many epochs without a better held-out accuracy; 0 never does."""

    keep_best: bool = False
    """Whether `best.ckpt` keeps the weights of the epoch with the best held-out accuracy."""

    loggers: tuple[str, ...] = ()
    """`wandb` and `mlflow`, beside CSV and TensorBoard; each has to be installed."""

    log_every_steps: AtLeastOne = 10
    """A row of metrics every so many steps."""

    journal: bool = False
    """Whether `journal/` records which use of which sample each step took."""

    num_workers: AtLeastOne = 1
    """Ray Train workers, each with a replica of the classifier."""

    gpus_per_worker: Gpus = 1.0
    """0 trains on the CPU."""

    cpus_per_worker: NotNegative = 1.0
    """Cores that Ray counts as taken; see `threads_per_worker` for the cores really used."""

    label_selector: dict[str, str] = field(default_factory=dict)
    """Labels of the nodes that may hold a worker, as for `generation.label_selector`."""

    threads_per_worker: AtLeastOne = 1
    """Threads that torch may use in a worker."""

    def __post_init__(self) -> None:
        check_ranges(self, "training")
        if not (self.gpus_per_worker or self.cpus_per_worker):
            raise ValueError(
                "training.gpus_per_worker and cpus_per_worker are 0; Ray keeps no room for what takes nothing. Give "
                "one of them."
            )
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"training.seed is {self.seed}; give 0 to 2**32 - 1.")
        if unknown := set(self.loggers) - {"wandb", "mlflow"}:
            raise ValueError(f"training.loggers has {', '.join(sorted(unknown))}. Choose among wandb and mlflow.")
        self._check_crops()
        self._check_reuse()
        self._check_batches()
        self._check_real()

    def _check_crops(self) -> None:
        if self.real_image_size and not self.crops_at_random:
            raise ValueError(
                f"training.real_image_size is {self.real_image_size}, but with training.augmentation="
                f"{self.augmentation} real images are cut to squares of recipe.image_size. Leave it out."
            )
        for name in ("crop_size", "local_crop_size"):
            if 0 < getattr(self, name) < SMALLEST_CROP:
                raise ValueError(f"training.{name} is {getattr(self, name)}; give {SMALLEST_CROP} or more pixels.")
        taking = {"crop_scale": self.crops_at_random, "local_crop_scale": self.augmentation.startswith("multi_crop")}
        for name, is_taken in taking.items():
            scale = getattr(self, name)
            if scale and not is_taken:
                raise ValueError(
                    f"training.{name} is {list(scale)}, and training.augmentation={self.augmentation} has no such "
                    "crops. Leave it out."
                )
            if scale and not (len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1):
                raise ValueError(
                    f"training.{name} is {list(scale)}; give the smallest and the largest share of an image's area, "
                    "such as [0.25, 1.0]."
                )

    def _check_reuse(self) -> None:
        is_number = isinstance(self.reuse, int) and not isinstance(self.reuse, bool)
        if self.reuse != "auto" and not (is_number and int(self.reuse) >= 1):
            raise ValueError(f"training.reuse is {self.reuse!r}; give a number of 1 or more, without quotes, or auto.")
        if self.reuse == "auto" and self.deterministic:
            raise ValueError("training.reuse is auto, which goes by the clock, and training.deterministic is true.")
        num_batches = self.num_steps * self.accumulate_batches
        if isinstance(self.reuse, int) and self.reuse > num_batches > 0:
            raise ValueError(
                f"training.reuse is {self.reuse}, but the run has {num_batches} batches, and no image comes twice in "
                f"one. Give {num_batches} or less, or more training.num_images."
            )
        if self.max_reuse < self.min_reuse:
            raise ValueError(f"training.max_reuse is {self.max_reuse}, less than min_reuse {self.min_reuse}.")

    def _check_batches(self) -> None:
        num_parts = self.num_workers * self.accumulate_batches
        if self.global_batch_size % num_parts:
            raise ValueError(
                f"training.global_batch_size {self.global_batch_size} cannot be shared by {self.num_workers} workers "
                f"in {self.accumulate_batches} parts each. "
                f"Try {max(1, self.global_batch_size // num_parts) * num_parts}."
            )
        if self.batch_size_per_worker < 2:
            raise ValueError(
                f"training.global_batch_size {self.global_batch_size} gives {self.num_workers} workers 1 image at "
                f"once; batch normalisation needs two. Give {2 * num_parts} or more."
            )
        if self.num_held_out < self.num_workers:
            raise ValueError(
                f"training.num_held_out is {self.num_held_out}; give at least one for each of the {self.num_workers} "
                "workers."
            )
        if self.steps_per_epoch < 1:
            raise ValueError(
                f"training.num_images {self.num_images} is too few for {self.num_epochs} epochs of at least one "
                f"batch of {self.global_batch_size}. Give {self.num_epochs * self.global_batch_size} or more."
            )

    def _check_real(self) -> None:
        if bool(self.real_images) != bool(self.real_fraction):
            raise ValueError(
                f"training.real_images is '{self.real_images}' and real_fraction {self.real_fraction}: give both, or "
                "neither."
            )
        if self.separate_batch_norm and not self.real_images:
            raise ValueError("training.separate_batch_norm is true, but there are no real images. Give real_images.")
        num_real, least = self.batch_size_per_worker * self.real_fraction, 2 if self.separate_batch_norm else 1
        if self.real_images and not least <= round(num_real) <= self.batch_size_per_worker - least:
            raise ValueError(
                f"training.real_fraction {self.real_fraction} of the {self.batch_size_per_worker} images that a worker "
                f"takes at once leaves less than {least} real or generated ones. Give another, or larger batches."
            )
        if abs(num_real - round(num_real)) > 1e-3:
            raise ValueError(
                f"training.real_fraction {self.real_fraction} of the {self.batch_size_per_worker} images that a worker "
                f"takes at once are {num_real:g}. Try {max(1, round(num_real)) / self.batch_size_per_worker:g}."
            )

    @property
    def crops_at_random(self) -> bool:
        """Whether the classifier is shown random crops, so that a photograph is needed whole."""
        return self.augmentation not in ("none", "affine")

    @property
    def num_real_per_batch(self) -> int:
        """Real images among those that a worker takes at once."""
        return round(self.batch_size_per_worker * self.real_fraction)

    @property
    def num_generated_per_batch(self) -> int:
        """The others among those."""
        return self.batch_size_per_worker - self.num_real_per_batch

    @property
    def num_real_per_step(self) -> int:
        """Real images in an optimisation step, over all workers."""
        return self.num_real_per_batch * self.num_workers * self.accumulate_batches

    @property
    def batch_size_per_worker(self) -> int:
        """Images that a worker takes at once: its share of a step, or of a part of it."""
        return self.global_batch_size // (self.num_workers * self.accumulate_batches)

    @property
    def steps_per_epoch(self) -> int:
        """Optimisation steps in a logical epoch."""
        return self.num_images // (self.num_epochs * self.global_batch_size)

    @property
    def num_steps(self) -> int:
        """Optimisation steps of the whole run."""
        return self.steps_per_epoch * self.num_epochs

    @property
    def least_uses(self) -> int:
        """How often an image is used, at the least."""
        return self.min_reuse if isinstance(self.reuse, str) else self.reuse

    @property
    def most_uses(self) -> int:
        """How often an image is used, at the most."""
        return self.max_reuse if isinstance(self.reuse, str) else self.reuse

    @property
    def num_samples(self) -> int:
        """Generated samples to ask for; with `auto` not all of them need to come."""
        num_per_step = self.global_batch_size - self.num_real_per_step
        if self.deterministic:  # as many in each worker's share of steps, so that a few may be used less often
            return -(-self.num_steps // self.least_uses) * num_per_step
        return -(-self.num_steps * num_per_step // self.least_uses)

    def indices(self, num_replays: int = 0) -> tuple[range, range]:
        """Return the recipe's indices that a run trains on, once and in replays, and those that are held out."""
        num_images, rest = divmod(self.num_samples, 1 + num_replays)
        if rest:
            raise ValueError(
                f"data.replays is {num_replays}, but the {self.num_samples} samples of training.num_images are not "
                f"{1 + num_replays} times as many. Give a multiple, of whole epochs and batches too."
            )
        return range(num_images), range(FIRST_HELD_OUT_INDEX, FIRST_HELD_OUT_INDEX + self.num_held_out)

    @property
    def peak_learning_rate(self) -> float:
        """Learning rate at the end of the warm-up."""
        return self.base_learning_rate * self.global_batch_size / 256

    @property
    def num_trained(self) -> int:
        """Images that fill whole steps and epochs: `num_images`, or a few less."""
        return self.num_steps * self.global_batch_size
