"""Settings of training: the classifier, its optimisation, and the workers it runs on."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainingConfig:
    """How a classifier is trained on a stream of samples."""

    architecture: Literal[
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "resnet152",
        "resnext50_32x4d",
        "resnext101_32x8d",
        "resnext101_64x4d",
        "wide_resnet50_2",
        "wide_resnet101_2",
    ] = "resnet50"
    """As torchvision names it."""

    num_images: int = 1_300_000
    """Images to generate and train on, each once."""

    num_epochs: int = 100
    """Logical epochs: the run is cut into this many parts, each ending with the held-out accuracy and a checkpoint."""

    num_held_out: int = 1_000
    """Generated images that are never trained on, to see how training goes."""

    global_batch_size: int = 256
    """Images in an optimisation step, over all workers."""

    peak_learning_rate: float = 0.1
    """Learning rate at the end of the warm-up; it falls to 0 by a cosine."""

    warmup_fraction: float = 0.1
    """Share of all steps in which the learning rate rises linearly from near 0 to its peak, 0..1."""

    momentum: float = 0.9
    weight_decay: float = 1e-4

    augmentation: Literal["none", "crop_flip", "affine"] = "crop_flip"
    """`crop_flip` as usual for ImageNet; `affine` small shifts, scales and turns, for digits, which do not flip."""

    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    """As Lightning's Trainer spells it."""

    seed: int = 0
    """Of the initial weights and the augmentation."""

    num_workers: int = 1
    """Ray Train workers, each with a replica of the classifier."""

    gpus_per_worker: float = 1.0
    """0 trains on the CPU."""

    cpus_per_worker: float = 1.0
    """Cores that Ray counts as taken; see `threads_per_worker` for the cores really used."""

    threads_per_worker: int = 1
    """Threads that torch may use in a worker."""

    def __post_init__(self) -> None:
        """Refuse impossible settings before anything starts."""
        for name in ("num_images", "num_epochs", "global_batch_size", "num_workers", "threads_per_worker"):
            if getattr(self, name) < 1:
                raise ValueError(f"training.{name} is {getattr(self, name)}; give 1 or more.")
        for name in ("gpus_per_worker", "cpus_per_worker", "weight_decay", "momentum"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"training.{name} is {getattr(self, name)}; give 0 or more.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"training.seed is {self.seed}; give 0 to 2**32 - 1.")
        if not 0 < self.peak_learning_rate < math.inf:
            raise ValueError(f"training.peak_learning_rate is {self.peak_learning_rate}; give more than 0.")
        if not 0 <= self.warmup_fraction < 1:
            raise ValueError(f"training.warmup_fraction is {self.warmup_fraction}; give a share from 0 to below 1.")
        if self.global_batch_size % self.num_workers:
            raise ValueError(
                f"training.global_batch_size {self.global_batch_size} cannot be shared by {self.num_workers} workers. "
                f"Try {max(1, self.global_batch_size // self.num_workers) * self.num_workers}."
            )
        if self.batch_size_per_worker < 2:
            raise ValueError(
                f"training.global_batch_size {self.global_batch_size} gives {self.num_workers} workers 1 image each; "
                f"batch normalisation needs two. Give {2 * self.num_workers} or more."
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

    @property
    def batch_size_per_worker(self) -> int:
        """Images in a worker's share of a step."""
        return self.global_batch_size // self.num_workers

    @property
    def steps_per_epoch(self) -> int:
        """Optimisation steps in a logical epoch."""
        return self.num_images // (self.num_epochs * self.global_batch_size)

    @property
    def num_steps(self) -> int:
        """Optimisation steps of the whole run."""
        return self.steps_per_epoch * self.num_epochs

    @property
    def num_trained(self) -> int:
        """Images that fill whole steps and epochs: `num_images`, or a few less."""
        return self.num_steps * self.global_batch_size
