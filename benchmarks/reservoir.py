"""Accuracy cost of drawing batches from a reservoir: `python -m benchmarks.reservoir [SEED ...]`.

Training's own loader draws the batches while new images arrive at a tenth of the rate at which steps would use each
once, as with slow generators; a classifier trains on these batches. For comparison another one trains on the same
images in as many steps, shuffled in each pass. Images are Fashion-MNIST's (Debian's dataset-fashion-mnist) in 40
classes: ten garments in four rotations. Validation uses other training images; the test images are not used.
"""

import dataclasses
import gzip
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import scipy.stats
import torch

from generation.indices import IndexSet
from generation.sample import PassBatch
from ray_jobs.cli.errors import user_errors
from ray_jobs.job.tables import print_table
from training.config import TrainingConfig
from training.data.consumption import Share
from training.data.loader import Pace, StreamLoader
from training.data.reservoir import Reservoir, Uses, build_store, min_images
from training.data.variety import Variety
from training.model.classifier import Classifier

FASHION = Path("/usr/share/datasets/fashion-mnist")
NUM_GARMENTS, NUM_TURNS = 10, 4
NUM_CLASSES = NUM_GARMENTS * NUM_TURNS
SIZE = 32

NUM_IMAGES, REUSE, BATCH_SIZE = 1280, 8, 16
NUM_STEPS = NUM_IMAGES * REUSE // BATCH_SIZE
STEP_SECONDS = 0.01
SUPPLY_FRACTION = 0.1
"""Rate of new images over the rate at which steps would use each image once."""

IMAGES_AT_ONCE = 8
NUM_VALIDATION_PER_CLASS = 50
SEEDS = (0, 1, 2, 3, 4)

CONFIG = TrainingConfig(
    architecture="timm/test_resnet",
    num_images=NUM_IMAGES * REUSE,
    num_epochs=1,
    global_batch_size=BATCH_SIZE,
    base_learning_rate=0.4,
    augmentation="affine",
    gpus_per_worker=0,
    num_held_out=4,
)
ARMS: dict[str, dict[str, Any]] = {
    "reuse 8": {"reuse": REUSE},
    "reuse 8, drawn as soon as it can be": {"reuse": REUSE, "reservoir_min_images": 1},
    "auto": {"reuse": "auto"},
    "auto, drawn as soon as it can be": {"reuse": "auto", "reservoir_min_images": 1},
}

Steps = list[tuple[np.ndarray, np.ndarray]]
"""The images of each batch by serial, int64 [B], and the number of earlier uses of each, int64 [B]."""


@dataclass(frozen=True)
class Drawn:
    """The batches drawn by a loader."""

    steps: Steps
    waiting_fraction: float
    variety: Variety

    @property
    def num_images(self) -> int:
        """Number of distinct images."""
        return len(np.unique(np.concatenate([serials for serials, _ in self.steps])))


class SlowStream:
    """A fake stream that yields images at a steady rate."""

    def __init__(self, labels: np.ndarray) -> None:
        self.labels = labels

    def iter_batches(self, **_: object) -> Iterator[PassBatch]:
        """Yield batches of `IMAGES_AT_ONCE` images."""
        seconds = IMAGES_AT_ONCE * STEP_SECONDS / (SUPPLY_FRACTION * BATCH_SIZE)
        due_at = time.monotonic()
        for start in range(0, len(self.labels), IMAGES_AT_ONCE):
            due_at += seconds
            time.sleep(max(0.0, due_at - time.monotonic()))
            serials = np.arange(start, min(start + IMAGES_AT_ONCE, len(self.labels)))
            images = np.zeros((len(serials), 1, 1, 3), np.uint8)
            yield cast(PassBatch, {"serial": serials, "label": self.labels[serials], "image": images})


def main() -> None:
    """Measure all arms for each seed and print a table."""
    with user_errors():
        seeds = [int(argument) for argument in sys.argv[1:]] or SEEDS
        images, labels, validation = read_images()
    torch.set_num_threads(1)
    results = {name: [measure(seed, arm, images, labels, validation) for seed in seeds] for name, arm in ARMS.items()}
    title = f"top-1 of {len(validation[1]):,} images, in percent, {len(seeds)} seeds; intervals of 95%"
    columns = ("", "images", "waited", "overlap", "classes in 8", "drawn", "shuffled", "difference")
    print_table(title, columns, [[name, *cells(runs)] for name, runs in results.items()])


@dataclass(frozen=True)
class Run:
    """Accuracies of a classifier trained on a loader's batches, and of one trained on the same images shuffled."""

    drawn: Drawn
    top1_drawn: float
    top1_shuffled: float


def measure(seed: int, arm: dict[str, Any], images: np.ndarray, labels: np.ndarray, validation: Any) -> Run:
    """Train both classifiers; return the batches and both accuracies, 0..1."""
    config = dataclasses.replace(CONFIG, seed=seed, **arm)
    drawn = draw(config, labels)
    reference = shuffled(seed, np.unique(np.concatenate([serials for serials, _ in drawn.steps])))
    return Run(drawn, *(accuracy(config, steps, images, labels, validation) for steps in (drawn.steps, reference)))


