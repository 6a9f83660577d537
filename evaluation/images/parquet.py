"""Labeled images in Hugging Face's Parquet files: a column `image` of bytes and path, and a column `label`.

In CIFAR these are `img` and `fine_label`.

Leaves class names uninterpreted, and uses no Ray.
"""

import json
import os
from collections.abc import Sequence
from functools import partial
from io import BytesIO
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from evaluation.images.decoding import read_image
from evaluation.images.image_list import ImageList, Opener, build_list, errors_as
from evaluation.images.splits import files_of
from generation.shards.storage import StorageError

IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "fine_label")
"""Names of the columns of images and of labels, in order of preference."""


class Group(NamedTuple):
    """A row group."""

    path: str
    number: int
    """Index of the row group in its file."""

    num_rows: int


class _Rows(NamedTuple):
    """Listing of one file."""

    image: str
    """Name of the image column."""

    names: list[str]
    labels: list[str]
    groups: list[Group]
    titles: tuple[str, ...]
    """Class names of integer labels, by label; empty without such a table."""


def parquet_images(path: str, split: str = "") -> ImageList:
    """Return the images of one Parquet file, or of all Parquet files of a split in a folder or its `data` subfolder.

    They are sorted by file, then by row; none is read. Labels are integers or strings. ValueError if a file, a column,
    a label or the split is missing, or if the files name the integer labels differently.
    """
    folder, files = files_of(path, ".parquet", split)
    parts = [_rows_of(os.path.join(folder, file), file) for file in files]
    _check_titles(folder, {file: part.titles for file, part in zip(files, parts, strict=True)})
    labels = [label for part in parts for label in part.labels]
    if not labels:
        raise ValueError(f"The Parquet files of '{folder}' have no rows. Use files with images.")
    names = [name for part in parts for name in part.names]
    groups = [group for part in parts for group in part.groups]
    opener_of = partial(open_rows, parts[0].image, groups)
    return build_list(folder, names, labels, titles=parts[0].titles, opener_of=opener_of)


def open_rows(image: str, groups: list[Group], names: Sequence[str]) -> Opener:
    """Return a function that decodes the image at a position, and buffers its row group for the following images.

    `image` is the name of the image column; `groups` are all row groups in order.
    """
    starts = np.cumsum([0, *(group.num_rows for group in groups)])
    buffered: dict[int, pa.ChunkedArray] = {}

    def read(position: int) -> Image.Image:
        number = int(np.searchsorted(starts, position, side="right")) - 1
        if number not in buffered:
            buffered.clear()  # before reading, to save memory: a row group may have 1000 photographs
            path = groups[number].path
            with errors_as(StorageError, path, "Parquet", pa.ArrowException), pq.ParquetFile(path) as parquet:
                table = parquet.read_row_group(groups[number].number, columns=[f"{image}.bytes"])
                buffered[number] = _field(table, image, "bytes")
        return read_image(BytesIO(buffered[number][int(position - starts[number])].as_py() or b""), names[position])

    return read


def _rows_of(path: str, file: str) -> _Rows:
    """Return the listing of a file, without its images; rows are numbered from 0 over all its row groups."""
    with errors_as(ValueError, path, "Parquet", pa.ArrowException), pq.ParquetFile(path) as parquet:
        image, label, has_paths = _check_columns(path, parquet.schema_arrow)
        titles = _titles(path, parquet.schema_arrow, label)
        table = parquet.read(columns=[f"{image}.path", label] if has_paths else [label])
        groups = [Group(path, i, parquet.metadata.row_group(i).num_rows) for i in range(parquet.num_row_groups)]
    paths = _field(table, image, "path").to_pylist() if has_paths else [None] * len(table)
    names = [f"{file}/{path_there}" if path_there else f"{file} row {row}" for row, path_there in enumerate(paths)]
    return _Rows(image, names, _labels(path, table[label].to_pylist(), titles), groups, titles)


def _field(table: pa.Table, column: str, name: str) -> pa.ChunkedArray:
    """Return a field of the image column, null where the image is null."""
    return table.select([column]).flatten()[f"{column}.{name}"]


def _check_columns(path: str, schema: pa.Schema) -> tuple[str, str, bool]:
    """Return the image column, the label column, and whether images have paths; ValueError if a column is missing."""
    types = dict(zip(schema.names, schema.types, strict=True))
    image_column, label_column = (
        next((name for name in names if name in types), names[0]) for names in (IMAGE_COLUMNS, LABEL_COLUMNS)
    )
    image, label = types.get(image_column), types.get(label_column)
    fields = [field.name for field in image] if image is not None and pa.types.is_struct(image) else []
    kind = _kind_of_values(label) if label is not None else pa.null()
    is_label = pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if "bytes" not in fields or not is_label:
        columns = ", ".join(f"{name} ({str(kind)[:60]})" for name, kind in list(types.items())[:10])
        raise ValueError(
            f"'{path}' needs the columns image, a struct of bytes and path, and label, integers or strings, but has "
            f"{columns}. Rename them, or use other files."
        )
    return image_column, label_column, "path" in fields


def _kind_of_values(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _titles(path: str, schema: pa.Schema, label: str) -> tuple[str, ...]:
    """Return the class names in Hugging Face's `ClassLabel`, in order of their numbers; empty if there are none."""
    described = (schema.metadata or {}).get(b"huggingface", b"")
    if not described or not pa.types.is_integer(_kind_of_values(schema.field(label).type)):
        return ()
    with errors_as(ValueError, path, "Hugging Face's description of its columns", ValueError, RecursionError):
        feature = json.loads(described)
    for key in ("info", "features", label):
        feature = feature.get(key) if isinstance(feature, dict) else None
    if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel":
        return ()
    names = feature.get("names") or []
    if isinstance(names, dict):  # older files have a mapping by number
        names = [names.get(str(number), "") for number in range(len(names))]
    if not (isinstance(names, list) and all(name and isinstance(name, str) for name in names)):
        raise ValueError(
            f"'{path}' does not name every class number in its ClassLabel: {str(names)[:60]}. Name each, from 0."
        )
    return tuple(names)


def _check_titles(folder: str, titles: dict[str, tuple[str, ...]]) -> None:
    """Raise ValueError unless all files have the same titles."""
    first = next(iter(titles))
    if other := next((file for file in titles if titles[file] != titles[first]), None):
        raise ValueError(
            f"'{other}' in '{folder}' has other class names in its ClassLabel than '{first}'. Use files of one set."
        )


def _labels(path: str, labels: list[int | str | None], titles: tuple[str, ...]) -> list[str]:
    """Return labels as strings; ValueError if one is missing (-1 in Hugging Face's files) or has no title."""
    for row, label in enumerate(labels):
        if titles and isinstance(label, int) and label >= len(titles):
            raise ValueError(
                f"'{path}' row {row} has the label {label}, but its ClassLabel has {len(titles)} names, from 0. Name "
                "all classes there, or use other files."
            )
        if label is None or label == "" or (isinstance(label, int) and label < 0):
            raise ValueError(
                f"'{path}' row {row} has the label {label!r}, which means no label: this split may keep its labels "
                "secret. Use another split, or other files."
            )
    return [str(label) for label in labels]
