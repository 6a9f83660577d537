"""Damaged real images that a training run does without: how many it may, and the file in which its readers name them.

Knows neither which images come in their place, nor Ray.
"""

from dataclasses import dataclass
from pathlib import Path

from evaluation.images.decoding import UnreadableImageError
from generation.shards.storage import StorageError


@dataclass(frozen=True)
class Unreadable:
    """What all readers of a run share."""

    limit: int
    """How many images may be left out."""

    file: Path
    """Absolute, in the run's folder; made with the first name."""

    def names(self) -> list[str]:
        """Return the images that were left out, each once."""
        lines = self.file.read_text("utf-8").split("\n") if self.file.is_file() else []
        return list(dict.fromkeys(line for line in lines if line))

    def leave_out(self, error: UnreadableImageError) -> None:
        """Note one; StorageError if these are more than may be."""
        if self.limit and error.name not in self.names():
            try:
                with self.file.open("a", encoding="utf-8") as file:
                    file.write(f"{error.name}\n")
            except OSError as no_place:
                raise StorageError(f"'{self.file}' cannot be written: {no_place.strerror}. {error}") from no_place
        number = len({*self.names(), error.name})
        if number > self.limit:
            raise StorageError(
                f"{error} Unreadable real images so far: {number}. Set training.allow_unreadable={number} or more to "
                "skip them."
            ) from error

    def told(self) -> list[str]:
        """Return what to say of them: a line, or nothing."""
        names = self.names()
        return (
            [f"{len(names):,} real images were skipped because they cannot be decoded: see {self.file}"]
            if names
            else []
        )


NONE_LEFT_OUT = Unreadable(0, Path())
"""The first one ends the run."""
