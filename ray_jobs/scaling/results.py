"""What all runs of the scale experiments tell: whether each sample came once, and what they were like in time."""

from dataclasses import dataclass

from ray_jobs.scaling.experiments import Outcome

WINDOW_SECONDS = 5.0
"""Over which a rate is drawn."""


@dataclass(frozen=True)
class Exactness:
    """Whether each wanted sample came once."""

    num_images: int
    num_lost: int
    num_doubled: int

    @staticmethod
    def of(outcome: Outcome) -> "Exactness":
        """Return that of a run."""
        return Exactness(outcome.load.num_images, outcome.num_lost, outcome.num_doubled)

    @property
    def faults(self) -> list[str]:
        """What is wrong, a line each."""
        found = {"lost": self.num_lost, "doubled": self.num_doubled}
        return [f"{number:,} of {self.num_images:,} samples were {what}" for what, number in found.items() if number]


@dataclass(frozen=True)
class Series:
    """A run in time, in seconds since its first batch."""

    ends: list[float]
    """Of adjacent windows."""

    delivered_per_second: list[float]
    """In each of them."""

    looked_at: list[float]
    num_actors: list[int]
    """Actors that were up at each look."""

    @staticmethod
    def of(outcome: Outcome) -> "Series":
        """Return that of a run."""
        first, last = outcome.first_batch_at, float(outcome.deliveries.came_at[-1])
        ends, rates = outcome.deliveries.rates(first, last, WINDOW_SECONDS)
        return Series(
            (ends - first).round(3).tolist(),
            rates.round(3).tolist(),
            [round(moment.at - first, 3) for moment in outcome.moments],
            [moment.num_actors for moment in outcome.moments],
        )
