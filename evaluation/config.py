"""Settings of evaluation: which real images, and on what."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class EvaluationConfig:
    """How a classifier is tested on real images."""

    dataset: Literal["none", "digits"] = "none"
    """`digits`: 540 real handwritten digits that nothing was trained on. `none`: a training run ends without a test."""

    batch_size: int = 128
    """Images classified at once."""

    num_actors: int = 1
    """Copies of the classifier that share the images."""

    gpus_per_actor: float = 0.0
    """0 classifies on the CPU."""

    threads_per_actor: int = 2
    """Threads that torch may use in an actor; Ray counts one core as taken."""

    def __post_init__(self) -> None:
        """Refuse impossible settings before anything starts."""
        for name in ("batch_size", "num_actors", "threads_per_actor"):
            if getattr(self, name) < 1:
                raise ValueError(f"evaluation.{name} is {getattr(self, name)}; give 1 or more.")
        if self.gpus_per_actor < 0:
            raise ValueError(f"evaluation.gpus_per_actor is {self.gpus_per_actor}; give 0 or more.")
