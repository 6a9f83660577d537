"""One shard: samples as a WebDataset tar, and its index. Knows bytes, and neither storage nor Ray.

A sample is three members of the tar: `KEY.png` (or jpg, webp), `KEY.cls` (its label) and `KEY.json` (its whole plan);
the key is its index. One that the recipe leaves out is a row of the index alone, without a label. The tar's bytes
follow from the samples alone: members have no time and no owner of their own.
(Written by `tarfile`: webdataset's writer would bring torch, 0.6 GB, into every process that keeps samples.)
"""

import hashlib
import io
import json
import tarfile
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from generation.recipes.plan import describe_sample, plan_sample
from generation.recipes.recipe import Recipe, canonical_json
from generation.sample import NO_LABEL, SampleBatch, selected

THREADS = 4
"""Images that a process encodes or decodes at once: Pillow lets other threads work meanwhile."""

INDEX_SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("label", pa.int64()),
        ("attempt", pa.int8()),
        ("shard", pa.string()),
        ("offset", pa.int64()),
        ("num_bytes", pa.int64()),
        ("sha256", pa.string()),
    ]
)
"""A row a sample: where the bytes of its image begin in the shard, how many they are, and their hash."""


class DamagedShardError(RuntimeError):
    """A shard is not what its index says."""


@dataclass(frozen=True)
class ImageFormat:
    """How images become bytes."""

    name: str
    """png, jpg or webp."""

    quality: int
    """0 is lossless, else 1 to 100."""

    def encode(self, image: np.ndarray) -> bytes:
        """Return the file that shows uint8 [H, W, 3]."""
        settings = {"quality": self.quality} if self.quality else {"lossless": True} if self.name == "webp" else {}
        file = io.BytesIO()
        Image.fromarray(image).save(file, "jpeg" if self.name == "jpg" else self.name, **settings)
        return file.getvalue()


@dataclass(frozen=True)
class Shard:
    """A finished tar and its index."""

    tar: bytes
    index: pa.Table

    def index_file(self) -> bytes:
        """Return the index as Parquet, whose metadata has the hashes of the recipe, of its rows and of the tar."""
        file = io.BytesIO()
        hashes = {"rows_sha256": _hash_of_rows(self.index), "tar_sha256": sha256(self.tar)}
        pq.write_table(self.index.replace_schema_metadata({**(self.index.schema.metadata or {}), **hashes}), file)
        return file.getvalue()


class ShardWriter:
    """Encodes samples as they come, and is left with the tar."""

    def __init__(self, recipe: Recipe, name: str, image_format: ImageFormat) -> None:
        self.recipe = recipe
        self.name = name
        self.image_format = image_format
        self.threads = ThreadPoolExecutor(THREADS)
        self.members: list[Future[dict[str, bytes]]] = []
        self.left_out: list[tuple[int, int]] = []
        """Index and attempts of samples that have no members."""

    def add(self, batch: SampleBatch) -> None:
        """Take a batch, whose images are encoded meanwhile; wait for those before the last."""
        for future in self.members[-len(batch["index"]) :]:
            future.result()
        is_left_out = batch["label"] == NO_LABEL
        lost = selected(batch, is_left_out)
        self.left_out += zip(lost["index"].tolist(), lost["attempt"].tolist(), strict=True)
        kept = selected(batch, ~is_left_out)
        for index, attempt, image in zip(kept["index"], kept["attempt"], kept["image"], strict=True):
            self.members.append(self.threads.submit(self._members_of, int(index), int(attempt), image))

    def finish(self) -> Shard:
        """Return the shard of all samples that came, in their order."""
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for future in self.members:
                for name, content in future.result().items():
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        self.threads.shutdown()
        content = file.getvalue()
        index = index_of(content, self.name) if self.members else _index([], self.recipe.sha256)
        lost = _index([(i, NO_LABEL, n, self.name, 0, 0, "") for i, n in self.left_out], self.recipe.sha256)
        return Shard(content, pa.concat_tables([index, lost]).sort_by("index") if self.left_out else index)

    def _members_of(self, index: int, attempt: int, image: np.ndarray) -> dict[str, bytes]:
        label, described = description(self.recipe, index, attempt)
        contents = {"cls": label, "json": described, self.image_format.name: self.image_format.encode(image)}
        return {f"{key_of(index)}.{kind}": content for kind, content in contents.items()}


