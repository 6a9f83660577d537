"""What each training worker is told. Light to import: it crosses processes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generation.indices import Wanted
from generation.recipe import Recipe
from training.config import TrainingConfig
from training.progress import TrainingProgress


@dataclass(frozen=True)
class TrainingSamples:
    """A set of samples that each worker opens for its share."""

    num_images: int
    """In a turn of the set; a run may take several turns."""

    open: Callable[[Wanted], Any]
    """Returns what is wanted as a lazy `ray.data.Dataset` of `generation.sample.TurnBatch`. Crosses processes."""


def num_samples_of(num_images: int, real: TrainingSamples | None) -> dict[str, int]:
    """Return how many samples each domain has in a turn of its set, as checkpoints keep it."""
    return {"synthetic": num_images} | ({"real": real.num_images} if real else {})


CHECKPOINTS = "checkpoints"
"""Folder of a run's checkpoints, in the run's own, while it is under way."""


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

    report: Callable[[TrainingProgress], Any]

    @property
    def checkpoints(self) -> Path:
        """Where a run that is under way keeps its checkpoints."""
        return self.run_dir / CHECKPOINTS
