"""One shard: samples in a WebDataset tar, and its index. Works on bytes; uses neither storage nor Ray.

A sample is three members of the tar: `KEY.png` (or jpg, webp), `KEY.cls` (its label) and `KEY.json` (its full plan);
the key is its index. A sample that the recipe leaves out has only a row in the index, without a label. The tar's bytes
depend only on the samples: members have no timestamp and no owner.
(Written with `tarfile`: webdataset's writer would load torch, 0.6 GB, into every process that stores samples.)
"""

import hashlib
import io
import json
import os
import tarfile
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from generation.recipes.plan import describe_sample, plan_sample
from generation.recipes.recipe import Recipe, canonical_json
from generation.sample import NO_LABEL, SCORE_DECIMALS, SampleBatch, select_samples

THREADS = min(4, os.cpu_count() or 1)
"""Threads per process that encode or decode images: Pillow releases the GIL."""

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
"""One row per sample: offset, size and SHA-256 of its image's bytes in the shard."""

SCORED_SCHEMA = INDEX_SCHEMA.append(pa.field("score", pa.float32()))
"""The index of a recipe with a check."""

SAMPLE_COLUMNS = ("index", "label", "attempt", "score")
"""The index's columns that samples have."""


class DamagedShardError(RuntimeError):
    """A shard or its index is damaged, or they do not match."""


@dataclass(frozen=True)
class ImageFormat:
    """Encoding of images."""

    name: str
    """png, jpg or webp."""

    quality: int
    """0 is lossless, else 1 to 100."""

    def encode(self, image: np.ndarray) -> bytes:
        """Return the encoded file of an image, uint8 [H, W, 3]."""
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
        """Return the index as Parquet, with SHA-256 hashes of the recipe, the rows and the tar in its metadata."""
        file = io.BytesIO()
        hashes = {"rows_sha256": _hash_of_rows(self.index), "tar_sha256": sha256(self.tar)}
        pq.write_table(self.index.replace_schema_metadata({**(self.index.schema.metadata or {}), **hashes}), file)
        return file.getvalue()


class ShardWriter:
    """Encodes samples in the background and builds the tar."""

    def __init__(self, recipe: Recipe, name: str, image_format: ImageFormat) -> None:
        self.recipe = recipe
        self.name = name
        self.image_format = image_format
        self.threads = ThreadPoolExecutor(THREADS)
        self.members: list[Future[dict[str, bytes]]] = []
        self.left_out: list[tuple] = []
        """Index rows of samples without members."""

    def add(self, batch: SampleBatch) -> None:
        """Wait until the previous batch is encoded, then encode this one in the background."""
        for future in self.members[-len(batch["index"]) :]:
            future.result()
        is_left_out = batch["label"] == NO_LABEL
        left_out = select_samples(batch, is_left_out)
        rest = (self.name, 0, 0, "", *([0.0] if self.recipe.check else []))
        numbers = zip(left_out["index"].tolist(), left_out["attempt"].tolist(), strict=True)
        self.left_out += [(index, NO_LABEL, attempt, *rest) for index, attempt in numbers]
        kept = select_samples(batch, ~is_left_out)
        scores = kept.get("score", np.zeros(len(kept["index"])))
        for index, attempt, image, score in zip(kept["index"], kept["attempt"], kept["image"], scores, strict=True):
            self.members.append(self.threads.submit(self._members_of, int(index), int(attempt), image, float(score)))

    def finish(self) -> Shard:
        """Return the shard with all added samples, in the order they were added."""
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for future in self.members:
                for name, content in future.result().items():
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        self.threads.shutdown()
        content = file.getvalue()
        left_out = _index(self.left_out, self.recipe.sha256, bool(self.recipe.check))
        index = index_from_tar(content, self.name) if self.members else left_out.slice(0, 0)
        return Shard(content, pa.concat_tables([index, left_out]).sort_by("index") if self.left_out else index)

    def _members_of(self, index: int, attempt: int, image: np.ndarray, score: float) -> dict[str, bytes]:
        label, described = cls_and_json(self.recipe, index, attempt, score)
        contents = {"cls": label, "json": described, self.image_format.name: self.image_format.encode(image)}
        return {f"{key_of(index)}.{kind}": content for kind, content in contents.items()}


