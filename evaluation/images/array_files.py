"""Labeled images in array files: MNIST's and Fashion-MNIST's idx files, gzipped or not, and CIFAR's binary version.

Leaves class names uninterpreted, and uses no Ray.
"""

import gzip
import math
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from evaluation.images.image_list import ImageList, build_list, errors_as, open_array
from evaluation.images.splits import SPLITS

IDX_SPLITS = {"train": "train", "test": "t10k"}
"""File name prefix of each split."""

IDX_ENDINGS = ("", ".gz")

CIFAR_SIZE = 32


@dataclass(frozen=True)
class CifarKind:
    """CIFAR-10 or CIFAR-100."""

    parts: dict[str, tuple[str, ...]]
    """Files of each split."""

    num_label_bytes: int
    """Bytes before an image's pixels; the last one is its class."""

    names: str
    """File with the class names, one per line."""


CIFAR = (
    CifarKind(
        {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}, 1, "batches.meta.txt"
    ),
    CifarKind({"train": ("train.bin",), "test": ("test.bin",)}, 2, "fine_label_names.txt"),
)


def has_arrays(folder: str) -> bool:
    """Return whether a folder has files of these formats."""
    return bool(_idx_splits(folder) or _cifar_kind(folder))


def array_images(folder: str, split: str = "") -> ImageList:
    """Return the images of a split, by default test; ValueError if files are missing or damaged."""
    kind = _cifar_kind(folder)
    available = [name for name, files in kind.parts.items() if _all_in(folder, files)] if kind else _idx_splits(folder)
    chosen = SPLITS.get(split, split) or "test"
    if chosen not in available:
        raise ValueError(
            f"'{folder}' has {' and '.join(available)}, but not {chosen}. Add the files of {chosen}, or use another "
            "folder."
        )
    return _cifar_images(folder, kind, chosen) if kind else _idx_images(folder, chosen)


def _idx_images(folder: str, split: str) -> ImageList:
    images, labels = (_idx_file(folder, split, what) for what in ("images-idx3", "labels-idx1"))
    numbers, num_images = _idx_array(labels, 1), len(_idx_array(images, 3))
    if num_images != len(numbers):
        raise ValueError(
            f"'{images}' has {num_images} images, but '{labels}' has {len(numbers)} labels. Download both again."
        )
    return _array_images(folder, os.path.basename(images), numbers, (), partial(_idx_array, images, 3))


def _idx_array(path: str, num_dimensions: int) -> np.ndarray:
    """Return an idx file's array of bytes.

    Its header is a magic number with the type and the number of dimensions, then the dimensions.
    """
    opened = gzip.open if path.endswith(".gz") else open
    with errors_as(ValueError, path, "gzip", EOFError, zlib.error), opened(path, "rb") as file:
        content = file.read()
    start = 4 + 4 * num_dimensions
    if len(content) < start or content[:4] != bytes((0, 0, 8, num_dimensions)):
        raise ValueError(f"'{path}' is not an idx file of bytes in {num_dimensions} dimensions. Download it again.")
    shape = np.frombuffer(content[4:start], ">u4").tolist()
    if len(content) != start + math.prod(shape):
        raise ValueError(
            f"'{path}' has {len(content):,} bytes, which does not match its shape {shape}. Download it again."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _idx_splits(folder: str) -> list[str]:
    return [split for split in IDX_SPLITS if _idx_file(folder, split, "images-idx3") and _idx_file(folder, split)]


def _idx_file(folder: str, split: str, what: str = "labels-idx1") -> str:
    """Return the path of a split's file, empty if there is none; some files have a dot instead of the hyphen."""
    names = [f"{IDX_SPLITS[split]}-{what}-ubyte", f"{IDX_SPLITS[split]}-{what.replace('-', '.')}-ubyte"]
    paths = [os.path.join(folder, name + ending) for name in names for ending in IDX_ENDINGS]
    return next((path for path in paths if os.path.isfile(path)), "")


def _cifar_images(folder: str, kind: CifarKind, split: str) -> ImageList:
    rows = partial(_cifar_rows, folder, kind, split)
    labels = rows()[:, kind.num_label_bytes - 1]
    names = Path(folder, kind.names)
    titles = tuple(line.strip() for line in names.read_text().splitlines() if line.strip()) if names.is_file() else ()
    read = partial(_cifar_pixels, rows, kind.num_label_bytes)
    return _array_images(folder, kind.parts[split][0], labels, titles, read)


def _cifar_rows(folder: str, kind: CifarKind, split: str) -> np.ndarray:
    """Return uint8 [N, label bytes + pixels]."""
    row_bytes, parts = kind.num_label_bytes + 3 * CIFAR_SIZE**2, []
    for name in kind.parts[split]:
        content = Path(folder, name).read_bytes()
        if not content or len(content) % row_bytes:
            raise ValueError(
                f"'{os.path.join(folder, name)}' has {len(content):,} bytes, not a multiple of {row_bytes}, an "
                "image with its labels. Download it again."
            )
        parts.append(np.frombuffer(content, np.uint8).reshape(-1, row_bytes))
    return np.concatenate(parts)


def _cifar_pixels(rows: Callable[[], np.ndarray], num_label_bytes: int) -> np.ndarray:
    return rows()[:, num_label_bytes:].reshape(-1, 3, CIFAR_SIZE, CIFAR_SIZE).transpose(0, 2, 3, 1)


def _cifar_kind(folder: str) -> CifarKind | None:
    return next((kind for kind in CIFAR if any(_all_in(folder, files) for files in kind.parts.values())), None)


def _all_in(folder: str, names: tuple[str, ...]) -> bool:
    return all(os.path.isfile(os.path.join(folder, name)) for name in names)


def _array_images(
    folder: str, file: str, labels: np.ndarray, titles: tuple[str, ...], read: Callable[[], np.ndarray]
) -> ImageList:
    names = (f"{file} image {i}" for i in range(len(labels)))
    return build_list(folder, names, list(map(str, labels)), titles=titles, opener_of=partial(open_array, read))
