"""Cache of network outputs as Parquet, written incrementally so that a stopped job continues where it ended.

Stores rows and columns of numbers; uses no networks and no images.
"""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from generation.files import write_whole
from generation.shards.storage import StorageError

PART_BYTES = 64_000_000
PART_SECONDS = 30.0
"""A file is written after this many bytes, or this much time since the last file."""

ROW = "row"
"""Column with the image's position in the set."""

Columns = dict[str, np.ndarray]


def folder_name(name: str, key: Mapping[str, Any]) -> str:
    """Return a folder name with a hash of `key`, which determines the folder's contents."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return f"{name.replace('/', '-')}-{digest[:12]}"


@dataclass
class OutputCache:
    """Cached rows in one folder. Several jobs may write to it, because a row's values are the same in all."""

    folder: Path
    num_rows: int
    """Images of the set."""

    pending: list[Columns] = field(default_factory=list)
    written_at: float = field(default_factory=time.monotonic)

    def open(self, key: Mapping[str, Any]) -> None:
        """Create the folder, with a file that describes its contents."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            about = self.folder / "about.json"
            if not about.exists():
                write_whole(about, lambda file: file.write(f"{json.dumps(dict(key), indent=2)}\n".encode()))
        except OSError as error:
            raise ValueError(
                f"'{self.folder}' cannot be written: {error.strerror}. Use another folder: evaluation.outputs=FOLDER."
            ) from error

    def rows(self) -> np.ndarray:
        """Return the cached rows, int64, ascending."""
        is_cached = np.zeros(self.num_rows, dtype=bool)
        for path in self.parts():
            is_cached[_read(path, [ROW])[ROW]] = True
        return np.flatnonzero(is_cached)

    def missing(self) -> np.ndarray:
        """Return the rows that are not cached yet, int64, ascending."""
        return np.setdiff1d(np.arange(self.num_rows), self.rows(), assume_unique=True)

    def add(self, columns: Columns) -> None:
        """Add rows: `row` int64 [N], and arrays [N] or [N, D]."""
        if len(columns[ROW]):
            self.pending.append(columns)
        num_bytes = sum(column.nbytes for columns in self.pending for column in columns.values())
        if num_bytes >= PART_BYTES or time.monotonic() - self.written_at >= PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write pending rows to a file, atomically."""
        if self.pending:
            columns = {name: np.concatenate([part[name] for part in self.pending]) for name in self.pending[0]}
            table = pa.table({name: _to_arrow(column) for name, column in columns.items()})
            path = self.folder / f"part-{uuid4().hex}.parquet"
            try:
                write_whole(path, lambda file: pq.write_table(table, file))
            except OSError as error:
                raise StorageError(
                    f"'{self.folder}' cannot be written: {error}. Outputs already cached there are kept."
                ) from error
        self.pending, self.written_at = [], time.monotonic()

    def read(self, name: str) -> np.ndarray:
        """Return a column of all cached rows, each once, in the order of `rows`: [N] or [N, D].

        Peak memory is the column plus one file.
        """
        rows, whole = self.rows(), np.zeros(0)
        for path in self.parts():
            part = _read(path, [ROW, name])
            if not whole.size:
                whole = np.zeros((len(rows), *part[name].shape[1:]), dtype=part[name].dtype)
            whole[np.searchsorted(rows, part[ROW])] = part[name]
        return whole

    def parts(self) -> list[Path]:
        """Return the cache's files; their names are never reused."""
        return sorted(self.folder.glob("part-*.parquet"))


def _to_arrow(column: np.ndarray) -> pa.Array:
    """Return a column [N], or [N, D] as fixed-size lists."""
    flat = pa.array(column.reshape(-1))
    return flat if column.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, column[0].size)


def _read(path: Path, names: list[str]) -> Columns:
    try:
        table = pq.read_table(path, columns=names)
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"'{path}' cannot be read: {error}. Delete it; its rows are computed again.") from error
    return {name: _to_numpy(table.column(name).combine_chunks()) for name in table.column_names}


def _to_numpy(array: Any) -> np.ndarray:
    if not pa.types.is_fixed_size_list(array.type):
        return array.to_numpy(zero_copy_only=False)
    return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), array.type.list_size)