def description(recipe: Recipe, index: int, attempt: int) -> tuple[bytes, bytes]:
    """Return what `.cls` and `.json` of a sample hold."""
    plan = plan_sample(recipe, index, attempt)
    return str(plan.label).encode(), canonical_json(describe_sample(recipe, plan)).encode()


def key_of(index: int) -> str:
    """Return a sample's name in a tar."""
    return f"{index:013d}"


def sha256(content: bytes | memoryview) -> str:
    """Return the hash in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def index_of(tar: bytes, name: str) -> pa.Table:
    """Return the index of a shard's samples, read from the tar itself; DamagedShardError for what is none of ours."""
    rows, recipes = [], set()
    try:
        for key, members in members_of(tar).items():
            label, described = int(members["cls"].content), json.loads(members["json"].content)
            (image,) = (member for kind, member in members.items() if kind not in ("cls", "json"))
            place = (name, image.offset, len(image.content), sha256(image.content))
            rows.append((int(key), label, described["attempt"], *place))
            recipes.add(described["recipe_sha256"])
        if len(recipes) != 1:
            raise ValueError(f"its samples come from {len(recipes)} recipes")
    except (tarfile.TarError, KeyError, ValueError, TypeError) as error:
        raise DamagedShardError(f"{name} is not a complete shard: {type(error).__name__}: {error}") from error
    return _index(rows, recipes.pop())


def _index(rows: Sequence[tuple], recipe_sha256: str) -> pa.Table:
    columns = [[row[i] for row in rows] for i in range(len(INDEX_SCHEMA))]
    return pa.table(columns, schema=INDEX_SCHEMA.with_metadata({"recipe_sha256": recipe_sha256}))


@dataclass(frozen=True)
class Member:
    """A file in a tar: where its bytes begin, and these."""

    offset: int
    content: bytes


def members_of(tar: bytes) -> dict[str, dict[str, Member]]:
    """Return the members of each sample by their ending, in the tar's order; TarError or ValueError if it is cut."""
    samples: dict[str, dict[str, Member]] = {}
    with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as members:
        for member in members:
            content = tar[member.offset_data : member.offset_data + member.size]
            if len(content) != member.size:
                raise ValueError(f"{member.name} is truncated")
            key, _, kind = member.name.partition(".")
            samples.setdefault(key, {})[kind] = Member(member.offset_data, content)
    return samples


def open_index(index_file: bytes, recipe: Recipe, indices: range, name: str) -> pa.Table:
    """Return the index of a shard that begins with these samples, as it was written; else DamagedShardError."""
    index = _read_index(index_file, name)
    if not _has_hash(index, "recipe_sha256", recipe.sha256):
        raise DamagedShardError(f"{name} was generated from a different recipe")
    if index["index"].slice(0, len(indices)).to_pylist() != list(indices):
        raise DamagedShardError(f"{name} {_not_all_of(indices)}")
    return index


def _read_index(index_file: bytes, name: str) -> pa.Table:
    """Return an index, which may be of anything; DamagedShardError if it is not what was written."""
    try:
        index = pq.read_table(pa.BufferReader(index_file))
        is_whole = index.schema.equals(INDEX_SCHEMA) and _has_hash(index, "rows_sha256", _hash_of_rows(index))
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise DamagedShardError(f"The index of {name} cannot be read: {' '.join(str(error).split())}") from error
    if not is_whole:
        raise DamagedShardError(f"The index of {name} is damaged")
    return index


def _hash_of_rows(index: pa.Table) -> str:
    return sha256(canonical_json(index.to_pydict()).encode())


def _has_hash(index: pa.Table, name: str, value: str) -> bool:
    """Return whether this is what an index says of its recipe, its rows or its tar."""
    return (index.schema.metadata or {}).get(name.encode()) == value.encode()


def _not_all_of(indices: range) -> str:
    return f"does not contain samples {indices.start} to {indices.stop - 1}"


