"""The source of a training run's samples: a pool that generates them during training, or existing images."""

import dataclasses
import logging
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ray.data import Dataset

from evaluation.images.training_images import RealTrainingImages, missing_classes, real_training_images
from evaluation.images.unreadable import Unreadable
from evaluation.inference.check import build_scorer
from generation.config import GenerationConfig
from generation.files import new_path
from generation.indices import SampleRequest
from generation.pool.service import GenerationService, start_generation
from generation.pool.sizing import TrainerTimes
from generation.recipes.recipe import Recipe
from generation.sample import SampleBatch
from generation.shards.datasets import first_samples, read_shards, tee_samples
from generation.shards.shard_set import ShardSet
from generation.stream.stream import fetch_samples, stream_samples
from ray_jobs.cli.config import JobConfig
from ray_jobs.cli.run_folder import resolve_input
from ray_jobs.cluster.placement import check_pending
from ray_jobs.cluster.room import (
    generation_demand,
    nodes_alive,
    reserved_resources,
    training_demand,
    wait_for_resources,
)
from ray_jobs.job.data_set import (
    DataSplit,
    check_workers,
    open_splits,
    open_to_read,
)
from training.config import TrainingConfig
from training.job import TrainingSamples

logger = logging.getLogger(__name__)


def array_size(config: JobConfig, recipe: Recipe) -> int:
    """Return height and width of the arrays of images from `data.source`, in pixels."""
    return (config.data.source == "real" and config.training.real_image_size) or recipe.image_size


def start_pool(recipe: Recipe, generation: GenerationConfig, training: TrainingConfig) -> GenerationService:
    """Return a running pool sized by its trainer's reports, with resources for training reserved beside it."""
    trainers = training_demand(training, generation.wait_for_nodes_seconds)
    generators = generation_demand(generation)
    with reserved_resources(trainers) as wait_for_training:
        first_generators = dataclasses.replace(generators, count=max(1, generation.min_actors))
        # Request nodes for both at once, but get the trainers' resources before generators can take them.
        with reserved_resources(first_generators) if first_generators.wait_seconds else nullcontext():
            wait_for_training()
        scorer = partial(build_scorer, gives_soft_labels=training.soft_labels > 0)
        service = start_generation(recipe, generation, scorer)
        try:
            if service.num_pending():
                check_pending([dataclasses.replace(generators, may_start_late=True), trainers], nodes_alive())
        except BaseException:
            service.stop()
            raise
    service.report_trainer(TrainerTimes(0.0, 0.0))
    return service


def wait_for_trainers(config: JobConfig) -> None:
    """Wait for the training workers' nodes, if the cluster autoscales."""
    wait_for_resources(training_demand(config.training, config.generation.wait_for_nodes_seconds))


def shard_samples(config: JobConfig, shards: ShardSet, seed: int) -> TrainingSamples:
    """Return a set of shards to train on, in the order of a seed."""
    return TrainingSamples(shards.num_images, partial(read_shards, shards, seed, config.data.num_readers))


def unreadable_in(run_dir: Path, training: TrainingConfig) -> Unreadable:
    """Return the record of real images that a run may leave out, to be listed in a new file of its folder."""
    return Unreadable(training.allow_unreadable, new_path(run_dir, "unreadable", ".txt"))


def real_samples(config: JobConfig, recipe: Recipe, seed: int, unreadable: Unreadable) -> TrainingSamples | None:
    """Return the real images to mix in, in an order of the seed; ValueError if they are missing."""
    path = config.training.real_images
    return as_samples(open_real(path, config, recipe, seed, unreadable)) if path else None


def as_samples(images: RealTrainingImages) -> TrainingSamples:
    """Return real images as training samples."""
    return TrainingSamples(images.num_images, images.open, "real", images.source.names_hash, images.image_size)


