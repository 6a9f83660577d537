"""A run at one moment, and what happened between two. Knows no clock, and nobody who watches."""

from collections.abc import Callable
from dataclasses import dataclass

from generation.pool.keeper import GenerationCounts
from training.progress import TrainingProgress


@dataclass(frozen=True)
class RunProgress:
    """Generation and training at one moment."""

    observed_at: float
    """In seconds of `time.monotonic()`."""

    training: TrainingProgress | None
    """None until the first step."""

    num_actors: int
    actor_seconds: float
    """How long actors were up since the monitor was opened, added up over them."""

    num_awaited: int
    """Actors that are to come: their nodes are not there yet, or their models not loaded."""

    counts: GenerationCounts
    """What the pool has done since it started."""

    num_generated: int
    """Images the actors made since the monitor was opened."""

    generated_per_second: float
    """The same a second, in the mean since the stream's first ones."""


@dataclass(frozen=True)
class Stretch:
    """A part of a run, between two looks at it. Training that was taken up in between counts from there."""

    before: RunProgress
    now: RunProgress

    @property
    def is_interrupted(self) -> bool:
        """Whether training began, or was taken up again, in between."""
        now, before = self.now.training, self.before.training
        return now is not None and (before is None or now.first_batch_at != before.first_batch_at)

    @property
    def num_epochs(self) -> int:
        """Logical epochs that ended."""
        return int(self._grown(lambda training: training.epoch))

    @property
    def generated_per_second(self) -> float:
        """Images that the pool made a second, refused ones included."""
        made = self.now.counts.num_images_made - self.before.counts.num_images_made
        return made / max(self._seconds, 1e-9)

    @property
    def trained_per_second(self) -> float:
        """Images trained on a second, waiting and judging included."""
        return self._grown(lambda training: training.num_trained_since_resume) / max(self._seconds, 1e-9)

    @property
    def learning_seconds(self) -> float:
        """How long training learnt, or waited for images to learn from: neither judged nor waited for held-out ones."""
        return self._grown(lambda training: training.learning_seconds)

    @property
    def waiting_fraction(self) -> float:
        """Share of `learning_seconds` in which the first worker waited, 0..1."""
        return self._share(lambda training: training.waiting_seconds - training.held_out_waiting_seconds)

    @property
    def pool_waiting_fraction(self) -> float:
        """The same without waiting for real images, 0..1."""
        return self._share(lambda training: training.starved_seconds)

    @property
    def working_seconds(self) -> float:
        """How long actors had anything to do, added up over them; what an actor is at counts when it is done."""
        return self.now.counts.working_seconds - self.before.counts.working_seconds

    @property
    def mean_actors(self) -> float:
        """How many actors were up, in the mean over the stretch."""
        return (self.now.actor_seconds - self.before.actor_seconds) / max(self._seconds, 1e-9)

    @property
    def working_fraction(self) -> float:
        """The same as a share of the time of the actors that were up, 0..1."""
        return min(1.0, self.working_seconds / max(self._seconds * self.mean_actors, 1e-9))

    @property
    def _seconds(self) -> float:
        return self.now.observed_at - self.before.observed_at

    def _share(self, seconds: Callable[[TrainingProgress], float]) -> float:
        return self._grown(seconds) / max(self.learning_seconds, 1e-9)

    def _grown(self, number: Callable[[TrainingProgress], float]) -> float:
        """Return by how much a number of training's has grown."""
        now, before = self.now.training, None if self.is_interrupted else self.before.training
        return (number(now) if now else 0.0) - (number(before) if before else 0.0)