def cls_and_json(recipe: Recipe, index: int, attempt: int, score: float = 0.0) -> tuple[bytes, bytes]:
    """Return the contents of a sample's `.cls` and `.json` files; with a check, the latter has the score."""
    plan = plan_sample(recipe, index, attempt)
    scored = {"score": round(score, SCORE_DECIMALS)} if recipe.check else {}
    return str(plan.label).encode(), canonical_json(describe_sample(recipe, plan) | scored).encode()


def key_of(index: int) -> str:
    """Return a sample's key: the stem of its files in the tar."""
    return f"{index:013d}"


def sha256(content: bytes | memoryview) -> str:
    """Return the SHA-256 in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def index_from_tar(tar: bytes, name: str) -> pa.Table:
    """Return the index of a tar's samples, built from the tar itself; DamagedShardError if it is not a shard."""
    rows, recipes, is_scored = [], set(), False
    try:
        for key, members in members_of(tar).items():
            label, described = int(members["cls"].content), json.loads(members["json"].content)
            (image,) = (member for kind, member in members.items() if kind not in ("cls", "json"))
            location = (name, image.offset, len(image.content), sha256(image.content))
            is_scored = "score" in described
            rows.append((int(key), label, described["attempt"], *location, described.get("score")))
            recipes.add(described["recipe_sha256"])
        if len(recipes) != 1:
            raise ValueError(f"its samples come from {len(recipes)} recipes")
    except (tarfile.TarError, KeyError, ValueError, TypeError) as error:
        raise DamagedShardError(f"{name} is not a complete shard: {type(error).__name__}: {error}") from error
    return _index(rows, recipes.pop(), is_scored)


def _index(rows: Sequence[tuple], recipe_sha256: str, is_scored: bool) -> pa.Table:
    schema = SCORED_SCHEMA if is_scored else INDEX_SCHEMA
    columns = [[row[i] for row in rows] for i in range(len(schema))]
    return pa.table(columns, schema=schema.with_metadata({"recipe_sha256": recipe_sha256}))


@dataclass(frozen=True)
class Member:
    """A file in a tar: the offset of its bytes, and the bytes."""

    offset: int
    content: bytes


def members_of(tar: bytes) -> dict[str, dict[str, Member]]:
    """Return each sample's members by extension, in tar order; TarError or ValueError if the tar is truncated."""
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
    """Return the index of a shard that begins with these samples; DamagedShardError if it does not or is damaged."""
    index = _read_index(index_file, name)
    if not _has_hash(index, "recipe_sha256", recipe.sha256):
        raise DamagedShardError(f"{name} was generated from a different recipe")
    if index["index"].slice(0, len(indices)).to_pylist() != list(indices):
        raise DamagedShardError(f"{name} {_wrong_samples(indices)}")
    return index


def _read_index(index_file: bytes, name: str) -> pa.Table:
    """Return an index of any recipe and samples; DamagedShardError if it is damaged."""
    try:
        index = pq.read_table(pa.BufferReader(index_file))
        is_intact = index.schema in (INDEX_SCHEMA, SCORED_SCHEMA) and _has_hash(
            index, "rows_sha256", _hash_of_rows(index)
        )
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise DamagedShardError(f"The index of {name} cannot be read: {' '.join(str(error).split())}") from error
    if not is_intact:
        raise DamagedShardError(f"The index of {name} is damaged")
    return index


def _hash_of_rows(index: pa.Table) -> str:
    return sha256(canonical_json(index.to_pydict()).encode())


def _has_hash(index: pa.Table, name: str, value: str) -> bool:
    """Return whether the index's metadata has this value for `recipe_sha256`, `rows_sha256` or `tar_sha256`."""
    return (index.schema.metadata or {}).get(name.encode()) == value.encode()


def _wrong_samples(indices: range) -> str:
    return f"does not contain samples {indices.start} to {indices.stop - 1}"


