"""Cost of writing and reading shards: `python -m benchmarks.shards ray_jobs/configs/benchmark.yaml`.

Painted generators have a known rate. Measures the fraction of it written as shards, and the rate of training with the
tee (images are also written to shards) against the plain stream. Then compares Figment's reader with webdataset's.
"""

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks.delivery import deliver, deliver_stream, nominal_rate, start_painters
from benchmarks.floors import below_floor, floors_of
from generation.config import GenerationConfig
from generation.indices import SampleRequest
from generation.pool.service import GenerationService
from generation.recipes.recipe import Recipe
from generation.shards.datasets import read_shards, tee_samples, write_shards
from generation.shards.shard_set import ShardSet, new_shard_set
from generation.shards.storage import Storage
from ray_jobs.cli.config import JobConfig
from ray_jobs.cli.console import CONSOLE
from ray_jobs.cli.errors import user_errors
from ray_jobs.job.tables import print_table

NUM_ROUNDS = 3
READING_BATCH_SIZE = 64

Rates = dict[str, tuple[float, float]]
"""A rate and its reference, both in images per second, by name."""


def main() -> None:
    """Run the command: measure all rates and print a table; exit status 1 if a ratio is below its floor."""
    with user_errors():
        floors = floors_of("shards")
    rates = measure(sys.argv[1:])
    print_rates(rates, floors)
    if missed := below_floor(ratios_of(rates), floors):
        sys.exit(f"Ratios below their floors: {', '.join(missed)}.")


def ratios(arguments: Sequence[str]) -> dict[str, float]:
    """Measure all rates; return each as a fraction of its reference."""
    return ratios_of(measure(arguments))


def ratios_of(rates: Rates) -> dict[str, float]:
    """Return each rate as a fraction of its reference."""
    return {name: rate / other for name, (rate, other) in rates.items()}


def measure(arguments: Sequence[str]) -> Rates:
    """Write, stream with and without the tee, and read in both ways."""
    with user_errors():
        config, recipe, service = start_painters(arguments)
    with tempfile.TemporaryDirectory() as folder:
        with service:
            nominal = nominal_rate(config.generation)
            written = new_set(Path(folder) / "written", config, recipe)
            writing = writing_rate(service, config.generation, written)
            streaming, keeping = delivered_rates(service, config, recipe, Path(folder))
        ours, theirs = reading_rates(written, config)
    return {
        "written": (writing, nominal),
        "with the tee, over the stream": (keeping, streaming),
        "read, over webdataset": (ours, theirs),
    }


def new_set(folder: Path, config: JobConfig, recipe: Recipe) -> ShardSet:
    """Return an empty shard set for all images."""
    indices = range(config.training.num_trained)
    return new_shard_set(Storage(str(folder)), recipe, indices, config.generation.batch_size, config.data)


def writing_rate(service: GenerationService, generation: GenerationConfig, shards: ShardSet) -> float:
    """Return images per second, from the start of the first batch to the storage of the last shard."""
    made_before = service.counts().num_images_made
    began = threading.Event()
    began_at: list[float] = []

    def watch() -> None:
        while service.counts().num_images_made == made_before and not began.is_set():
            time.sleep(0.01)
        began_at.append(time.monotonic() - generation.painted_batch_seconds)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    write_shards(service, generation, shards, shards.missing()).take_all()
    ended_at = time.monotonic()
    began.set()
    watcher.join()
    return shards.num_images / (ended_at - began_at[0])


def delivered_rates(service: GenerationService, config: JobConfig, recipe: Recipe, folder: Path) -> tuple[float, float]:
    """Return the steady rates at which samples reach a training worker, without and with the tee."""
    indices = range(config.training.num_trained)
    streamed = deliver_stream(service, recipe, config)
    teed = new_set(folder / "teed", config, recipe)
    kept = deliver(
        tee_samples(service, config.generation, teed, len(indices), SampleRequest.all_of(indices)), config.training
    )
    if kept.num_distinct != len(indices) or teed.missing():
        sys.exit("The tee lost samples or shards.")
    return streamed.steady_rate, kept.steady_rate


def reading_rates(shards: ShardSet, config: JobConfig) -> tuple[float, float]:
    """Return the median images per second of Figment's reader and of webdataset's, measured alternately."""
    rates = [
        (rate_of(lambda: by_figment(shards, config)), rate_of(lambda: by_webdataset(shards, config)))
        for _ in range(NUM_ROUNDS)
    ]
    ours, theirs = np.median(rates, axis=0)
    return float(ours), float(theirs)


def rate_of(read: Callable[[], Iterator[Any]]) -> float:
    """Return images per second after the first batch, when all processes are running."""
    batches = iter(read())
    next(batches)
    began_at, num_images = time.monotonic(), 0
    for labels in batches:
        num_images += len(labels)
    return num_images / (time.monotonic() - began_at)


def by_figment(shards: ShardSet, config: JobConfig) -> Iterator[Any]:
    """Yield the labels of each batch from Figment's reader, as training would."""
    images = read_shards(shards, 0, config.data.num_readers, SampleRequest.all_of(range(shards.num_images)))
    for batch in images.iter_batches(batch_size=READING_BATCH_SIZE):
        yield cast(np.ndarray, batch["label"])


def by_webdataset(shards: ShardSet, config: JobConfig) -> Iterator[Any]:
    """Yield the labels of each batch from webdataset, with as many processes, as its documentation shows."""
    import webdataset
    from torch.utils.data import DataLoader

    urls = sorted(str(path) for path in Path(shards.storage.url).glob("*.tar"))
    reader: Any = vars(webdataset)["WebDataset"]
    dataset = reader(urls, shardshuffle=len(urls), seed=0).decode("rgb8").to_tuple(shards.image_format, "cls")
    loader = DataLoader(dataset.batched(READING_BATCH_SIZE), batch_size=None, num_workers=config.data.num_readers)
    for _, labels in loader:
        yield labels


def print_rates(rates: Rates, floors: Mapping[str, float]) -> None:
    """Print each rate, its reference and their ratio."""
    rows = [
        [name, f"{rate:.1f}", f"{other:.1f}", f"{rate / other:.3f}", f"{floors[name]:.2f}"]
        for name, (rate, other) in rates.items()
    ]
    print_table("", ("", "images/s", "of", "ratio", "target"), rows)


if __name__ == "__main__":
    CONSOLE.detach_stderr()
    main()
