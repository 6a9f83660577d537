"""What training waits for and what its loop costs: `python -m benchmarks.training CONFIG [section.key=value]`.

Painted generators, first faster than training, then at a tenth of the rate that it had, with `training.reuse=auto`; and
in the order of the indices, which is what `training.deterministic` costs. One worker trains; its forward and backward
passes and its augmentation are timed apart from all else.
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
from ray_jobs.cli.config import JobConfig, load_config, open_recipe
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
"""What scarce generators make, of what training takes."""

MAX_OWN_FRACTION, MAX_WAITING_FRACTION, MAX_SCARCE_WAITING_FRACTION = 0.03, 0.01, 0.02
"""Targets: the loop's own cost, waiting where generators are faster, and where they are scarce."""


@dataclass(frozen=True)
class Measured:
    """A run after its first steps."""

    num_images: int
    seconds: float
    computing_seconds: float
    """In augmentation, forward and backward passes."""

    waiting_seconds: float
    """For images."""

    @property
    def images_per_second(self) -> float:
        """Images trained on."""
        return self.num_images / self.seconds

    @property
    def waiting_fraction(self) -> float:
        """Share of the time that training waited, 0..1."""
        return self.waiting_seconds / self.seconds

    @property
    def own_fraction(self) -> float:
        """Share of the time that is neither waiting nor computing: the loop's own, the optimiser's step included."""
        return (self.seconds - self.computing_seconds - self.waiting_seconds) / self.seconds


def main() -> None:
    """Compose the job: three runs, a table, and a status."""
    with user_errors():
        config = load_config(JobConfig, sys.argv[1:])
        recipe = open_recipe(config)
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
    scarce_name = f"a tenth ({rate:.1f} images/s), reuse auto"
    print_runs({"plenty": first, "plenty, deterministic": ordered, scarce_name: last})
    sys.exit("\n".join(missed(first, last)) or None)


def check(config: JobConfig, recipe: Recipe) -> None:
    """Raise ValueError for what cannot be measured."""
    training = config.training
    if recipe.generator != "painted" or not config.generation.batch_size:
        raise ValueError(
            "A benchmark needs painted generators. Set recipe.generator=painted and generation.batch_size."
        )
    if (training.num_workers, training.num_epochs, training.reuse, training.real_images) != (1, 1, 1, ""):
        raise ValueError(
            "The benchmark has one worker, one epoch, each image once, none of them real. Leave these out."
        )
    if training.gpus_per_worker or training.num_steps <= NUM_WARM_STEPS:
        raise ValueError(f"The clock is for CPUs, and starts after {NUM_WARM_STEPS} steps: training.gpus_per_worker=0.")


def measure(recipe: Recipe, generation: GenerationConfig, training: TrainingConfig) -> Measured:
    """Return how a run goes with painted generators."""
    answer = Queue(actor_options={"num_cpus": 0})
    held_out = SampleRequest.all_of(training.indices()[1])
    with start_generation(recipe, generation) as service, tempfile.TemporaryDirectory() as scratch:
        samples = TrainingSamples(training.num_samples, partial(stream_samples, service, recipe, generation))
        judges = stream_samples(service, recipe, generation, held_out)
        settings = {"job": FitJob(training, recipe, Path(scratch), samples, None), "answer": answer}
        run_workers(train_and_time, settings, training, Path(scratch), max_restarts=0, held_out=judges)
    return answer.get(timeout=10)


def train_and_time(settings: dict[str, Any]) -> None:
    """Train as every run does, but for the clock."""
    from benchmarks.timed_classifier import TimedClassifier
    from training.loop import run

    run(settings["job"], partial(TimedClassifier, settings["answer"]))


def missed(plenty: Measured, scarce: Measured) -> list[str]:
    """Return the targets that were missed, a line each."""
    found = {
        f"The loop's own cost is {plenty.own_fraction:.1%}": plenty.own_fraction < MAX_OWN_FRACTION,
        f"With plenty training waited {plenty.waiting_fraction:.1%}": plenty.waiting_fraction < MAX_WAITING_FRACTION,
        f"With a tenth it waited {scarce.waiting_fraction:.1%}": scarce.waiting_fraction < MAX_SCARCE_WAITING_FRACTION,
    }
    return [f"{line}: target missed." for line, is_met in found.items() if not is_met]


def print_runs(runs: dict[str, Measured]) -> None:
    """Print a row for each run."""
    rows = [
        [
            name,
            f"{run.num_images:,}",
            f"{run.images_per_second:.1f}",
            f"{run.waiting_fraction:.2%}",
            f"{run.own_fraction:.2%}",
        ]
        for name, run in runs.items()
    ]
    columns = ("generators", "images", "images/s", "waiting", "loop's own cost")
    print_table(f"Training after {NUM_WARM_STEPS} steps", columns, rows)


if __name__ == "__main__":
    main()
