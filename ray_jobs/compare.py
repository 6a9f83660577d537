"""Compare ways to train on the same images: `python -m ray_jobs.compare CONFIG [section.key=value ...]`.

Trains each arm once per seed, all with the same recipe, classifier and number of optimization steps:
- stream: images are generated while training, and not stored;
- generate_then_train: all images are generated into shards, once for all seeds, then trained on;
- tee_then_replay: half of the images are generated while training and stored, then trained on a second time;
- real: real images that no evaluation uses, repeated, as a reference.
Every epoch ends with the accuracy on real images. Writes `results.json` and `report.html`.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from ray_jobs.cli.command_line import run_and_exit

    run_and_exit("compare")

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import cast

from evaluation.images.real_sets import RealSet
from evaluation.images.training_images import validation_images
from evaluation.images.unreadable import Unreadable
from evaluation.inference.check import check_scorer
from generation.pool.service import GenerationService
from generation.recipes.checks import check_recipe
from generation.recipes.recipe import Recipe
from generation.shards.datasets import tee_samples, write_shards
from generation.shards.shard_set import ShardSet, new_shard_set
from generation.shards.storage import Storage
from generation.stream.stream import stream_samples
from ray_jobs.cli.announce import announce
from ray_jobs.cli.config import CompareConfig
from ray_jobs.cli.errors import errors_at_work, user_errors
from ray_jobs.cli.run_folder import resolve, unlock, write_json
from ray_jobs.cluster.room import generation_demand, training_demand
from ray_jobs.job.command import begin
from ray_jobs.job.data_set import check_batches, check_workers
from ray_jobs.job.evaluation import plan
from ray_jobs.job.listeners import listeners_of
from ray_jobs.job.source import (
    as_samples,
    check_scores,
    open_real,
    real_samples,
    shard_samples,
    start_pool,
    unreadable_in,
    wait_for_trainers,
)
from ray_jobs.monitor.display import ProgressLine
from ray_jobs.monitor.monitor import RunMonitor
from ray_jobs.monitor.observers import Observer
from ray_jobs.monitor.progress import RunProgress
from ray_jobs.monitor.prometheus import Exporter
from ray_jobs.reports.comparison import ArmRun, EpochPoint, print_results, write_report
from training.augmentation.augmentation import crop_sizes
from training.data.reservoir import check_reservoir
from training.fit import fit
from training.job import FitJob, TrainingSamples
from training.loggers import check_loggers
from training.model.network import check_architecture, check_sizes
from training.progress import TrainingProgress


def main(config: CompareConfig) -> None:
    """Run the command: train each arm with each seed, and write a report."""
    with user_errors():
        recipe, run_dir = prepare(config)
        for note in check_recipe(recipe, config.recipe) if set(config.arms) != {"real"} else ():
            announce(note)
        wait_seconds = config.generation.wait_for_nodes_seconds
        run_lock = begin(config, [generation_demand(config.generation), training_demand(config.training, wait_seconds)])
    comparison = Comparison(config, recipe, run_dir)
    runs: list[ArmRun] = []
    with errors_at_work(f"Finished runs are in {run_dir}; start the comparison again in another folder.", run_dir):
        for arm in config.arms:
            for seed in config.seeds:
                announce(f"{arm}, seed {seed}")
                runs.append(ARMS[arm](comparison, Arm(arm, seed)))
                write_json(run_dir / f"{arm}-{seed}" / "result.json", dataclasses.asdict(runs[-1]))
                for line in comparison.unreadable(Arm(arm, seed)).report_lines():
                    announce(line)
        print_results(runs, config.prices)
        write_report(run_dir, config, recipe, runs)
        unlock(run_lock)
    print(f"Everything is in {run_dir}: report.html, results.json")


def prepare(config: CompareConfig) -> tuple[Recipe, Path]:
    """Return recipe and run folder, checked as far as possible without a cluster."""
    if unknown := set(config.arms) - set(ARMS):
        raise ValueError(f"arms has {', '.join(sorted(unknown))}. Choose from {', '.join(ARMS)}.")
    if not (config.arms and config.seeds):
        raise ValueError("arms or seeds is empty. Use at least one of each.")
    if config.training.num_samples % 2 and "tee_then_replay" in config.arms:
        raise ValueError(
            f"training.num_images makes {config.training.num_samples} samples, which tee_then_replay cannot halve. Use "
            "an even number."
        )
    run_dir = resolve(config.output)
    recipe = config.opened_recipe
    check_scores(config.training, is_scored=bool(recipe.check), is_streamed=set(config.arms) == {"stream"})
    if set(config.arms) != {"real"}:
        check_scorer(recipe)
    check_batches(config.generation, config.data)
    validation_set(config, recipe)
    check_architecture(config.training.architecture)
    check_sizes(config.training.architecture, crop_sizes(config.training, recipe.image_size))
    has_real = "real" in config.arms or config.training.real_images
    largest = max(recipe.image_size, config.training.real_image_size if has_real else 0)
    check_reservoir(config.training, largest, recipe.label_space.num_classes)
    check_loggers(config.training)
    if config.training.early_stop_epochs or config.training.keep_best:
        raise ValueError(
            "training.early_stop_epochs and keep_best would select by the real images that compare the arms. Leave "
            "both out."
        )
    if config.evaluation.every_images:
        raise ValueError(
            f"evaluation.every_images is {config.evaluation.every_images}, but a comparison evaluates after each epoch "
            "and stores no weights. Leave it out."
        )
    if config.training.real_images and "real" in config.arms:
        raise ValueError("training.real_images cannot be combined with the arm 'real'. Leave one of them out.")
    if "tee_then_replay" in config.arms:
        check_workers(config.training)
    unreadable = unreadable_in(run_dir, config.training)
    real_samples(config, recipe, seed=0, unreadable=unreadable)
    if "real" in config.arms:
        open_real(config.real_images, config, recipe, 0, unreadable, are_alone=True)
    return recipe, run_dir


def validation_set(config: CompareConfig, recipe: Recipe) -> RealSet:
    """Return the real images for validation after every epoch: the first set."""
    if not config.evaluation.sets:
        raise ValueError("evaluation.sets is empty, but every epoch needs real images. Add evaluation.sets=NAME.")
    return plan(config.evaluation, recipe.label_space).sets[0]


@dataclass
class Arm:
    """One run of an arm."""

    name: str
    seed: int
    began_at: float = field(default_factory=time.time)
    """Start of the run, as `time.time()` in seconds."""

    @property
    def label(self) -> str:
        """Name of the run's files."""
        return f"{self.name}-{self.seed}"