def open_real(
    path: str, config: JobConfig, recipe: Recipe, seed: int, unreadable: Unreadable, *, are_alone: bool = False
) -> RealTrainingImages:
    """Return the real images at a path, uncropped if crops are random; ValueError if they are missing.

    A class without images is a warning, or ValueError if training uses real images only.
    """
    training = config.training
    size = training.real_image_size or recipe.image_size
    images = real_training_images(real_path(path), recipe.label_space, size, seed, config.data.num_readers)
    if missing := missing_classes(images, path, recipe.label_space):
        if are_alone:
            raise ValueError(f"{missing} Add them, or choose a label space without these classes.")
        logger.warning("training.real_images: %s", missing)
    return dataclasses.replace(
        images, unreadable=unreadable, is_upright=training.upright, is_whole=training.crops_at_random
    )


def real_path(path: str) -> str:
    """Return `digits` unchanged, and anything else as an absolute path."""
    return path if path == "digits" else str(resolve_input(path))


def check_scores(training: TrainingConfig, is_scored: bool, is_streamed: bool) -> None:
    """Raise ValueError if training uses scores or probabilities that its images lack."""
    used = "soft_labels" if training.soft_labels else "weight_by_score"
    if not getattr(training, used):
        return
    if not is_scored:
        raise ValueError(
            f"training.{used} is {getattr(training, used)}, but no model scores the images. Set recipe.check, and "
            "train on generated images."
        )
    if training.soft_labels and not is_streamed:
        raise ValueError(
            f"training.soft_labels is {training.soft_labels:g}, but only streams carry class probabilities. Use "
            "data.source=stream without data.tee; to compare, arms=[stream]."
        )


def check_deterministic(recipe: Recipe, generation: GenerationConfig) -> None:
    """Raise ValueError if a clock or an actor's GPU determines the batch size of generation."""
    if not generation.batch_sizes and (generation.batch_size or recipe.generator == "painted"):
        return
    setting = "batch_sizes" if generation.batch_sizes else "batch_size=0"
    reason = "the GPU that generates it" if generation.batch_sizes else "which batch size measured fastest at startup"
    raise ValueError(
        f"training.deterministic promises bit-identical weights, but with generation.{setting} the last bits of an "
        f"image depend on {reason}. Set generation.batch_size and leave batch_sizes out."
    )


@dataclass
class StreamSource:
    """A pool of generators; its samples may also be stored."""

    config: JobConfig
    recipe: Recipe
    splits: list[DataSplit]
    """Training and held-out splits to store; empty stores nothing."""

    sets: list[ShardSet] = field(default_factory=list)
    """The stored training and held-out sets, once the pool is running."""

    names_hash = 0
    service: GenerationService = field(init=False, repr=False, compare=False)

    def start(self) -> GenerationService:
        """Return the running pool, with resources reserved for training, and create the sets to store."""
        service = start_pool(self.recipe, self.config.generation, self.config.training)
        try:
            self.use(service)
        except BaseException:
            service.stop()
            raise
        return service

    def use(self, service: GenerationService) -> None:
        """Take the samples from a running pool of this recipe, and create the sets to store."""
        self.service = service
        if self.splits:
            batch_size = service.common_batch_size()
            self.sets = [split.create_or_extend(self.recipe, self.config.data, batch_size) for split in self.splits]

    def describe(self) -> str:
        """Return the number of actors and their batch size."""
        stored = f", stored in {self.splits[0].storage.url}" if self.splits else ""
        training, batch_size = self.config.training, self.service.batch_size()
        share, note = training.num_generated_per_batch * training.accumulate_batches, ""
        if training.deterministic and training.num_workers > 1 and share % batch_size:
            note = f"; some are generated more than once: a worker's share of a step, {share}, is not a multiple"
        return f"{self.service.num_loaded()} generator actors up, batches of {batch_size}{stored}{note}"

    @property
    def num_images(self) -> int:
        """Number of samples in a pass over the set, known before the pool starts."""
        return len(self.config.training.indices(self.config.data.replays)[0])

    def samples(self) -> TrainingSamples:
        """Return the samples to train on."""
        generation, seed = self.config.generation, self.config.training.seed
        if not self.sets:
            return TrainingSamples(self.num_images, partial(stream_samples, self.service, self.recipe, generation))
        teed = partial(tee_samples, self.service, generation, self.sets[0], self.num_images, seed=seed)
        return TrainingSamples(self.num_images, teed)

    def held_out(self) -> Dataset:
        """Return the samples that are never trained on."""
        generation, (_, held_out) = self.config.generation, self.config.training.indices()
        if self.sets:
            wanted = SampleRequest.all_of(range(len(held_out)))
            return tee_samples(self.service, generation, self.sets[1], len(held_out), wanted)
        return stream_samples(self.service, self.recipe, generation, SampleRequest.all_of(held_out))

    def first_samples(self, number: int) -> SampleBatch:
        """Return the samples of the lowest indices."""
        return fetch_samples(self.service, self.config.generation, range(number))


