"""Reports from training to the pool, called in the training worker. Light to import: it crosses processes."""

from collections.abc import Callable
from functools import partial

from generation.pool.service import GenerationService
from generation.pool.sizing import TrainerTimes
from training.progress import TrainingProgress


def listeners_of(pool: GenerationService | None) -> tuple[Callable[[TrainingProgress], None], ...]:
    """Return the progress listeners for `FitJob`; from now on the pool's size follows the trainer."""
    if pool is None:
        return ()
    pool.report_trainer(TrainerTimes(0.0, 0.0))
    return (partial(report_trainer, pool),)


def report_trainer(pool: GenerationService, progress: TrainingProgress) -> None:
    """Report a trainer's busy and waiting time to its pool."""
    pool.report_trainer(TrainerTimes(progress.learning_seconds, progress.starved_seconds))
