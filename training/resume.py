"""Where a run starts or resumes, and one worker's share of the remaining samples."""

import logging
import time
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import ray
import ray.train
from ray.train.collective import broadcast_from_rank_zero

from generation.files import TEMPORARY, move
from generation.indices import SampleRequest
from training.checkpoint import checkpoint_files, newest_readable, read_checkpoint
from training.config import TrainingConfig
from training.data.consumption import RunSerials, Share, Worker, exact_share, loose_share, step_share
from training.data.loader import MixedLoader, Pace, StreamLoader
from training.data.reservoir import Reservoir, Uses, build_store, min_images
from training.job import FitJob, TrainingSamples, sets_of
from training.run_state import RunState


@dataclass(frozen=True)
class ResumePoint:
    """Where a run starts or resumes; the same for all workers."""

    started_at: float
    """Start time as Unix time, in seconds."""

    path: Path | None
    """Checkpoint to resume from; None for a new run."""

    step: int
    state: RunState


def resolve_resume_point(job: FitJob) -> ResumePoint:
    """Return the resume point of all workers; the first worker chooses the checkpoint."""
    sets = sets_of(job.samples.num_images, job.samples.names_hash, job.real)
    path = choose_checkpoint(job.checkpoints) if ray.train.get_context().get_world_rank() == 0 else None
    started_at, path = broadcast_from_rank_zero((time.time(), path))
    if path is None:
        return ResumePoint(started_at, None, 0, RunState({}, sets))
    checkpoint = read_checkpoint(path)
    return ResumePoint(started_at, path, checkpoint["global_step"], RunState.from_checkpoint(checkpoint["run"]))


def choose_checkpoint(folder: Path) -> Path | None:
    """Return the newest readable checkpoint, or None; rename newer, damaged files, whose names this run will reuse."""
    chosen, _, errors = newest_readable(folder)
    for leftover in chain(*(parent.glob(f"{TEMPORARY}*.ckpt-*") for parent in (folder, folder.parent))):
        leftover.unlink()  # from a worker killed while writing
    for error in errors:
        logging.getLogger(__name__).warning(error)
    for damaged in checkpoint_files(folder)[: len(errors)]:
        move(damaged, damaged.with_suffix(".damaged"))
    return chosen


@dataclass(frozen=True)
class BatchPart:
    """The part of each batch that comes from one data set."""

    domain: str
    """Key in `RunState.consumption`."""

    samples: TrainingSamples
    num_serials: int
    """Serials in the whole run."""

    uses: Uses
    batch_size: int


def open_loader(job: FitJob, start: ResumePoint) -> MixedLoader:
    """Return a loader of this worker's share of the remaining run."""
    config, uses = job.config, Uses(job.config.least_uses, job.config.most_uses)
    parts = [BatchPart("synthetic", job.samples, config.num_samples, uses, config.num_generated_per_batch)]
    if job.real is not None:
        num_serials = config.num_steps * config.num_real_per_step
        parts.insert(0, BatchPart("real", job.real, num_serials, Uses(1, 1), config.num_real_per_batch))
    return MixedLoader({part.domain: open_domain_loader(job, start, part) for part in parts})


def open_domain_loader(job: FitJob, start: ResumePoint, part: BatchPart) -> StreamLoader:
    """Return a loader of this worker's share of one data set's rest, executed by another process on this node."""
    config, context, samples = job.config, ray.train.get_context(), part.samples
    worker = Worker(context.get_world_rank(), context.get_world_size())
    share, shard = share_of(config, start, part, worker), None
    if len(share.serials):
        dataset = samples.open(SampleRequest(share.serials, worker.count, config.deterministic, worker.rank))
        shard = dataset.streaming_split(1, locality_hints=[ray.get_runtime_context().get_node_id()])[0]
    num_drawn_before = start.step * config.accumulate_batches
    pace = Pace(part.batch_size, config.max_waiting_fraction, config.deterministic, num_drawn_before)
    image_size, num_classes = samples.image_size or job.recipe.image_size, job.recipe.label_space.num_classes
    fill = min_images(config, image_size, num_classes, samples.num_images) if part.uses.most > 1 else 0
    key = (config.seed, worker.rank, int(part.domain == "real"))
    store = build_store(config, part.uses, part.batch_size, image_size, num_classes)
    reservoir = Reservoir(store, part.uses, key, fill)
    return StreamLoader(shard, share, reservoir, pace, samples.num_images)


def share_of(config: TrainingConfig, start: ResumePoint, part: BatchPart, worker: Worker) -> Share:
    """Return a worker's share of the run's remaining samples."""
    serials, done = RunSerials(part.num_serials, part.samples.num_images), start.state.of(part.domain)
    if config.deterministic:
        return step_share(done, serials, part.batch_size * config.accumulate_batches, worker)
    if not part.uses.is_exact:
        return loose_share(done, serials, worker)
    num_per_step = part.batch_size * config.num_workers * config.accumulate_batches
    return exact_share(done, serials, part.uses.least, worker, (config.num_steps - start.step) * num_per_step)