@dataclass
class StoredSource:
    """Existing images, trained on repeatedly."""

    config: JobConfig
    images: TrainingSamples
    held_out_images: TrainingSamples
    path: str
    shards: ShardSet | None = None
    """The shards of `images`; None for real images."""

    @property
    def num_images(self) -> int:
        """Number of images in a pass over the set."""
        return self.images.num_images

    @property
    def names_hash(self) -> int:
        """Hash of the files' names if a resumed run must find the same files; else 0."""
        return self.images.names_hash

    def start(self) -> None:
        """Wait for the training workers' nodes."""
        wait_for_trainers(self.config)

    def describe(self) -> str:
        """Return the number of images and their path."""
        return f"{self.num_images:,} {'' if self.shards else 'real '}images from {self.path}"

    def limit_passes(self, num_images: int) -> None:
        """Keep the number of samples per pass from the run's start, even if the shards have grown since."""
        if self.shards:
            self.shards = self.shards.first(min(num_images, self.shards.num_images))
            self.images = shard_samples(self.config, self.shards, self.config.training.seed)

    def samples(self) -> TrainingSamples:
        """Return the images to train on."""
        return self.images

    def held_out(self) -> Dataset:
        """Return the images that are never trained on."""
        return self.held_out_images.open(SampleRequest.all_of(range(self.held_out_images.num_images)))

    def first_samples(self, number: int) -> SampleBatch | None:
        """Return samples of the first shard; None for real images, which have no prompts."""
        return first_samples(self.shards, number) if self.shards else None


Source = StreamSource | StoredSource


def open_source(config: JobConfig, recipe: Recipe, unreadable: Unreadable) -> Source:
    """Return the configured source, checked as far as possible without a cluster.

    `unreadable` sets how many real images may be left out.
    """
    data = config.data
    check_scores(
        config.training,
        is_scored=bool(recipe.check) and data.source != "real",
        is_streamed=data.source == "stream" and not data.tee,
    )
    if config.data.source == "shards":
        return open_shards(config, recipe)
    if config.data.source == "real":
        return open_real_alone(config, recipe, unreadable)
    splits: list[DataSplit] = []
    if config.data.tee:
        config, splits = open_splits(config.data.tee, recipe, config)
        check_workers(config.training)
    if config.training.deterministic:
        check_deterministic(recipe, config.generation)
    return StreamSource(config, recipe, splits)


def open_shards(config: JobConfig, recipe: Recipe) -> StoredSource:
    """Return shards, limited to the number of samples that training uses."""
    train, held_out = open_to_read(config.data.shards, recipe, config.training)
    train = train.first(min(train.num_images, config.training.num_samples))
    images, held_out_images = (
        shard_samples(config, shards, config.training.seed)
        for shards in (train, held_out.first(config.training.num_held_out))
    )
    return StoredSource(config, images, held_out_images, train.storage.url, train)


def open_real_alone(config: JobConfig, recipe: Recipe, unreadable: Unreadable) -> StoredSource:
    """Return real images with a held-out split: the reference for training on generated images."""
    if config.training.real_images:
        raise ValueError("data.source is real and training.real_images is set; use only one of them.")
    images = open_real(config.data.real, config, recipe, config.training.seed, unreadable, are_alone=True)
    held_out, train = images.split(config.training.num_held_out)
    held_out = dataclasses.replace(held_out, image_size=recipe.image_size, is_whole=False)
    return StoredSource(config, as_samples(train), as_samples(held_out), real_path(config.data.real))
