"""What each training worker is told. Light to import: it crosses processes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generation.recipe import Recipe
from training.config import TrainingConfig
from training.progress import TrainingProgress


@dataclass(frozen=True)
class FitJob:
    """What each worker is told."""

    config: TrainingConfig
    recipe: Recipe
    run_dir: Path
    """Absolute; loggers write here, so several hosts need it on storage they share."""

    report: Callable[[TrainingProgress], Any]
