"""Fraction of a network's own rate that evaluation reaches: `python -m benchmarks.evaluation CONFIG [--images N]`.

Synthetic photographs of ImageNet's size are read, decoded, cropped and classified by a network with random weights on
the cluster. The rate is compared with that of the same network, with the same number of threads, in a plain loop over
decoded images. Memory is sampled meanwhile.
"""

import os
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
import ray
from PIL import Image

from evaluation.images.layouts import open_layout
from evaluation.images.real_sets import whole_set
from evaluation.inference.network import Network, Request, infer
from evaluation.inference.output_cache import ROW
from evaluation.inference.reading import Crop, ReadRequest, crop_for, read_images
from evaluation.inference.trained_model import build_classifier, crop_of
from ray_jobs.cli.config import JobConfig, load_config
from ray_jobs.cli.console import CONSOLE
from ray_jobs.cli.errors import user_errors
from ray_jobs.cluster.connect import connect
from ray_jobs.cluster.room import check_placement, evaluation_demand
from ray_jobs.scaling.background import sampling
from training.config import TrainingConfig
from training.model.classifier import Classifier

WIDTH, HEIGHT = 500, 375
"""Size of a photograph in pixels, as of most in ImageNet."""

NUM_DIFFERENT = 64
"""Number of distinct photographs; further files are copies."""

NUM_CLASSES = 10
BARE_SECONDS = 20.0
"""Duration of the plain loop, which runs before and after the evaluation."""

MIN_FRACTION = 0.9
"""Target for the evaluation's rate, as a fraction of the plain loop's."""

WATCH_SECONDS = 2.0
"""Sampling interval of the memory."""


@click.command()
@click.argument("arguments", nargs=-1)
@click.option("--images", "num_images", default=1000)
def main(arguments: tuple[str, ...], num_images: int) -> None:
    """Measure and print; exit status 1 if the target is missed."""
    with user_errors():
        config = load_config(JobConfig, arguments)
        check_images(num_images, config)
        connect()
        check_placement([evaluation_demand(config.evaluation, config.generation.wait_for_nodes_seconds)])
    crop_size = config.evaluation.crop_size or 224
    crop = crop_for(crop_of(crop_size), config.evaluation, center_crop=True)
    build = partial(build_classifier, random_checkpoint(config.training, crop_size))
    network = Network(build, config.evaluation, [Request(("guesses",))])
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder), num_images)
        bare_rate = ray.remote(
            num_cpus=1, num_gpus=config.evaluation.gpus_per_actor, label_selector=config.evaluation.label_selector
        )(rate_of_plain_loop)
        first_bare = ray.get(bare_rate.remote(network, folder, crop))
        found = measure(network, Path(folder), crop, config)
        bare = (first_bare + ray.get(bare_rate.remote(network, folder, crop))) / 2
    fraction = found.images_per_second / bare
    print(f"{num_images:,} photographs of {WIDTH}x{HEIGHT}, crops of {crop_size}, {config.training.architecture}")
    print(f"plain loop on decoded images: {bare:.1f} images/s (before: {first_bare:.1f})")
    print(f"evaluation with reading and decoding: {found.images_per_second:.1f} images/s, ratio {fraction:.3f}")
    print(f"peak memory of all processes in each fifth of the pass, MB: {found.memory()}")
    sys.exit(fraction < MIN_FRACTION)


def check_images(num_images: int, config: JobConfig) -> None:
    """Raise ValueError for too few photographs for several units of reading."""
    least = 8 * config.evaluation.num_readers * config.evaluation.batch_size
    if num_images < least:
        raise ValueError(f"--images is {num_images}; use {least} or more, so that the first and last batch differ.")


