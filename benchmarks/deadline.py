"""Time budget shared by the parts of a run: time left over by one part goes to the next parts."""

import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Deadline:
    """The time by which work has to end."""

    at: float
    """In seconds of `time.monotonic()`."""

    def left_seconds(self) -> float:
        """Return the remaining time; negative after the deadline."""
        return self.at - time.monotonic()

    def allows(self, seconds: float) -> bool:
        """Return whether work of this length would end in time."""
        return seconds <= self.left_seconds()


def deadlines(end_at: float, part_seconds: Sequence[float]) -> list[Deadline]:
    """Return one deadline per part; each leaves the later parts their own seconds."""
    return [Deadline(end_at - sum(part_seconds[part + 1 :])) for part in range(len(part_seconds))]