@dataclass(frozen=True)
class GeneratedShards:
    """Shards generated before training, and the time that it took."""

    shards: ShardSet
    waited_seconds: float
    """Seconds from the first request to the last shard."""

    seconds: float
    """Seconds in total, with the pool's start and shutdown."""

    device_seconds: float


class Comparison:
    """State shared by all arms."""

    def __init__(self, config: CompareConfig, recipe: Recipe, run_dir: Path) -> None:
        self.config = config
        self.recipe = recipe
        self.run_dir = run_dir
        self.num_images = config.training.num_samples

    @cached_property
    def generated(self) -> GeneratedShards:
        """All images, generated into shards once, before any arm trains on them."""
        began_at = time.time()
        with self.start_pool() as service:
            requested_at = time.time()
            shards = self.new_shards("generated", self.num_images, service.common_batch_size())
            write_shards(service, self.config.generation, shards, shards.missing()).materialize()
            generated_at = time.time()
            device_seconds = self.config.generation.max_actors * (generated_at - began_at)
        return GeneratedShards(shards, generated_at - requested_at, time.time() - began_at, device_seconds)

    def start_pool(self) -> GenerationService:
        """Return a pool that leaves resources for training."""
        return start_pool(self.recipe, self.config.generation, self.config.training)

    def new_shards(self, folder: str, num_images: int, batch_size: int) -> ShardSet:
        """Return a new shard set below the run's folder."""
        storage = Storage(str(self.run_dir / folder))
        shards = new_shard_set(storage, self.recipe, range(num_images), batch_size, self.config.data)
        shards.write_manifest(None)
        return shards

    def train(
        self, arm: Arm, images: TrainingSamples, pool: GenerationService | None, before: GeneratedShards | None = None
    ) -> ArmRun:
        """Train on images with validation on real images after each epoch, and return the measurements.

        A pool's device time counts from the arm's start. `before` counts in full, although all seeds share it.
        """
        training = dataclasses.replace(self.config.training, seed=arm.seed)
        run_dir = self.run_dir / arm.label
        run_dir.mkdir()
        real_set = validation_set(self.config, self.recipe)
        validation = validation_images(real_set, self.recipe.image_size, self.config.evaluation)
        fit_began_at = time.time()
        exporter = Exporter(run_dir.name, self.recipe.sha256[:12])
        line = ProgressLine(training)
        with RunMonitor(pool, Observer(line.observe, line.close), Observer(exporter.observe)) as monitor:
            real = real_samples(self.config, self.recipe, arm.seed, self.unreadable(arm))
            listeners = (*listeners_of(pool), monitor.report)
            fit(FitJob(training, self.recipe, run_dir, images, real, listeners, held_out_is_real=True), validation)
        ended_at = time.time()
        last = cast(TrainingProgress, monitor.last().training)
        num_before = self.num_images if before else 0
        held_seconds = self.config.generation.max_actors * (ended_at - arm.began_at) if pool else 0.0
        waited_seconds = last.first_batch_at - last.requested_at + (before.waited_seconds if before else 0.0)
        return ArmRun(
            arm=arm.name,
            seed=arm.seed,
            top1=cast(float, last.held_out_top1),
            moments=epoch_points(monitor.epochs, arm.began_at, num_before),
            waited_seconds=waited_seconds,
            first_step_seconds=last.first_batch_at - arm.began_at,
            total_seconds=ended_at - arm.began_at,
            generation_device_seconds=before.device_seconds if before else held_seconds,
            training_device_seconds=training.num_workers * (ended_at - fit_began_at),
            waiting_fraction=last.waiting_fraction,
            num_generated=num_before + monitor.last().num_generated,
            num_trained=last.num_trained,
            stored_bytes=0,
            num_unreadable=len(self.unreadable(arm).names()),
        )

    def unreadable(self, arm: Arm) -> Unreadable:
        """Return the limit on unreadable real images of a run, and the file that lists them."""
        return Unreadable(self.config.training.allow_unreadable, self.run_dir / arm.label / "unreadable.txt")


