"""A classifier's outputs for real sets, cached per image, and for generated images."""

import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import ray.data
from PIL import Image

from evaluation.config import EvaluationConfig
from evaluation.images.decoding import Crop, printable_name
from evaluation.images.real_sets import RealSet
from evaluation.inference.network import KINDS, Kinds, Network, Request, infer
from evaluation.inference.output_cache import ROW, Columns, OutputCache, folder_name
from evaluation.inference.reading import ReadRequest, crop_for, read_images
from evaluation.inference.trained_model import EvaluatedModel
from generation.shards.storage import StorageError

OUTPUTS_VERSION = 4
"""Bump when preprocessing or cached columns change; caches of other versions are ignored."""

NUM_NAMED = 10
"""Maximum number of unreadable images named in a message."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """A model's outputs for a set's images, read from the cache on demand."""

    cache: OutputCache
    rows: np.ndarray
    """int64 [N]: images of the set that have outputs, ascending."""

    unreadable: tuple[str, ...]
    """Names of images that cannot be decoded and are skipped."""

    def read(self, name: str) -> np.ndarray:
        """Return a column of `Kinds`, one entry for each of `rows`."""
        return self.cache.read(name)


@dataclass(frozen=True, eq=False)
class SetInference:
    """Inference on a set's images: requested outputs, remaining images, and the cache."""

    images: RealSet
    request: Request
    to_read: ReadRequest
    """The images that are not cached yet."""

    cache: OutputCache
    unreadable: list[int] = field(default_factory=list)
    """Rows of images that cannot be decoded."""

    def add(self, columns: Columns) -> None:
        """Cache the outputs of some rows; bool `is_read` is False for rows whose image could not be decoded."""
        is_read = columns.pop("is_read")
        self.unreadable.extend(columns[ROW][~is_read].tolist())
        self.cache.add({name: column[is_read] for name, column in columns.items()})


def infer_sets(
    requested: Mapping[RealSet, Kinds],
    model: EvaluatedModel,
    config: EvaluationConfig,
    folder: Path,
    log: Callable[[str], None],
) -> dict[RealSet, Outputs]:
    """Return a model's outputs for each set; those cached in `folder` are not computed again.

    Images in several sets, such as ImageNet's with original and with ReaL labels, are read once. StorageError, after
    all images are done, if more than `allow_unreadable` images of a set cannot be decoded.
    """
    groups = same_images(requested, model)
    inferences = [open_cached(group, requested, model, config, folder) for group in groups]
    for each in inferences:
        if 0 < (num_missing := len(each.to_read.rows)) < each.images.num_images:
            num_kept = each.images.num_images - num_missing
            log(f"{each.images.name}: {num_kept:,} of {each.images.num_images:,} images are already cached")
    if any(len(each.to_read.rows) for each in inferences):
        network = Network(model.build, config, [each.request for each in inferences])
        for columns in infer(read_images([each.to_read for each in inferences], config), network):
            inferences[_only_set(columns)].add(columns)
    for each in inferences:
        each.cache.flush()
    outputs = [_whole(each, config) for each in inferences]
    return {images: one for one, group in zip(outputs, groups, strict=True) for images in group}


def _only_set(columns: Columns) -> int:
    """Return the set number of a block, and remove its column."""
    numbers = set(columns.pop("set").tolist())
    if len(numbers) != 1:
        raise RuntimeError(f"A block mixes images of sets {sorted(numbers)}; expected one set per block.")
    return numbers.pop()


def same_images(sets: Mapping[RealSet, Kinds], model: EvaluatedModel) -> list[list[RealSet]]:
    """Return the sets in groups with the same images and predictions, whatever their labels."""
    groups: defaultdict[str, list[RealSet]] = defaultdict(list)
    for images in sets:
        groups[f"{image_set_key(images)} {images.center_crop} {candidate_labels(images, model)}"].append(images)
    return list(groups.values())


def image_set_key(images: RealSet) -> list[str | int]:
    """Return a key that identifies a set's images."""
    return [images.path, images.source.names_hash, zlib.crc32(images.positions.tobytes())]


def candidate_labels(images: RealSet, model: EvaluatedModel) -> list[int]:
    """Return the labels that predictions are restricted to, empty for all."""
    return images.shared_labels.tolist() if len(images.shared_labels) < model.label_space.num_classes else []


def open_cached(
    group: Sequence[RealSet],
    requested: Mapping[RealSet, Kinds],
    model: EvaluatedModel,
    config: EvaluationConfig,
    folder: Path,
) -> SetInference:
    """Open the cache for a group of sets with the same images, keyed by everything that determines the outputs."""
    images = group[0]
    kinds: Kinds = tuple(kind for kind in KINDS if any(kind in requested[each] for each in group))
    among = candidate_labels(images, model) if "guesses" in kinds else []
    crop = crop_for(model.crop, config, images.center_crop)
    key = {
        "version": OUTPUTS_VERSION,
        "checkpoint_sha256": model.sha256,
        "images": image_set_key(images),
        "crop": [crop.resize_size, crop.crop_size, crop.interpolation, crop.is_upright],
        "kinds": kinds,
        "among": among,
    }
    name = "-".join([Path(images.path).name or images.name, *kinds])
    cache = OutputCache(folder / folder_name(name, key), images.num_images)
    cache.open(key)
    rows = cache.missing()
    to_read = ReadRequest(images.source, images.positions[rows], rows, crop)
    return SetInference(images, Request(kinds, among), to_read, cache)


def _whole(inference: SetInference, config: EvaluationConfig) -> Outputs:
    """Return the outputs after inference; StorageError if too many images are unreadable."""
    images, rows = inference.images, inference.cache.rows()
    all_names = images.source.names() if inference.unreadable else []
    names = [
        printable_name(all_names[position]) for position in images.positions[sorted(inference.unreadable)].tolist()
    ]
    if len(names) > config.allow_unreadable:
        more = f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
        raise StorageError(
            f"{len(names)} of the {images.num_images:,} images of '{images.name}' cannot be decoded: "
            f"{', '.join(names[:NUM_NAMED])}{more}. Replace them, or skip them with "
            f"evaluation.allow_unreadable={len(names)}. The outputs for the other images are cached."
        )
    if len(rows) + len(names) != images.num_images:
        raise RuntimeError(
            f"Of {images.num_images} images, {len(rows)} have outputs and {len(names)} are unreadable; the others were "
            "lost."
        )
    if not len(rows):
        raise StorageError(f"None of the {images.num_images:,} images of '{images.name}' can be decoded.")
    return Outputs(inference.cache, rows, tuple(names))


def infer_generated(samples: ray.data.Dataset, model: EvaluatedModel, config: EvaluationConfig) -> Columns:
    """Return predictions, features and labels for rows `image` and `label`, uncached and in no fixed order."""
    crop = crop_for(model.crop, config, center_crop=False)
    shown = samples.map_batches(cast(Any, partial(network_input, crop)), batch_size=config.batch_size, num_cpus=0)
    parts = list(infer(shown, Network(model.build, config, [Request(KINDS)])))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def network_input(crop: Crop, samples: Columns) -> Columns:
    """Return generated samples as the input of `NetworkActor`."""
    images = np.stack([crop(Image.fromarray(image)) for image in samples["image"]])
    return {"set": np.zeros(len(images), dtype=np.int64), "label": samples["label"], "image": images}
