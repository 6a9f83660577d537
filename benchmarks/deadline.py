"""Time that parts of a run share: what one part leaves over, the next ones have."""

import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Deadline:
    """A moment by which work has to end."""

    at: float
    """In seconds of `time.monotonic()`."""

    def left_seconds(self) -> float:
        """Return how long it is until then; negative once it is over."""
        return self.at - time.monotonic()

    def allows(self, seconds: float) -> bool:
        """Return whether work of this length would end in time."""
        return seconds <= self.left_seconds()


def deadlines(end_at: float, part_seconds: Sequence[float]) -> list[Deadline]:
    """Return one deadline a part: the later parts keep the seconds that they were given."""
    return [Deadline(end_at - sum(part_seconds[place + 1 :])) for place in range(len(part_seconds))]
