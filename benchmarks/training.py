"""Waiting time and loop overhead of training: `python -m benchmarks.training CONFIG [section.key=value]`.

Three runs with painted generators: faster than training; the same with `training.deterministic`, to measure its cost;
and at a tenth of the first run's training rate with `training.reuse=auto`. One worker trains; its forward and backward
passes and its augmentation are timed separately from everything else.
"""

import dataclasses
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ray.util.queue import Queue

from generation.config import GenerationConfig
from generation.indices import SampleRequest
from generation.pool.service import start_generation
from generation.recipes.recipe import Recipe
from generation.stream.stream import stream_samples
from ray_jobs.cli.config import JobConfig, load_config
from ray_jobs.cli.console import CONSOLE
from ray_jobs.cli.errors import user_errors
from ray_jobs.cluster.connect import connect
from ray_jobs.cluster.room import check_placement, generation_demand, training_demand
from ray_jobs.job.tables import print_table
from training.config import TrainingConfig
from training.fit import run_workers
from training.job import FitJob, TrainingSamples

NUM_WARM_STEPS = 3
"""Steps before the clock starts."""

SCARCE_FRACTION = 0.1
"""Rate of scarce generators, as a fraction of the training rate."""

MAX_OWN_FRACTION, MAX_WAITING_FRACTION, MAX_SCARCE_WAITING_FRACTION = 0.03, 0.01, 0.02
"""Targets: loop overhead, waiting with fast generators, and waiting with scarce generators."""


@dataclass(frozen=True)
class Measured:
    """The measurements of a run after its warm-up steps."""

    num_images: int
    seconds: float
    computing_seconds: float
    """Time in augmentation, forward and backward passes."""

    waiting_seconds: float
    """Time spent waiting for images."""

    @property
    def images_per_second(self) -> float:
        """Images trained on per second."""
        return self.num_images / self.seconds

    @property
    def waiting_fraction(self) -> float:
        """Fraction of the time that training waited for images, 0..1."""
        return self.waiting_seconds / self.seconds

    @property
    def overhead_fraction(self) -> float:
        """Fraction of the time that is neither waiting nor computing; includes the optimiser's step."""
        return (self.seconds - self.computing_seconds - self.waiting_seconds) / self.seconds


def main() -> None:
    """Run the command: measure three runs and print a table; exit status 1 if a target is missed."""
    with user_errors():
        config = load_config(JobConfig, sys.argv[1:])
        recipe = config.opened_recipe
        check(config, recipe)
        connect()
        wait_seconds = config.generation.wait_for_nodes_seconds
        check_placement([generation_demand(config.generation), training_demand(config.training, wait_seconds)])
    plenty = dataclasses.replace(config.generation, painted_batch_seconds=0.0)
    first = measure(recipe, plenty, config.training)
    ordered = measure(recipe, plenty, dataclasses.replace(config.training, deterministic=True))
    rate = SCARCE_FRACTION * first.images_per_second
    scarce = dataclasses.replace(plenty, painted_batch_seconds=plenty.max_actors * plenty.batch_size / rate)
    auto = dataclasses.replace(config.training, reuse="auto", max_reuse=10_000)
    last = measure(recipe, scarce, auto)
    scarce_name = f"scarce ({rate:.1f} images/s), reuse auto"
    print_runs({"fast": first, "fast, deterministic": ordered, scarce_name: last})
    sys.exit("\n".join(missed(first, last)) or None)


def check(config: JobConfig, recipe: Recipe) -> None:
    """Raise ValueError for settings that the benchmark cannot measure."""
    training = config.training
    if recipe.generator != "painted" or not config.generation.batch_size:
        raise ValueError(
            "The benchmark needs painted generators. Set recipe.generator=painted and generation.batch_size."
        )
    if (training.num_workers, training.num_epochs, training.reuse, training.real_images) != (1, 1, 1, ""):
        raise ValueError(
            "The benchmark supports only training.num_workers=1, num_epochs=1, reuse=1 and real_images=''. Use these."
        )
    if training.gpus_per_worker or training.num_steps <= NUM_WARM_STEPS:
        raise ValueError(
            f"The benchmark measures CPUs, after {NUM_WARM_STEPS} warm-up steps. Set training.gpus_per_worker=0 and "
            f"train for more than {NUM_WARM_STEPS} steps."
        )


def measure(recipe: Recipe, generation: GenerationConfig, training: TrainingConfig) -> Measured:
    """Return the measurements of a run with painted generators."""
    results = Queue(actor_options={"num_cpus": 0})
    held_out = SampleRequest.all_of(training.indices()[1])
    with start_generation(recipe, generation) as service, tempfile.TemporaryDirectory() as scratch:
        samples = TrainingSamples(training.num_samples, partial(stream_samples, service, recipe, generation))
        validation = stream_samples(service, recipe, generation, held_out)
        settings = {"job": FitJob(training, recipe, Path(scratch), samples, None), "results": results}
        run_workers(train_and_time, settings, training, Path(scratch), max_restarts=0, held_out=validation)
    return results.get(timeout=10)


def train_and_time(settings: dict[str, Any]) -> None:
    """Train as in every run, with a timed classifier."""
    from benchmarks.timed_classifier import TimedClassifier
    from training.loop import run

    run(settings["job"], partial(TimedClassifier, settings["results"]))


def missed(plenty: Measured, scarce: Measured) -> list[str]:
    """Return the missed targets, one line each."""
    targets = {
        "Loop overhead": (plenty.overhead_fraction, MAX_OWN_FRACTION),
        "Waiting with fast generators": (plenty.waiting_fraction, MAX_WAITING_FRACTION),
        "Waiting with scarce generators": (scarce.waiting_fraction, MAX_SCARCE_WAITING_FRACTION),
    }
    return [
        f"Target missed: {name} is {value:.1%}, not below {most:.0%}."
        for name, (value, most) in targets.items()
        if not value < most
    ]


def print_runs(runs: dict[str, Measured]) -> None:
    """Print one row per run."""
    rows = [
        [
            name,
            f"{run.num_images:,}",
            f"{run.images_per_second:.1f}",
            f"{run.waiting_fraction:.2%}",
            f"{run.overhead_fraction:.2%}",
        ]
        for name, run in runs.items()
    ]
    columns = ("generators", "images", "images/s", "waiting", "loop overhead")
    print_table(f"Training after {NUM_WARM_STEPS} warm-up steps", columns, rows)


if __name__ == "__main__":
    CONSOLE.detach_stderr()
    main()
