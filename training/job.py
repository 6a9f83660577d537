"""What each training worker is told. Light to import: it crosses processes."""

import logging
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
    """A set of samples that each worker opens for its share."""

    num_images: int
    """In a pass over the set; a run may take several."""

    open: Callable[[SampleRequest], Any]
    """Returns what is wanted as a lazy `ray.data.Dataset` of `generation.sample.PassBatch`, but for `attempt`. Crosses
    processes.
    """

    kind: str = "generated"
    """What tables call them: `generated` or `real`."""

    names_hash: int = 0
    """Of files, where samples are files: whether they are the same ones when a run goes on."""

    image_size: int = 0
    """Height and width of their images' arrays, in pixels; 0 is the recipe's."""


SET_SIZE, SET_NAMES = "images in the set", "hash of their names"
REAL_SET_SIZE, REAL_NAMES = "real images", "hash of the real images' names"
"""What checkpoints keep of the sets that serials count in."""


def sets_of(num_images: int, names_hash: int, real: TrainingSamples | None) -> dict[str, int]:
    """Return what a run has to find again when it goes on, by what a user calls it."""
    names = {SET_NAMES: names_hash} if names_hash else {}
    return (
        {SET_SIZE: num_images} | names | ({REAL_SET_SIZE: real.num_images, REAL_NAMES: real.names_hash} if real else {})
    )


CHECKPOINTS, TRAIN_FOLDER = "checkpoints", "ray_train"
"""Folders of a run that is under way, in its own: its checkpoints, and what Ray Train keeps."""

KEPT = "kept"
"""Folder of a run's checkpoints that stay: those that tell how its accuracy grew."""


@dataclass(frozen=True)
class FitJob:
    """What each worker is told."""

    config: TrainingConfig
    recipe: Recipe
    run_dir: Path
    """Absolute; loggers and checkpoints are written here, so several hosts need it on storage they share."""

    samples: TrainingSamples
    real: TrainingSamples | None
    """Real images, where `config.real_fraction` mixes some in."""

    listeners: tuple[Callable[[TrainingProgress], Any], ...] = ()
    """Each is called by the first worker with its progress, which waits for it. Crosses processes."""

    held_out_is_real: bool = False
    """Whether training is judged by real images."""

    keep_every_images: int = 0
    """After how many images trained on weights are kept in `KEPT`; 0 keeps none."""

    def report(self, progress: TrainingProgress) -> None:
        """Hand progress to all listeners: one that fails keeps it from no other, and does not end training."""
        for listen in self.listeners:
            try:
                listen(progress)
            except Exception:
                logger.exception("%r took no report, and training goes on.", listen)

    @property
    def trained_on(self) -> str:
        """What tables say that the classifier was trained on."""
        return f"{self.samples.kind} and real" if self.real else self.samples.kind

    @property
    def checkpoints(self) -> Path:
        """Where a run that is under way keeps its checkpoints."""
        return self.run_dir / CHECKPOINTS
