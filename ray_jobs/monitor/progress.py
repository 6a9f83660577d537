"""A run's progress at one moment, and the change between two. Independent of clocks and observers."""

from collections.abc import Callable
from dataclasses import dataclass

from generation.engine.scores import ALL_IMAGES, OFF_CLASS
from generation.pool.keeper import GenerationCounts
from training.progress import TrainingProgress


@dataclass(frozen=True)
class RunProgress:
    """Progress of generation and training at one moment."""

    observed_at: float
    """In seconds of `time.monotonic()`."""

    training: TrainingProgress | None
    """None before the first step."""

    num_actors: int
    actor_seconds: float
    """Total running time of all actors since the monitor was opened."""

    num_pending: int
    """Pending actors: waiting for a node, or loading their model."""

    counts: GenerationCounts
    """The pool's counts since it started."""

    num_generated: int
    """Images generated since the monitor was opened."""

    generated_per_second: float
    """Mean rate since the stream's first images."""


@dataclass(frozen=True)
class Interval:
    """The change between two snapshots of a run. If training resumed in between, counts start there."""

    before: RunProgress
    now: RunProgress

    @property
    def is_interrupted(self) -> bool:
        """Whether training started or resumed within the interval."""
        now, before = self.now.training, self.before.training
        return now is not None and (before is None or now.first_batch_at != before.first_batch_at)

    @property
    def num_epochs(self) -> int:
        """Logical epochs that ended."""
        return int(self._grown(lambda training: training.epoch))

    @property
    def generated_per_second(self) -> float:
        """Images generated per second, including refused images."""
        made = self.now.counts.num_images_made - self.before.counts.num_images_made
        return made / max(self._seconds, 1e-9)

    @property
    def trained_per_second(self) -> float:
        """Images trained on per second, including time spent on waiting and validation."""
        return self._grown(lambda training: training.num_trained_since_resume) / max(self._seconds, 1e-9)

    @property
    def scores_in_words(self) -> str:
        """The mean score of `recipe.check`, and the share of images that it refused; empty without a check."""
        before, now = self.before.counts, self.now.counts
        number = now.scores.num_scored[ALL_IMAGES] - before.scores.num_scored[ALL_IMAGES]
        total = now.scores.thousandths[ALL_IMAGES] - before.scores.thousandths[ALL_IMAGES]
        num_refused = now.num_refused[OFF_CLASS] - before.num_refused[OFF_CLASS]
        return f"; mean score {total / number / 1000:.3f}, {num_refused / number:.1%} off class" if number > 0 else ""

    @property
    def learning_seconds(self) -> float:
        """Time spent on training and on waiting for training images; held-out images excluded."""
        return self._grown(lambda training: training.learning_seconds)

    @property
    def waiting_seconds(self) -> float:
        """Part of `learning_seconds` in which the first worker waited."""
        return self._grown(lambda training: training.waiting_seconds - training.held_out_waiting_seconds)

    @property
    def waiting_fraction(self) -> float:
        """Share of `learning_seconds` in which the first worker waited, 0..1."""
        return self.waiting_seconds / max(self.learning_seconds, 1e-9)

    @property
    def pool_waiting_fraction(self) -> float:
        """The same without waiting for real images, 0..1."""
        return self._grown(lambda training: training.starved_seconds) / max(self.learning_seconds, 1e-9)

    @property
    def working_seconds(self) -> float:
        """Total busy time of all actors; a batch counts when it is finished."""
        return self.now.counts.working_seconds - self.before.counts.working_seconds

    @property
    def mean_actors(self) -> float:
        """Mean number of running actors."""
        return (self.now.actor_seconds - self.before.actor_seconds) / max(self._seconds, 1e-9)

    @property
    def working_fraction(self) -> float:
        """Busy time as a share of the actors' running time, 0..1."""
        return min(1.0, self.working_seconds / max(self._seconds * self.mean_actors, 1e-9))

    @property
    def _seconds(self) -> float:
        return self.now.observed_at - self.before.observed_at

    def _grown(self, number: Callable[[TrainingProgress], float]) -> float:
        """Return the increase of one of training's numbers."""
        now, before = self.now.training, None if self.is_interrupted else self.before.training
        return (number(now) if now else 0.0) - (number(before) if before else 0.0)