def run_stream(comparison: Comparison, arm: Arm) -> ArmRun:
    """Generate while training."""
    generation = comparison.config.generation
    with comparison.start_pool() as service:
        stream = partial(stream_samples, service, comparison.recipe, generation)
        images = TrainingSamples(comparison.num_images, stream)
        return comparison.train(arm, images, service)


def run_generate_then_train(comparison: Comparison, arm: Arm) -> ArmRun:
    """Generate all, then train."""
    generated = comparison.generated
    arm.began_at = time.time() - generated.seconds  # as if generated for this run alone
    images = shard_samples(comparison.config, generated.shards, arm.seed)
    wait_for_trainers(comparison.config)
    run = comparison.train(arm, images, None, before=generated)
    return dataclasses.replace(run, stored_bytes=stored_bytes(generated.shards))


def run_tee_then_replay(comparison: Comparison, arm: Arm) -> ArmRun:
    """Generate and store half of the images while training, then train on them a second time."""
    half = comparison.num_images // 2
    with comparison.start_pool() as service:
        shards = comparison.new_shards(f"{arm.label}-kept", half, service.common_batch_size())
        teed = partial(tee_samples, service, comparison.config.generation, shards, half, seed=arm.seed)
        images = TrainingSamples(half, teed)
        run = comparison.train(arm, images, service)
    return dataclasses.replace(run, stored_bytes=stored_bytes(shards))


def run_real(comparison: Comparison, arm: Arm) -> ArmRun:
    """Train on real images."""
    config = comparison.config
    unreadable = comparison.unreadable(arm)
    images = open_real(config.real_images, config, comparison.recipe, arm.seed, unreadable, are_alone=True)
    wait_for_trainers(comparison.config)
    return comparison.train(arm, as_samples(images), None)


def epoch_points(epochs: Sequence[RunProgress], began_at: float, num_before: int) -> list[EpochPoint]:
    """Return a point per validated epoch: seconds since `began_at`, and images, with `num_before` generated earlier."""
    return [
        EpochPoint(
            seconds=training.first_batch_at + training.training_seconds - began_at,
            num_generated=num_before + epoch.num_generated,
            num_trained=training.num_trained,
            top1=training.held_out_top1,
        )
        for epoch in epochs
        if (training := epoch.training) is not None and training.held_out_top1 is not None
    ]


def stored_bytes(shards: ShardSet) -> int:
    """Return the size of a set's shards in bytes; its storage must be mounted on this machine."""
    return sum(path.stat().st_size for path in Path(shards.storage.url).rglob("*") if path.is_file())


ARMS: dict[str, Callable[[Comparison, Arm], ArmRun]] = {
    "stream": run_stream,
    "generate_then_train": run_generate_then_train,
    "tee_then_replay": run_tee_then_replay,
    "real": run_real,
}
