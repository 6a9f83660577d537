"""Lightning's loop over one worker's share of the samples. Knows neither generators nor the cluster."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import lightning
import ray
import ray.train
import ray.train.torch
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from ray.data import DataIterator
from ray.train.collective import broadcast_from_rank_zero
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, prepare_trainer

from generation.indices import Wanted
from training.batch_norm import synchronized
from training.callbacks import (
    KeepBest,
    ProgressCallback,
    ReadAheadCallback,
    RecipeCallback,
    SaveCallback,
    StopEarly,
)
from training.checkpoint import checkpoint_files, newest_whole, read_checkpoint
from training.classifier import Classifier
from training.config import TrainingConfig
from training.consumption import Share, Turns, Worker, exact_share, loose_share, step_share
from training.job import FitJob, TrainingSamples, sets_of
from training.loader import EndedTooSoonError, HeldOutLoader, MixedLoader, Pace, StreamLoader, shard
from training.loggers import build_loggers
from training.progress import TrainingProgress
from training.reservoir import build_real_reservoir, build_reservoir
from training.run_state import CommitCallback, Journal, RunState

PROGRESS_SECONDS = 1.0
"""How often a run says how it goes."""


@dataclass(frozen=True)
class Start:
    """Where a run begins, or goes on; the same for all workers."""

    started_at: float
    """In seconds of `time.time()`."""

    path: Path | None
    """Its checkpoint."""

    step: int
    state: RunState


def run(job: FitJob, build_classifier: Callable[[TrainingConfig, int, int], Classifier] = Classifier) -> None:
    """Run Lightning's loop over this worker's share of the samples, from the newest whole checkpoint on."""
    torch.set_num_threads(job.config.threads_per_worker)
    lightning.seed_everything(job.config.seed)
    start = agreed_start(job)
    if start.step == job.config.num_steps or start.state.is_over:  # interrupted after its last checkpoint
        job.report(nothing_left(job.config, start.step))
        return
    loader = open_loader(job, start)
    held_out = HeldOutLoader(shard("held_out"), job.config.batch_size_per_worker)
    classifier = build_classifier(job.config, job.recipe.label_space.num_classes, job.recipe.image_size)
    classifier.held_out_is_real = job.held_out_is_real
    prepare_network(classifier, job.config)
    trainer = build_trainer(job, start, loader, held_out)
    with closing(loader):
        trainer.fit(classifier, loader, held_out, ckpt_path=start.path, weights_only=True)
    if trainer.global_step != job.config.num_steps and not trainer.should_stop:
        raise EndedTooSoonError(f"Training ended after {trainer.global_step} of {job.config.num_steps} steps.")


def nothing_left(config: TrainingConfig, step: int) -> TrainingProgress:
    """Return the progress of a run that has done all its steps."""
    now, num_trained = time.time(), step * config.global_batch_size
    return TrainingProgress(
        num_trained=num_trained,
        num_trained_before=num_trained,
        epoch=step // config.steps_per_epoch,
        asked_at=now,
        first_batch_at=now,
        training_seconds=0.0,
        waiting_seconds=0.0,
        reuse=0.0,
        loss=math.nan,
        held_out_top1=None,
    )


def agreed_start(job: FitJob) -> Start:
    """Return where all workers go on: the first of them chooses the checkpoint."""
    sets = sets_of(job.samples.num_images, job.real)
    path = choose_checkpoint(job.checkpoints) if ray.train.get_context().get_world_rank() == 0 else None
    started_at, path = broadcast_from_rank_zero((time.time(), path))
    if path is None:
        return Start(started_at, None, 0, RunState({}, sets))
    checkpoint = read_checkpoint(path)
    return Start(started_at, path, checkpoint["global_step"], RunState.from_checkpoint(checkpoint["run"]))


def choose_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint; what is newer is set aside, as this run will write steps of these names."""
    chosen, faults = newest_whole(folder)
    for fault in faults:
        logging.getLogger(__name__).warning(fault)
    for damaged in checkpoint_files(folder)[: len(faults)]:
        damaged.rename(damaged.with_suffix(".damaged"))
    return chosen


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
    reservoir = build_reservoir(config, job.recipe.image_size, worker.rank)
    generated = StreamLoader(open_share(job.samples, share, worker, config), share, reservoir, pace)
    if job.real is None:
        return MixedLoader({"synthetic": generated})
    pace = dataclasses.replace(pace, batch_size=config.num_real_per_batch)
    share = real_share(config, start, Turns(config.num_steps * config.num_real_per_step, job.real.num_images), worker)
    reservoir = build_real_reservoir(config, job.recipe.image_size, worker.rank)
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


def prepare_network(classifier: Classifier, config: TrainingConfig) -> None:
    """Do what training alone needs, and what leaves the names of the weights as they are."""
    if config.num_workers > 1:
        classifier.network = synchronized(classifier.network, on_gpu=config.gpus_per_worker > 0)
    if config.channels_last:
        classifier.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if config.compile:
        classifier.network.compile()


def judges(config: TrainingConfig, run_dir: Path) -> list[lightning.Callback]:
    """Return what goes by the held-out accuracy."""
    stop = [StopEarly(config.early_stop_epochs)] if config.early_stop_epochs else []
    return [*stop, *([KeepBest(run_dir)] if config.keep_best else [])]


def averaging(config: TrainingConfig) -> list[lightning.Callback]:
    """Return what averages weights, on the training device, if they are to be."""
    if not config.ema_decay:
        return []
    return [EMAWeightAveraging(device=ray.train.torch.get_device(), decay=config.ema_decay)]


def build_trainer(job: FitJob, start: Start, loader: MixedLoader, held_out: HeldOutLoader) -> lightning.Trainer:
    """Return a Trainer whose epochs are logical: parts of one stream, each a fixed number of steps."""
    config, rank = job.config, ray.train.get_context().get_world_rank()
    journal = Journal(job.run_dir / "journal", rank, start.started_at) if config.journal else None
    trainer = lightning.Trainer(
        max_epochs=config.num_epochs,
        limit_train_batches=config.steps_per_epoch * config.accumulate_batches,
        accumulate_grad_batches=config.accumulate_batches,
        num_sanity_val_steps=0,
        accelerator="gpu" if config.gpus_per_worker else "cpu",
        devices="auto",
        strategy=RayDDPStrategy(),
        plugins=[RayLightningEnvironment()],
        precision=config.precision,
        deterministic=config.deterministic,
        logger=build_loggers(config, job.run_dir),
        log_every_n_steps=config.log_every_steps,
        callbacks=[
            RecipeCallback(job.recipe),
            ReadAheadCallback(held_out),
            *averaging(config),
            CommitCallback(loader.loaders, start.state, journal),
            ProgressCallback(loader, held_out, job.report, PROGRESS_SECONDS),
            *judges(config, job.run_dir),
            SaveCallback(job.checkpoints, config.checkpoint_every_steps),
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return prepare_trainer(trainer)
