"""What a classifier says of each image of a real set, by readers and actors on any nodes of a Ray cluster."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import ray
import ray.data
import torch
from PIL import Image
from ray.data import ActorPoolStrategy

from evaluation.config import EvaluationConfig
from evaluation.decoding import UnreadableImageError, centre_crop
from evaluation.kept_outputs import ROW, Columns, KeptOutputs, folder_of
from evaluation.model import EvaluationError, Model
from evaluation.real_files import ImageSource
from evaluation.real_sets import RealSet
from generation.shards import PART_BYTES, PARTS_PER_READER, each_by
from generation.storage import StorageError
from generation.stream import bound_memory

MAX_IMAGES_PER_UNIT = 512
"""Images that are read at once and travel in one block."""

UNITS_PER_READER = 4
"""A small set is cut into more units than there are readers, so that all have work."""

OUTPUTS_VERSION = 1
"""Of what is shown to networks, and what is kept of their answers: with another, nothing that is kept is used."""

NUM_NAMED = 10
"""Unreadable images that a message names."""

Kinds = tuple[Literal["guesses", "features"], ...]
"""`guesses`: `prediction` int32 [N, up to 5], the best first, and `confidence` float32 [N] of the first; `features`:
`feature` float32 [N, D], what the last layer is given.
"""


@dataclass(frozen=True)
class Crop:
    """What of an image is shown to the network."""

    resize_size: int
    """What the shorter side is made, in pixels."""

    crop_size: int
    interpolation: str

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Return uint8 [crop_size, crop_size, 3]."""
        return centre_crop(image, self.resize_size, self.crop_size, Image.Resampling[self.interpolation.upper()])


@dataclass(frozen=True, eq=False)
class Outputs:
    """What was said of a set's images, read when it is asked for."""

    kept: KeptOutputs
    rows: np.ndarray
    """int64 [N]: which images of the set it is about, ascending."""

    unreadable: tuple[str, ...]
    """Names of images that are left out."""

    def read(self, name: str) -> np.ndarray:
        """Return a column of `Kinds`, a row for each of `rows`."""
        return self.kept.read(name)


@dataclass(frozen=True, eq=False)
class Asked:
    """What is asked about a set."""

    images: RealSet
    crop: Crop
    kept: KeptOutputs
    missing: np.ndarray
    """int64: rows that are not kept yet."""

    unreadable: list[int] = field(default_factory=list)
    """Rows of images that cannot be decoded."""

    def add(self, columns: Columns) -> None:
        """Keep what was said of some rows, for which bool `is_read` says whether they have an image."""
        is_read = columns.pop("is_read")
        self.unreadable.extend(columns[ROW][~is_read].tolist())
        self.kept.add({name: column[is_read] for name, column in columns.items()})


def outputs_of(
    sets: Sequence[RealSet],
    model: Model,
    kinds: Kinds,
    config: EvaluationConfig,
    folder: Path,
    say: Callable[[str], None],
) -> list[Outputs]:
    """Return what a model says of each set, of which what is kept in `folder` is not asked again.

    StorageError, when all images are through, if more of a set than `allow_unreadable` cannot be decoded.
    """
    network = Network(model.checkpoint, config, kinds, [compared(images, model, kinds) for images in sets])
    asked = [
        open_kept(images, model, config, folder, {"kinds": kinds, "classes": classes})
        for images, classes in zip(sets, network.classes, strict=True)
    ]
    for each in asked:
        if 0 < len(each.missing) < each.images.num_images:
            num_kept = each.images.num_images - len(each.missing)
            say(f"{each.images.name}: {num_kept:,} of {each.images.num_images:,} images are kept already")
    if any(len(each.missing) for each in asked):
        for number, columns in ask_network(asked, network, config):
            asked[number].add(columns)
    for each in asked:
        each.kept.flush()
    return [_whole(each, config) for each in asked]


def compared(images: RealSet, model: Model, kinds: Kinds) -> list[int]:
    """Return the labels that guesses are among, empty for all."""
    return images.shared.tolist() if "guesses" in kinds and len(images.shared) < model.num_classes else []


def open_kept(images: RealSet, model: Model, config: EvaluationConfig, folder: Path, asked: dict[str, Any]) -> Asked:
    """Return what is kept of a set's outputs, by all that decides them."""
    crop = crop_for(model.crop_size, config, images.has_border)
    key = {
        "version": OUTPUTS_VERSION,
        "checkpoint_sha256": model.sha256,
        "set": images.name,
        "place": images.place,
        "names_hash": images.source.names_hash,
        "positions_hash": zlib.crc32(images.positions.tobytes()),
        "crop": [crop.resize_size, crop.crop_size, crop.interpolation],
        **asked,
    }
    kept = KeptOutputs(folder_of(folder, "-".join([images.name, *asked["kinds"]]), key), images.num_images)
    kept.open(key)
    return Asked(images, crop, kept, kept.missing())


