"""How much of a network's own rate evaluation reaches: `python -m benchmarks.evaluation CONFIG [--images N]`.

Photographs of ImageNet's size are made for the purpose, read, decoded, cropped and classified by a network with random
weights, on the cluster; its rate from its first images to its last is compared with that of the same network, with
as many threads, in a plain loop over decoded images. Memory is watched meanwhile.
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
from ray_jobs.cli.errors import user_errors
from ray_jobs.cli.options import split_options
from ray_jobs.cluster.connect import connect
from ray_jobs.cluster.room import check_placement, evaluation_demand
from ray_jobs.scaling.background import readings
from training.config import TrainingConfig
from training.model.classifier import Classifier

WIDTH, HEIGHT = 500, 375
"""Of a photograph, in pixels, as most of ImageNet's are."""

NUM_DIFFERENT = 64
"""Photographs that are made; files beyond are copies."""

NUM_CLASSES = 10
BARE_SECONDS = 20.0
"""How long the plain loop runs, before and after."""

MIN_FRACTION = 0.9
"""Target."""

WATCH_SECONDS = 2.0


def main() -> None:
    """Measure and print; exit status 1 where the target is missed."""
    with user_errors():
        options, arguments = split_options(sys.argv[1:], ("images",))
        config = load_config(JobConfig, arguments)
        num_images = parse_images(options.get("images", "1000"), config)
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
    print(f"evaluation, files read and decoded: {found.images_per_second:.1f} images/s, {fraction:.3f} of it")
    print(f"memory of all processes, MB, by fifths of the time, highest: {found.memory()}")
    sys.exit(fraction < MIN_FRACTION)


def parse_images(text: str, config: JobConfig) -> int:
    """Return how many photographs are made; ValueError unless they fill several units of reading."""
    least = 8 * config.evaluation.num_readers * config.evaluation.batch_size
    if not text.isdecimal() or int(text) < least:
        raise ValueError(f"--images is '{text}'. Give {least} or more, so that there is a first and a last batch.")
    return int(text)


@dataclass
class Pass:
    """A pass over all photographs."""

    num_images: int
    """Those after the first block."""

    seconds: float
    """From the first block to the last."""

    megabytes: list[float]
    """Memory of all processes, every `WATCH_SECONDS`."""

    @property
    def images_per_second(self) -> float:
        """Images between the first ones that came and the last."""
        return self.num_images / self.seconds

    def memory(self) -> list[int]:
        """Return the highest number of MB in each fifth of the pass."""
        return [round(max(part)) for part in np.array_split(self.megabytes, 5) if len(part)]


def write_photographs(folder: Path, num_images: int) -> None:
    """Write JPEGs of about 100 KB in folders of classes."""
    contents = [photograph(number) for number in range(min(NUM_DIFFERENT, num_images))]
    for number in range(NUM_CLASSES):
        (folder / str(number)).mkdir()
    for i in range(num_images):
        (folder / str(i % NUM_CLASSES) / f"{i:08}.JPEG").write_bytes(contents[i % len(contents)])


def photograph(seed: int) -> bytes:
    """Return a JPEG of coarse and fine structure."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (8, 10, 3), dtype=np.uint8)).resize((WIDTH, HEIGHT))
    fine = random.normal(scale=14.0, size=(HEIGHT, WIDTH, 3))
    image = Image.fromarray(np.clip(np.asarray(coarse) + fine, 0, 255).astype(np.uint8))
    with tempfile.TemporaryFile() as file:
        image.save(file, format="JPEG", quality=87)
        file.seek(0)
        return file.read()


def random_checkpoint(config: TrainingConfig, crop_size: int) -> dict[str, Any]:
    """Return what `load_classifier` reads, with weights that nobody trained."""
    classifier = Classifier(config, NUM_CLASSES, crop_size)
    checkpoint: dict[str, Any] = {"state_dict": classifier.state_dict()}
    classifier.on_save_checkpoint(checkpoint)
    return checkpoint


def rate_of_plain_loop(network: Network, folder: str, crop: Crop) -> float:
    """Return images/s of the network, in a process like an evaluation actor's, on images that are decoded already."""
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
    """Return the rate of a whole pass, and memory meanwhile."""
    images = whole_set("photographs", str(folder), open_layout(str(folder)))
    every = np.arange(images.num_images)
    to_read = ReadRequest(images.source, images.positions, every, crop)
    rows, came_at = [], []
    memory: list[float] = []
    with ExitStack() as watched:
        for columns in infer(read_images([to_read], config.evaluation), network):
            if not columns["is_read"].all():
                raise RuntimeError("A photograph cannot be read: the benchmark needs one machine, or a shared folder.")
            if not rows:
                memory = watched.enter_context(readings(megabytes_held, WATCH_SECONDS))
            rows.append(columns[ROW])
            came_at.append(time.monotonic())
    if not np.array_equal(np.sort(np.concatenate(rows)), every):
        raise RuntimeError("Not every photograph came once.")
    return Pass(sum(map(len, rows[1:])), came_at[-1] - came_at[0], memory)


def megabytes_held() -> float:
    """Return the memory of this process and all that it started, and what is in shared memory."""
    return (private_bytes() + psutil.disk_usage("/dev/shm").used) / 1e6


def private_bytes() -> int:
    """Return the memory that this process and those it started have to themselves."""
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
    main()