def draw(config: TrainingConfig, labels: np.ndarray) -> Drawn:
    """Return the batches of a run with a slow supply of images."""
    labels = labels[: config.num_samples]
    share = Share(IndexSet.of_ranges([range(len(labels))]), np.zeros(0, np.int64), np.zeros(0, np.int32))
    uses, fill = Uses(config.least_uses, config.most_uses), min_images(config, 1, NUM_CLASSES, len(labels))
    reservoir = Reservoir(build_store(config, uses, BATCH_SIZE, 1, NUM_CLASSES), uses, (config.seed, 0, 0), fill)
    loader = StreamLoader(
        cast(Any, SlowStream(labels)), share, reservoir, Pace(BATCH_SIZE, config.max_waiting_fraction)
    )
    steps: Steps = []
    for _ in range(config.num_steps):
        batch = next(loader)
        steps.append((batch["serial"].numpy(), batch["use"].numpy()))
        time.sleep(STEP_SECONDS)
    seconds = time.time() - cast(float, loader.first_batch_at)
    loader.close()
    return Drawn(steps, loader.waiting_seconds / seconds, loader.variety)


def shuffled(seed: int, serials: np.ndarray) -> Steps:
    """Return the same number of batches from shuffled passes over the same images."""
    random = np.random.default_rng(seed)
    num_passes = -(-NUM_STEPS * BATCH_SIZE // len(serials))
    order = np.concatenate([random.permutation(serials) for _ in range(num_passes)])
    uses = np.repeat(np.arange(num_passes), len(serials))
    starts = range(0, NUM_STEPS * BATCH_SIZE, BATCH_SIZE)
    return [(order[start : start + BATCH_SIZE], uses[start : start + BATCH_SIZE]) for start in starts]


def accuracy(config: TrainingConfig, steps: Steps, images: np.ndarray, labels: np.ndarray, validation: Any) -> float:
    """Return the top-1 validation accuracy, 0..1, of a classifier trained on these batches."""
    torch.manual_seed(config.seed)
    classifier = Classifier(config, NUM_CLASSES, SIZE).train()
    optimisation = cast(Any, classifier.configure_optimizers())
    optimiser, schedule = optimisation["optimizer"], optimisation["lr_scheduler"]["scheduler"]
    for serials, uses in steps:
        batch = {"image": images[serials], "label": labels[serials], "serial": serials, "use": uses}
        batch |= {"is_real": np.zeros(len(serials), np.bool_), "extent": np.full((len(serials), 2), SIZE)}
        tensors = {name: torch.from_numpy(column) for name, column in batch.items()}
        optimiser.zero_grad()
        classifier.training_step(tensors, 0).backward()
        optimiser.step()
        schedule.step()
    classifier.eval()
    with torch.inference_mode():
        predicted = [classifier(torch.from_numpy(part)).argmax(1).numpy() for part in np.array_split(validation[0], 8)]
    return float((np.concatenate(predicted) == validation[1]).mean())


def read_images() -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return training images, uint8 [N, 32, 32, 3], their labels, int64 [N], and both for validation."""
    if not FASHION.is_dir():
        raise ValueError(f"The folder '{FASHION}' does not exist. Install Debian's package dataset-fashion-mnist.")
    with (
        gzip.open(FASHION / "train-images-idx3-ubyte.gz") as images,
        gzip.open(FASHION / "train-labels-idx1-ubyte.gz") as labels,
    ):
        pixels = np.frombuffer(images.read(), np.uint8, offset=16)
        garments = np.frombuffer(labels.read(), np.uint8, offset=8)
    random = np.random.default_rng(0)
    positions = [random.permutation(np.flatnonzero(garments == garment)) for garment in range(NUM_GARMENTS)]
    num_of_class = NUM_IMAGES * REUSE // NUM_CLASSES
    order = [random.permutation(NUM_CLASSES) for _ in range(num_of_class + NUM_VALIDATION_PER_CLASS)]
    images, labels = turned(pixels.reshape(-1, 28, 28), positions, order)
    num_trained = num_of_class * NUM_CLASSES
    return images[:num_trained], labels[:num_trained], (images[num_trained:], labels[num_trained:])


def turned(pixels: np.ndarray, positions: Sequence[np.ndarray], order: Sequence[np.ndarray]) -> tuple[np.ndarray, Any]:
    """Return images in the classes of `order`, rotated accordingly, and their labels; no photograph is used twice."""
    labels = np.concatenate(order).astype(np.int64)
    images = np.zeros((len(labels), SIZE, SIZE, 3), np.uint8)
    for i, label in enumerate(labels.tolist()):
        garment, turn = divmod(label, NUM_TURNS)
        image = pixels[positions[garment][i // NUM_CLASSES * NUM_TURNS + turn]]
        images[i, 2:-2, 2:-2] = np.rot90(image, turn)[..., None]
    return images, labels


def cells(runs: Sequence[Run]) -> list[str]:
    """Return an arm's table row."""
    drawn, reference = (
        np.array([getattr(run, name) for run in runs]) * 100 for name in ("top1_drawn", "top1_shuffled")
    )
    differences = drawn - reference
    half = scipy.stats.t.ppf(0.975, len(runs) - 1) * scipy.stats.sem(differences) if len(runs) > 1 else float("nan")
    return [
        f"{np.mean([run.drawn.num_images for run in runs]):,.0f}",
        f"{np.mean([run.drawn.waiting_fraction for run in runs]):.1%}",
        f"{np.mean([run.drawn.variety.mean_overlap for run in runs]):.1%}",
        f"{np.mean([run.drawn.variety.num_classes for run in runs]):.0f}",
        f"{drawn.mean():.1f}",
        f"{reference.mean():.1f}",
        f"{differences.mean():+.2f} ± {half:.2f}",
    ]


if __name__ == "__main__":
    main()