def _whole(asked: Asked, config: EvaluationConfig) -> Outputs:
    """Return all that came; StorageError where too many images are unreadable."""
    images, rows = asked.images, asked.kept.rows()
    all_names = images.source.names() if asked.unreadable else []
    names = [all_names[position] for position in images.positions[sorted(asked.unreadable)].tolist()]
    if len(names) > config.allow_unreadable:
        more = f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
        raise StorageError(
            f"{len(names)} of the {images.num_images:,} images of '{images.name}' cannot be decoded: "
            f"{', '.join(names[:NUM_NAMED])}{more}. Put whole ones in their place, or leave them out: "
            f"evaluation.allow_unreadable={len(names)}. What was worked out for the others is kept."
        )
    if len(rows) + len(names) != images.num_images:
        raise RuntimeError(f"{len(rows)} and {len(names)} of {images.num_images} images came: some were lost.")
    if not len(rows):
        raise StorageError(f"None of the {images.num_images:,} images of '{images.name}' can be decoded.")
    return Outputs(asked.kept, rows, tuple(names))


def crop_for(trained_size: int, config: EvaluationConfig, has_border: bool) -> Crop:
    """Return what is shown of an image to a network that was trained on crops of a size.

    By default the centre 224/256 of it, at that size; without a border the largest square, bicubic.
    """
    crop_size = config.crop_size or trained_size
    resize_size = config.resize_size or round(crop_size * 256 / 224)
    if resize_size < crop_size:
        raise ValueError(
            f"evaluation.resize_size is {resize_size}, and the classifier was trained on crops of {crop_size}. Give as "
            "much, or more."
        )
    return Crop(resize_size if has_border else crop_size, crop_size, config.interpolation if has_border else "bicubic")


def ask_network(asked: Sequence[Asked], network: "Network", config: EvaluationConfig) -> Iterator[tuple[int, Columns]]:
    """Yield what a network says of the rows that are missing, in no certain order, with the number of their set."""
    image_bytes = max(each.crop.crop_size for each in asked) ** 2 * 3
    sizes = [_unit_size(len(each.missing), image_bytes, config) for each in asked]
    units = [
        {"set": number, "start": start, "stop": min(start + size, len(each.missing))}
        for number, (each, size) in enumerate(zip(asked, sizes, strict=True))
        for start in range(0, len(each.missing), size)
    ]
    readings = ray.put([Reading(each.images.source, each.images.positions, each.missing, each.crop) for each in asked])
    dataset = each_by(ImageReader, [[readings]], units, config.num_readers, len(units))
    unit_bytes = max(sizes) * image_bytes
    bound_memory(dataset, unit_bytes, (config.num_readers + config.num_actors) * PARTS_PER_READER * unit_bytes)
    for columns in said_of(dataset, network, config):
        numbers = set(columns.pop("set").tolist())
        if len(numbers) != 1:
            raise RuntimeError(f"A block has images of sets {sorted(numbers)}; each has its own.")
        yield numbers.pop(), columns


def said_of(units: ray.data.Dataset, network: "Network", config: EvaluationConfig) -> Iterator[Columns]:
    """Yield what a network says of blocks of `set` and `image`, with their other columns, in no certain order."""
    said = units.map_batches(
        NetworkActor,
        fn_constructor_args=[[ray.put(network)]],
        batch_size=None,
        compute=ActorPoolStrategy(size=config.num_actors),
        num_gpus=config.gpus_per_actor,
        label_selector=config.label_selector,
        zero_copy_batch=True,
    )
    for batch in said.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1):
        yield cast(Columns, batch)


def outputs_of_generated(samples: ray.data.Dataset, model: Model, config: EvaluationConfig) -> Columns:
    """Return guesses and features for rows `image` and `label`, and these labels; in no certain order, none kept."""
    crop = crop_for(model.crop_size, config, has_border=False)
    network = Network(model.checkpoint, config, ("guesses", "features"), [[]])
    shown = samples.map_batches(cast(Any, Shown(crop)), batch_size=config.batch_size, num_cpus=0)
    parts = list(said_of(shown, network, config))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True)
class Shown:
    """Makes of generated samples what `NetworkActor` is given."""

    crop: Crop

    def __call__(self, samples: Columns) -> Columns:
        """Return their images as shown, with their labels."""
        images = np.stack([self.crop(Image.fromarray(image)) for image in samples["image"]])
        return {"set": np.zeros(len(images), dtype=np.int64), "label": samples["label"], "image": images}


