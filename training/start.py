"""Where a run begins or goes on, and what one of its workers takes of the rest. Knows no network and no steps."""

import dataclasses
import logging
import time
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import ray
import ray.train
from ray.data import DataIterator
from ray.train.collective import broadcast_from_rank_zero

from generation.files import TEMPORARY, move
from generation.indices import Wanted
from training.checkpoint import checkpoint_files, newest_whole, read_checkpoint
from training.config import TrainingConfig
from training.data.consumption import Share, Turns, Worker, exact_share, loose_share, step_share
from training.data.loader import MixedLoader, Pace, StreamLoader
from training.data.reservoir import build_real_reservoir, build_reservoir, min_images
from training.job import FitJob, TrainingSamples, sets_of
from training.run_state import RunState


@dataclass(frozen=True)
class Start:
    """Where a run begins, or goes on; the same for all workers."""

    started_at: float
    """In seconds of `time.time()`."""

    path: Path | None
    """Its checkpoint."""

    step: int
    state: RunState


def agreed_start(job: FitJob) -> Start:
    """Return where all workers go on: the first of them chooses the checkpoint."""
    sets = sets_of(job.samples.num_images, job.samples.names_hash, job.real)
    path = choose_checkpoint(job.checkpoints) if ray.train.get_context().get_world_rank() == 0 else None
    started_at, path = broadcast_from_rank_zero((time.time(), path))
    if path is None:
        return Start(started_at, None, 0, RunState({}, sets))
    checkpoint = read_checkpoint(path)
    return Start(started_at, path, checkpoint["global_step"], RunState.from_checkpoint(checkpoint["run"]))


def choose_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint; what is newer is set aside, as this run will write steps of these names."""
    chosen, faults = newest_whole(folder)
    for leftover in chain(*(place.glob(f"{TEMPORARY}*.ckpt-*") for place in (folder, folder.parent))):
        leftover.unlink()  # by a worker that was killed while it wrote
    for fault in faults:
        logging.getLogger(__name__).warning(fault)
    for damaged in checkpoint_files(folder)[: len(faults)]:
        move(damaged, damaged.with_suffix(".damaged"))
    return chosen.path if chosen else None


def open_loader(job: FitJob, start: Start) -> MixedLoader:
    """Return this worker's share of the rest of the run, batch by batch."""
    config, context = job.config, ray.train.get_context()
    worker = Worker(context.get_world_rank(), context.get_world_size())
    pace = Pace(
        config.batch_size_per_worker - config.num_real_per_batch,
        config.max_waiting_fraction,
        config.deterministic,
        num_drawn_before=start.step * config.accumulate_batches,
    )
    share = share_of(config, start, Turns(config.num_samples, job.samples.num_images), worker)
    num_classes = job.recipe.label_space.num_classes
    image_size = job.samples.image_size or job.recipe.image_size
    fill = min_images(config, image_size, num_classes, job.samples.num_images)
    reservoir = build_reservoir(config, image_size, worker.rank, fill)
    shard = open_share(job.samples, share, worker, config)
    generated = StreamLoader(shard, share, reservoir, pace, job.samples.num_images)
    if job.real is None:
        return MixedLoader({"synthetic": generated})
    pace = dataclasses.replace(pace, batch_size=config.num_real_per_batch)
    share = real_share(config, start, Turns(config.num_steps * config.num_real_per_step, job.real.num_images), worker)
    reservoir = build_real_reservoir(config, job.real.image_size or job.recipe.image_size, worker.rank)
    real = StreamLoader(open_share(job.real, share, worker, config), share, reservoir, pace)
    return MixedLoader({"real": real, "synthetic": generated})


def share_of(config: TrainingConfig, start: Start, turns: Turns, worker: Worker) -> Share:
    """Return which generated samples a worker takes of the rest of a run."""
    num_per_step = config.global_batch_size - config.num_real_per_step
    done = start.state.of("synthetic")
    if config.deterministic:
        return step_share(done, turns, num_per_step // worker.count, worker)
    if config.least_uses != config.most_uses:
        return loose_share(done, turns, worker)
    return exact_share(done, turns, config.least_uses, worker, (config.num_steps - start.step) * num_per_step)


def real_share(config: TrainingConfig, start: Start, turns: Turns, worker: Worker) -> Share:
    """Return which real samples it takes; each is used once in a turn."""
    done = start.state.of("real")
    if config.deterministic:
        return step_share(done, turns, config.num_real_per_step // worker.count, worker)
    return exact_share(done, turns, 1, worker, (config.num_steps - start.step) * config.num_real_per_step)


def open_share(samples: TrainingSamples, share: Share, worker: Worker, config: TrainingConfig) -> DataIterator | None:
    """Return what yields a share, if there is one; it is executed in a process of its own, beside this one."""
    if not len(share.serials):
        return None
    dataset = samples.open(Wanted(share.serials, worker.count, config.deterministic))
    return dataset.streaming_split(1, locality_hints=[ray.get_runtime_context().get_node_id()])[0]