def extent_of(rows: pa.Table) -> tuple[int, int]:
    """Return where in a shard the images of some rows of its index begin and end; (0, 1) where there is none."""
    offsets, sizes = rows["offset"].to_numpy(), rows["num_bytes"].to_numpy()
    if not sizes.any():
        return 0, 1
    return int(offsets[sizes > 0].min()), int((offsets + sizes).max())


def decode_samples(content: bytes, rows: pa.Table, image_size: int) -> SampleBatch:
    """Return samples of a shard as the stream gives them, from the bytes of `extent_of` their rows.

    DamagedShardError if an image is not the one that was written.
    """
    columns = {name: rows[name].to_numpy() for name in ("index", "label", "attempt", "offset", "num_bytes")}
    hashes = rows["sha256"].to_pylist()
    images = np.zeros((len(hashes), image_size, image_size, 3), np.uint8)
    part, begin = memoryview(content), extent_of(rows)[0]

    def decode(i: int) -> None:
        if not columns["num_bytes"][i]:
            return  # it was left out
        start = columns["offset"][i] - begin
        file = part[start : start + columns["num_bytes"][i]]
        if sha256(file) != hashes[i]:
            raise DamagedShardError(f"sample {columns['index'][i]}: the image does not match its SHA-256")
        with Image.open(io.BytesIO(file)) as image:
            images[i] = np.asarray(image)

    with ThreadPoolExecutor(THREADS) as threads:
        deque(threads.map(decode, range(len(images))), maxlen=0)
    return {"index": columns["index"], "label": columns["label"], "image": images, "attempt": columns["attempt"]}


def faults(tar: bytes, index_file: bytes, recipe: Recipe, indices: range, name: str) -> list[str]:
    """Return what is wrong with a file that should be the shard of these samples; nothing if all is as it was made."""
    try:
        index, samples = _read_index(index_file, name), members_of(tar)
    except DamagedShardError as error:
        return [str(error)]
    except (tarfile.TarError, ValueError) as error:
        return [f"{name} cannot be read: {type(error).__name__}: {error}"]
    kept = index.filter(pa.array(index["label"].to_numpy() != NO_LABEL))
    rows = kept.to_pylist()
    if index["index"].to_pylist() != list(indices) or list(samples) != [key_of(row["index"]) for row in rows]:
        return [f"{name} {_not_all_of(indices)}"]
    found = [fault for row in rows for fault in _faults_of_sample(samples[key_of(row["index"])], recipe, row)]
    if not found and not _has_hash(index, "tar_sha256", sha256(tar)):
        found.append(f"{name} does not match its SHA-256")
    if not found and rows and not kept.equals(index_of(tar, name), check_metadata=False):
        found.append(f"the index of {name} does not match its samples")
    if not found and not _has_hash(index, "recipe_sha256", recipe.sha256):
        found.append(f"the index of {name} was written for a different recipe")
    return found


def _faults_of_sample(members: dict[str, Member], recipe: Recipe, row: dict[str, Any]) -> list[str]:
    who = f"sample {row['index']}"
    if len(members) != 3 or not {"cls", "json"} <= members.keys():
        return [f"{who}: expected an image, .cls and .json, found .{', .'.join(members)}"]
    found = []
    for kind, expected in zip(("cls", "json"), description(recipe, row["index"], row["attempt"]), strict=True):
        if members[kind].content != expected:
            found.append(f"{who}: .{kind} does not match the recipe")
    image = next(member.content for kind, member in members.items() if kind not in ("cls", "json"))
    if sha256(image) != row["sha256"]:
        found.append(f"{who}: the image does not match its SHA-256")
    elif fault := _fault_of_image(image, recipe.image_size):
        found.append(f"{who}: {fault}")
    return found


def _fault_of_image(image: bytes, size: int) -> str:
    try:
        with Image.open(io.BytesIO(image)) as opened:
            opened.load()
            return "" if opened.size == (size, size) else f"the image has {opened.size} pixels, expected {(size, size)}"
    except (OSError, SyntaxError) as error:
        return f"the image cannot be decoded: {error}"