def _unit_size(num_images: int, image_bytes: int, config: EvaluationConfig) -> int:
    """Return how many images are read at once: whole batches, of 16 MB where a set is large enough."""
    most = min(MAX_IMAGES_PER_UNIT, PART_BYTES // image_bytes, num_images // (UNITS_PER_READER * config.num_readers))
    return max(1, most // config.batch_size) * config.batch_size


@dataclass(frozen=True, eq=False)
class Reading:
    """What is read of a set."""

    source: ImageSource
    positions: np.ndarray
    """int64 [number of the set's images]: where in the source they are."""

    rows: np.ndarray
    """int64: which of them are read."""

    crop: Crop


class ImageReader:
    """Reads and decodes units of sets."""

    def __init__(self, readings: list[ray.ObjectRef]) -> None:
        """Take what is read of each set."""
        self.readings: list[Reading] = ray.get(readings[0])
        self.opener_of = lru_cache(maxsize=2)(lambda number: self.readings[number].source.opener())

    def __call__(self, unit: dict[str, np.ndarray]) -> Iterator[Columns]:
        """Yield one unit's images, black where one cannot be decoded.

        A generator, since Ray Data hides what another function raises behind an exception of its own.
        """
        number, start, stop = (int(unit[name][0]) for name in ("set", "start", "stop"))
        reading, read = self.readings[number], self.opener_of(number)
        rows, size = reading.rows[start:stop], reading.crop.crop_size
        images = np.zeros((len(rows), size, size, 3), dtype=np.uint8)
        is_read = np.ones(len(rows), dtype=bool)
        for i, position in enumerate(reading.positions[rows].tolist()):
            try:
                images[i] = reading.crop(read(position))
            except UnreadableImageError:
                is_read[i] = False
        yield {"set": np.full(len(rows), number), ROW: rows, "image": images, "is_read": is_read}


@dataclass(frozen=True)
class Network:
    """A classifier, and what it is asked."""

    checkpoint: dict[str, Any]
    config: EvaluationConfig
    kinds: Kinds
    classes: Sequence[list[int]]
    """For each set the labels that guesses are among; empty for all."""

    def load(self) -> Callable[[int, np.ndarray], Columns]:
        """Return what answers for the number of a set and a batch of its images, uint8 [N, H, W, 3].

        Lightning is imported here alone, since the driver does without it.
        """
        from training.classifier import load_classifier

        torch.set_num_threads(self.config.threads_per_actor)
        device = "cuda" if self.config.gpus_per_actor else "cpu"
        classifier = load_classifier(self.checkpoint).to(device)

        @torch.inference_mode()
        def answer(number: int, images: np.ndarray) -> Columns:
            pixels = torch.tensor(images).to(device)
            if "features" not in self.kinds:
                return best_guesses(finite(classifier(pixels)), self.classes[number])
            features, logits = (finite(said) for said in classifier.features_and_logits(pixels))
            guesses = best_guesses(logits, self.classes[number]) if "guesses" in self.kinds else {}
            return guesses | {"feature": features.cpu().numpy()}

        return answer


def finite(said: torch.Tensor) -> torch.Tensor:
    """Return it in single precision; EvaluationError if a value is NaN or infinite."""
    if not said.isfinite().all():
        raise EvaluationError("The network's output has NaN or infinite values; this checkpoint cannot be evaluated.")
    return said.float()


def best_guesses(logits: torch.Tensor, shared: Sequence[int]) -> Columns:
    """Return the guesses among `shared` labels, or all, for logits [N, num_classes]; see `Kinds`."""
    among = (
        torch.tensor(shared, device=logits.device) if shared else torch.arange(logits.shape[1], device=logits.device)
    )
    probabilities = logits[:, among].softmax(dim=1)
    best = probabilities.topk(min(5, len(among)), dim=1)
    return {
        "prediction": among[best.indices].cpu().numpy().astype(np.int32),
        "confidence": best.values[:, 0].cpu().numpy(),
    }


class NetworkActor:
    """A network on its device."""

    def __init__(self, network: list[ray.ObjectRef]) -> None:
        """Load it."""
        asked: Network = ray.get(network[0])
        self.batch_size = asked.config.batch_size
        self.answer = asked.load()

    def __call__(self, unit: Columns) -> Iterator[Columns]:
        """Yield what is said of a unit, a batch at a time on the device."""
        images, number = unit.pop("image"), int(unit["set"][0])
        starts = range(0, len(images), self.batch_size)
        parts = [self.answer(number, images[start : start + self.batch_size]) for start in starts]
        yield unit | {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
