"""Undecodable real images that a training run skips: how many are allowed, and the file that lists them.

Does not replace the images, and uses no Ray.
"""

from dataclasses import dataclass
from pathlib import Path

from evaluation.images.decoding import UnreadableImageError
from generation.shards.storage import StorageError


@dataclass(frozen=True)
class Unreadable:
    """The limit and the list of skipped images, shared by all readers of a run."""

    limit: int
    """Maximum number of images to skip."""

    file: Path
    """Absolute path in the run's folder; created with the first name."""

    def names(self) -> list[str]:
        """Return the names of the skipped images, each once."""
        lines = self.file.read_text("utf-8").split("\n") if self.file.is_file() else []
        return list(dict.fromkeys(line for line in lines if line))

    def record(self, error: UnreadableImageError) -> None:
        """Record a skipped image; StorageError if the limit is exceeded."""
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

    def report_lines(self) -> list[str]:
        """Return a line about the skipped images, or an empty list."""
        names = self.names()
        return (
            [f"{len(names):,} real images were skipped because they cannot be decoded: see {self.file}"]
            if names
            else []
        )


NO_SKIPPING = Unreadable(0, Path())
"""Skips no image: the first undecodable one ends the run."""