def byte_range(rows: pa.Table) -> tuple[int, int]:
    """Return the byte range (start, stop) of a shard that has the images of these index rows; (0, 1) without images."""
    offsets, sizes = rows["offset"].to_numpy(), rows["num_bytes"].to_numpy()
    if not sizes.any():
        return 0, 1
    return int(offsets[sizes > 0].min()), int((offsets + sizes).max())


def decode_samples(content: bytes, rows: pa.Table, image_size: int) -> SampleBatch:
    """Return samples in the stream's format, decoded from the bytes of `byte_range(rows)`.

    DamagedShardError if an image does not match its SHA-256.
    """
    columns = {name: rows[name].to_numpy() for name in rows.column_names if name not in ("shard", "sha256")}
    hashes = rows["sha256"].to_pylist()
    images = np.zeros((len(hashes), image_size, image_size, 3), np.uint8)
    view, begin = memoryview(content), byte_range(rows)[0]

    def decode(first: int) -> None:
        """Decode every `THREADS`-th image: a task per image costs up to a tenth more."""
        for i in range(first, len(images), THREADS):
            if not columns["num_bytes"][i]:
                continue  # left out
            start = columns["offset"][i] - begin
            file = view[start : start + columns["num_bytes"][i]]
            if sha256(file) != hashes[i]:
                raise DamagedShardError(f"sample {columns['index'][i]}: the image does not match its SHA-256")
            with Image.open(io.BytesIO(file)) as image:
                images[i] = np.asarray(image)

    with ThreadPoolExecutor(THREADS) as threads:
        deque(threads.map(decode, range(THREADS)), maxlen=0)
    return cast(SampleBatch, {name: columns[name] for name in SAMPLE_COLUMNS if name in columns} | {"image": images})


def find_problems(tar: bytes, index_file: bytes, recipe: Recipe, indices: range, name: str) -> list[str]:
    """Return the problems of a tar and index that should hold these samples; empty if both are intact."""
    try:
        index, samples = _read_index(index_file, name), members_of(tar)
    except DamagedShardError as error:
        return [str(error)]
    except (tarfile.TarError, ValueError) as error:
        return [f"{name} cannot be read: {type(error).__name__}: {error}"]
    kept = index.filter(pa.array(index["label"].to_numpy() != NO_LABEL))
    rows = kept.to_pylist()
    if index["index"].to_pylist() != list(indices) or list(samples) != [key_of(row["index"]) for row in rows]:
        return [f"{name} {_wrong_samples(indices)}"]
    found = [problem for row in rows for problem in _sample_problems(samples[key_of(row["index"])], recipe, row)]
    if not found and not _has_hash(index, "tar_sha256", sha256(tar)):
        found.append(f"{name} does not match its SHA-256")
    if not found and rows and not kept.equals(index_from_tar(tar, name), check_metadata=False):
        found.append(f"the index of {name} does not match its samples")
    if not found and not _has_hash(index, "recipe_sha256", recipe.sha256):
        found.append(f"the index of {name} was written for a different recipe")
    return found


def _sample_problems(members: dict[str, Member], recipe: Recipe, row: dict[str, Any]) -> list[str]:
    sample = f"sample {row['index']}"
    if len(members) != 3 or not {"cls", "json"} <= members.keys():
        return [f"{sample}: expected an image, .cls and .json, found .{', .'.join(members)}"]
    found = []
    contents = cls_and_json(recipe, row["index"], row["attempt"], row.get("score", 0.0))
    for kind, expected in zip(("cls", "json"), contents, strict=True):
        if members[kind].content != expected:
            found.append(f"{sample}: .{kind} does not match the recipe")
    image = next(member.content for kind, member in members.items() if kind not in ("cls", "json"))
    if sha256(image) != row["sha256"]:
        found.append(f"{sample}: the image does not match its SHA-256")
    elif problem := _image_problem(image, recipe.image_size):
        found.append(f"{sample}: {problem}")
    return found


def _image_problem(image: bytes, size: int) -> str:
    try:
        with Image.open(io.BytesIO(image)) as opened:
            opened.load()
            return "" if opened.size == (size, size) else f"the image has {opened.size} pixels, expected {(size, size)}"
    except (OSError, SyntaxError) as error:
        return f"the image cannot be decoded: {error}"
