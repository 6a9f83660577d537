"""The job description sent to each training worker. Light to import: it crosses processes."""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generation.indices import SampleRequest
from generation.recipes.recipe import Recipe
from training.config import TrainingConfig
from training.progress import TrainingProgress

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingSamples:
    """A data set that each worker opens for its share of the samples."""

    num_images: int
    """Images per pass over the set; a run may make several passes."""

    open: Callable[[SampleRequest], Any]
    """Returns the requested samples as a lazy `ray.data.Dataset` of `generation.sample.PassBatch` without `attempt`.
    Must be picklable.
    """

    kind: str = "generated"
    """Kind of samples in tables: `generated` or `real`."""

    names_hash: int = 0
    """Hash of the file names where samples are files, to detect changes on resume; 0 otherwise."""

    image_size: int = 0
    """Side of the image arrays in pixels; 0 uses the recipe's image size."""


SET_SIZE, SET_NAMES = "images in the set", "hash of their names"
REAL_SET_SIZE, REAL_NAMES = "real images", "hash of the real images' names"
"""Keys under which checkpoints identify the data sets that serials count in."""


def sets_of(num_images: int, names_hash: int, real: TrainingSamples | None) -> dict[str, int]:
    """Return the data sets' sizes and name hashes, which must be unchanged on resume, under names for messages."""
    names = {SET_NAMES: names_hash} if names_hash else {}
    return (
        {SET_SIZE: num_images} | names | ({REAL_SET_SIZE: real.num_images, REAL_NAMES: real.names_hash} if real else {})
    )


def run_name(run_dir: Path) -> str:
    """Return a run's name for people: its folder's, with the arm before the seed for a run of an experiment."""
    is_of_arm = re.fullmatch(r"seed-\d+", run_dir.name) is not None
    return f"{run_dir.parent.name}/{run_dir.name}" if is_of_arm else run_dir.name


CHECKPOINTS, TRAIN_FOLDER = "checkpoints", "ray_train"
"""Subfolders of a running run's folder: its checkpoints, and Ray Train's files."""

KEPT = "kept"
"""Subfolder of checkpoints that stay after the run, for the accuracy curve."""


@dataclass(frozen=True)
class FitJob:
    """The job description of each training worker."""

    config: TrainingConfig
    recipe: Recipe
    run_dir: Path
    """Absolute path for logs and checkpoints; with several hosts, on storage that they share."""

    samples: TrainingSamples
    real: TrainingSamples | None
    """Real images to mix in by `config.real_fraction`, or None."""

    listeners: tuple[Callable[[TrainingProgress], Any], ...] = ()
    """Functions that the first worker calls with its progress, synchronously; one that returns True at the end of an
    epoch ends the run there. Must be picklable.
    """

    held_out_is_real: bool = False
    """Whether validation uses real images."""

    keep_every_images: int = 0
    """Trained images between checkpoints in `KEPT`; 0 keeps none."""

    def report(self, progress: TrainingProgress) -> bool:
        """Send progress to all listeners; return whether one returned True.

        A failing listener is logged and affects neither the others nor training.
        """
        is_enough = False
        for listen in self.listeners:
            try:
                is_enough |= listen(progress) is True
            except Exception:
                logger.exception("Progress listener %r failed; training continues.", listen)
        return is_enough

    @property
    def trained_on(self) -> str:
        """Kind of training images in tables."""
        return f"{self.samples.kind} and real" if self.real else self.samples.kind

    @property
    def checkpoints(self) -> Path:
        """Folder of the run's checkpoints during training."""
        return self.run_dir / CHECKPOINTS
