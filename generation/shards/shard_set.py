"""The shards of a data set: its manifest, and which shards already exist.

A shard holds a range of indices; its bytes depend only on the recipe and that range. If a data set ends with a partial
shard and is extended, the next shard holds the rest of that range, so that existing shards never change.
"""

import dataclasses
import json
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import pyarrow as pa

from generation.recipes.recipe import Recipe, differences, recipe_from_value
from generation.sample import NO_LABEL
from generation.shards.config import DataConfig
from generation.shards.shard import DamagedShardError, ImageFormat, Shard, find_problems, index_from_tar
from generation.shards.storage import Storage, StorageError

MANIFEST = "manifest.json"
INDEX_FOLDER = "index"
"""Folder with one Parquet file per shard, written after the shard: a shard with an index is complete."""

HELD_OUT_FOLDER = "held_out"
"""Subfolder with the held-out samples, which is a separate data set."""


@dataclass(frozen=True)
class ShardSet:
    """A data set of shards: its storage, and the manifest's fields, which determine the shards."""

    storage: Storage
    recipe: Recipe
    first_index: int
    ends: tuple[int, ...]
    """Number of images at creation and after each extension, ascending; the last is the current number."""

    shard_size: int
    batch_size: int
    """Generation batch size; another size changes the last bits of some images."""

    image_format: str
    quality: int

    @property
    def num_images(self) -> int:
        """Number of images in all shards."""
        return self.ends[-1]

    @property
    def encoding(self) -> ImageFormat:
        """Encoding of the images."""
        return ImageFormat(self.image_format, self.quality)

    @cached_property
    def ranges(self) -> tuple[range, ...]:
        """The range of indices of each shard, by shard number."""
        size = self.shard_size
        return tuple(
            range(self.first_index + start, self.first_index + stop)
            for before, end in pairwise((0, *self.ends))
            for start, stop in pairwise((before, *range(before - before % size + size, end, size), end))
        )

    def extended(self, num_images: int) -> "ShardSet":
        """Return the set extended to `num_images`; unchanged if it has that many."""
        if num_images <= self.num_images:
            return self
        return dataclasses.replace(self, ends=(*self.ends, num_images))

    def first(self, num_images: int) -> "ShardSet":
        """Return the set limited to its first `num_images`, for reading."""
        return dataclasses.replace(self, ends=(*(end for end in self.ends if end < num_images), num_images))

    def needed(self, num_images: int) -> list[int]:
        """Return the numbers of the shards that hold the first `num_images` images."""
        end = self.first_index + num_images
        return [number for number, indices in enumerate(self.ranges) if indices.start < end]

    def missing(self) -> list[int]:
        """Return the numbers of shards whose tar or index does not exist."""
        tars, indices = self.storage.names(), self.storage.names(INDEX_FOLDER)
        return [
            number
            for number in range(len(self.ranges))
            if shard_name(number) not in tars or index_name(number).rpartition("/")[2] not in indices
        ]

    def store(self, number: int, shard: Shard) -> None:
        """Write a shard. If another writer's intact tar exists, keep it and write the index of that tar instead.

        The images of two writers may differ in their last bits, so an index only matches its own writer's tar.
        """
        if self.storage.write_new(shard_name(number), shard.tar):
            self.storage.write(index_name(number), shard.index_file())
        elif existing := self._existing(number, shard):
            self.storage.write(index_name(number), existing.index_file())
        else:
            self.replace(number, shard)

    def _existing(self, number: int, ours: Shard) -> Shard | None:
        """Return the existing tar with its index, or None if it is damaged. Left-out samples come from our index."""
        name = shard_name(number)
        tar = self.storage.read(name)
        left_out = ours.index.filter(pa.array(ours.index["label"].to_numpy() == NO_LABEL))
        try:
            existing = Shard(tar, pa.concat_tables([index_from_tar(tar, name), left_out]).sort_by("index"))
        except DamagedShardError:
            return None
        problems = find_problems(tar, existing.index_file(), self.recipe, self.ranges[number], name)
        return None if problems else existing

    def replace(self, number: int, shard: Shard) -> None:
        """Overwrite a damaged shard."""
        self.storage.write(shard_name(number), shard.tar)
        self.storage.write(index_name(number), shard.index_file())

    def write_manifest(self, found: "ShardSet | None") -> None:
        """Write the manifest, replacing that of `found`; StorageError if another job has changed it since."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del fields["storage"]
        fields |= {"recipe": self.recipe.to_value(), "recipe_sha256": self.recipe.sha256}
        content = (json.dumps(fields, indent=1) + "\n").encode()
        if found is None:
            is_ours = self.storage.write_new(MANIFEST, content)
        elif is_ours := read_shard_set(self.storage) == found:
            self.storage.write(MANIFEST, content)
        if not is_ours:
            raise StorageError(
                f"Another job has just started or extended a data set in '{self.storage.url}'. Run again, or choose "
                "another location."
            )


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:06d}.tar"


def index_name(number: int) -> str:
    """Return the file name of a shard's index."""
    return f"{INDEX_FOLDER}/shard-{number:06d}.parquet"


def new_shard_set(storage: Storage, recipe: Recipe, indices: range, batch_size: int, data: DataConfig) -> ShardSet:
    """Return a new data set for these indices; ValueError if the batch size does not divide the shard size."""
    check_filled(data, batch_size)
    return ShardSet(
        storage=storage,
        recipe=recipe,
        first_index=indices.start,
        ends=(len(indices),),
        shard_size=data.shard_size,
        batch_size=batch_size,
        image_format=data.image_format,
        quality=data.quality,
    )


def check_filled(data: DataConfig, batch_size: int) -> None:
    """Raise ValueError if the batch size does not divide the shard size."""
    if data.shard_size % batch_size:
        raise ValueError(
            f"data.shard_size is {data.shard_size}, which is not a multiple of the batch size {batch_size}. "
            f"Use {max(1, data.shard_size // batch_size) * batch_size}."
        )


def read_shard_set(storage: Storage) -> ShardSet | None:
    """Return the data set in a storage, or None if it is empty; StorageError if it has other files."""
    names = storage.names()
    if not names:
        return None
    if MANIFEST not in names:
        raise StorageError(
            f"'{storage.url}' has files but no {MANIFEST}: it is not a Figment data set. Choose an empty location."
        )
    try:
        value = json.loads(storage.read(MANIFEST))
        value.pop("recipe_sha256")
        recipe = recipe_from_value(value.pop("recipe"))
        return ShardSet(storage=storage, recipe=recipe, ends=tuple(value.pop("ends")), **value)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"'{storage.url}/{MANIFEST}' is not a manifest of this version: {error}.") from error


def check_same(found: ShardSet, recipe: Recipe, data: DataConfig | None = None) -> None:
    """Raise ValueError listing the fields that differ in the recipe or, with `data`, in the storage settings."""
    different = {
        f"recipe.{name}": values for name, values in differences(found.recipe.to_value(), recipe.to_value()).items()
    }
    for name in ("shard_size", "image_format", "quality") if data else ():
        if getattr(found, name) != getattr(data, name):
            different[f"data.{name}"] = (getattr(found, name), getattr(data, name))
    if different:
        shown = list(different.items())[:5]
        named = "; ".join(f"{name} is {a!r} in the data set, {b!r} in this job" for name, (a, b) in shown)
        raise ValueError(
            f"'{found.storage.url}' contains a different data set: {named}. Choose another location or its settings."
        )