@dataclass
class Pass:
    """The measurements of a pass over all photographs."""

    num_images: int
    """Number of images after the first block."""

    seconds: float
    """Time from the first block to the last."""

    megabytes: list[float]
    """Memory of all processes, every `WATCH_SECONDS`."""

    @property
    def images_per_second(self) -> float:
        """Images per second from the first block to the last."""
        return self.num_images / self.seconds

    def memory(self) -> list[int]:
        """Return the peak memory in each fifth of the pass, in MB."""
        return [round(max(part)) for part in np.array_split(self.megabytes, 5) if len(part)]


def write_photographs(folder: Path, num_images: int) -> None:
    """Write JPEGs of about 100 KB into one folder per class."""
    contents = [photograph(number) for number in range(min(NUM_DIFFERENT, num_images))]
    for number in range(NUM_CLASSES):
        (folder / str(number)).mkdir()
    for i in range(num_images):
        (folder / str(i % NUM_CLASSES) / f"{i:08}.JPEG").write_bytes(contents[i % len(contents)])


def photograph(seed: int) -> bytes:
    """Return a JPEG with coarse and fine structure."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (8, 10, 3), dtype=np.uint8)).resize((WIDTH, HEIGHT))
    fine = random.normal(scale=14.0, size=(HEIGHT, WIDTH, 3))
    image = Image.fromarray(np.clip(np.asarray(coarse) + fine, 0, 255).astype(np.uint8))
    with tempfile.TemporaryFile() as file:
        image.save(file, format="JPEG", quality=87)
        file.seek(0)
        return file.read()


def random_checkpoint(config: TrainingConfig, crop_size: int) -> dict[str, Any]:
    """Return a checkpoint with random weights in the format of `load_classifier`."""
    classifier = Classifier(config, NUM_CLASSES, crop_size)
    checkpoint: dict[str, Any] = {"state_dict": classifier.state_dict()}
    classifier.on_save_checkpoint(checkpoint)
    return checkpoint


def rate_of_plain_loop(network: Network, folder: str, crop: Crop) -> float:
    """Return images/s of the network on decoded images, in a process like an evaluation actor's."""
    source, batch_size = open_layout(folder), network.config.batch_size
    read = source.opener()
    images = np.stack([crop(read(position)) for position in range(min(batch_size, source.num_images))])
    compute = network.load()
    compute(0, images)
    began_at, num_images = time.monotonic(), 0
    while time.monotonic() - began_at < BARE_SECONDS:
        compute(0, images)
        num_images += len(images)
    return num_images / (time.monotonic() - began_at)


def measure(network: Network, folder: Path, crop: Crop, config: JobConfig) -> Pass:
    """Return the rate and the memory of a whole pass."""
    images = whole_set("photographs", str(folder), open_layout(str(folder)))
    every = np.arange(images.num_images)
    to_read = ReadRequest(images.source, images.positions, every, crop)
    rows, delivered_at = [], []
    memory: list[float] = []
    with ExitStack() as watched:
        for columns in infer(read_images([to_read], config.evaluation), network):
            if not columns["is_read"].all():
                raise RuntimeError(
                    "A photograph cannot be read. Run the benchmark on one machine or in a shared folder."
                )
            if not rows:
                memory = watched.enter_context(sampling(megabytes_held, WATCH_SECONDS))
            rows.append(columns[ROW])
            delivered_at.append(time.monotonic())
    if not np.array_equal(np.sort(np.concatenate(rows)), every):
        raise RuntimeError("Some photographs were evaluated twice or not at all.")
    return Pass(sum(map(len, rows[1:])), delivered_at[-1] - delivered_at[0], memory)


def megabytes_held() -> float:
    """Return the private memory of this process and its descendants plus all shared memory, in MB."""
    return (private_bytes() + psutil.disk_usage("/dev/shm").used) / 1e6


def private_bytes() -> int:
    """Return the private memory of this process and its descendants."""
    total = 0
    process = psutil.Process(os.getpid())
    for each in [process, *process.children(recursive=True)]:
        try:
            memory = each.memory_info()
        except psutil.NoSuchProcess:
            continue
        total += memory.rss - memory.shared
    return total


if __name__ == "__main__":
    CONSOLE.detach_stderr()
    main()
