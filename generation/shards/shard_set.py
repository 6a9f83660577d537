"""Which shards a data set has, and what they are of: its manifest, and what is there already.

A shard's samples are a range of indices, and its bytes follow from the recipe and that range. A set that ends in the
middle of a shard and is extended goes on with a shard for the rest, so that what exists is never touched.
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
from generation.shards.shard import DamagedShardError, ImageFormat, Shard, faults, index_of
from generation.shards.storage import Storage, StorageError

MANIFEST = "manifest.json"
INDEX_FOLDER = "index"
"""A Parquet file a shard; one is written after its shard, so that a shard with an index is whole."""

HELD_OUT_FOLDER = "held_out"
"""Where a data set keeps samples that are never trained on, as a set of its own."""


@dataclass(frozen=True)
class ShardSet:
    """A place for shards, and all that decides them: what its manifest holds."""

    storage: Storage
    recipe: Recipe
    first_index: int
    ends: tuple[int, ...]
    """How many images the set had, and has, each time that it was extended; the last is what it has."""

    shard_size: int
    batch_size: int
    """Images made at once: another size changes the last bits of some."""

    image_format: str
    quality: int

    @property
    def num_images(self) -> int:
        """How many images all shards hold."""
        return self.ends[-1]

    @property
    def encoding(self) -> ImageFormat:
        """How images become bytes."""
        return ImageFormat(self.image_format, self.quality)

    @cached_property
    def ranges(self) -> tuple[range, ...]:
        """The indices of each shard, by its number."""
        size = self.shard_size
        return tuple(
            range(self.first_index + start, self.first_index + stop)
            for before, end in pairwise((0, *self.ends))
            for start, stop in pairwise((before, *range(before - before % size + size, end, size), end))
        )

    def extended(self, num_images: int) -> "ShardSet":
        """Return the set with so many images, or as it is if it has them."""
        if num_images <= self.num_images:
            return self
        return dataclasses.replace(self, ends=(*self.ends, num_images))

    def first(self, num_images: int) -> "ShardSet":
        """Return the set as if it had but so many of its images, to be read."""
        return dataclasses.replace(self, ends=(*(end for end in self.ends if end < num_images), num_images))

    def needed(self, num_images: int) -> list[int]:
        """Return the numbers of the shards that hold the first images."""
        end = self.first_index + num_images
        return [number for number, part in enumerate(self.ranges) if part.start < end]

    def missing(self) -> list[int]:
        """Return the numbers of shards that are not there, or without their index."""
        tars, indices = self.storage.names(), self.storage.names(INDEX_FOLDER)
        return [
            number
            for number in range(len(self.ranges))
            if shard_name(number) not in tars or index_name(number).rpartition("/")[2] not in indices
        ]

    def keep(self, number: int, shard: Shard) -> None:
        """Write a shard; where another maker's is there already that one stays, and gets the index of its own tar.

        Two makers' images may differ in their last bits, and a tar fits no other maker's index.
        """
        if self.storage.write_new(shard_name(number), shard.tar):
            self.storage.write(index_name(number), shard.index_file())
        elif kept := self._kept(number, shard):
            self.storage.write(index_name(number), kept.index_file())
        else:
            self.replace(number, shard)

    def _kept(self, number: int, ours: Shard) -> Shard | None:
        """Return the shard whose tar is there, None if it is damaged; samples left out are no part of a tar."""
        name = shard_name(number)
        tar = self.storage.read(name)
        left_out = ours.index.filter(pa.array(ours.index["label"].to_numpy() == NO_LABEL))
        try:
            kept = Shard(tar, pa.concat_tables([index_of(tar, name), left_out]).sort_by("index"))
        except DamagedShardError:
            return None
        return None if faults(tar, kept.index_file(), self.recipe, self.ranges[number], name) else kept

    def replace(self, number: int, shard: Shard) -> None:
        """Write a shard in the place of a damaged one."""
        self.storage.write(shard_name(number), shard.tar)
        self.storage.write(index_name(number), shard.index_file())

    def claim(self, found: "ShardSet | None") -> None:
        """Say in the place what is to be kept there, in place of what was found; StorageError if it changed since."""
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
    """Return the file's name of a shard."""
    return f"shard-{number:06d}.tar"


def index_name(number: int) -> str:
    """Return the name of a shard's index."""
    return f"{INDEX_FOLDER}/shard-{number:06d}.parquet"


def new_shard_set(storage: Storage, recipe: Recipe, indices: range, batch_size: int, data: DataConfig) -> ShardSet:
    """Return the set of these indices; ValueError if batches do not fill shards."""
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
    """Raise ValueError if batches of this size do not fill shards."""
    if data.shard_size % batch_size:
        raise ValueError(
            f"data.shard_size is {data.shard_size}, which is not a multiple of the batch size {batch_size}. "
            f"Use {max(1, data.shard_size // batch_size) * batch_size}."
        )


def read_shard_set(storage: Storage) -> ShardSet | None:
    """Return the set that is kept in a place, None if it is empty; StorageError if something else is there."""
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
    """Raise ValueError with the fields that differ if a set is of other images, or keeps them in another way."""
    different = {
        f"recipe.{name}": values for name, values in differences(found.recipe.to_value(), recipe.to_value()).items()
    }
    for name in ("shard_size", "image_format", "quality") if data else ():
        if getattr(found, name) != getattr(data, name):
            different[f"data.{name}"] = (getattr(found, name), getattr(data, name))
    if different:
        named = "; ".join(f"{name} is {a!r} there, {b!r} here" for name, (a, b) in list(different.items())[:5])
        raise ValueError(
            f"'{found.storage.url}' contains a different data set: {named}. Choose another location or its settings."
        )
