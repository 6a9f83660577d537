"""Lightning's loop over one worker's shard of the stream. Knows samples, and neither generators nor the cluster."""

from contextlib import closing

import lightning
import ray.train
import ray.train.torch
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, RayTrainReportCallback, prepare_trainer

from training.batch_norm import synchronized
from training.callbacks import ProgressCallback, ReadAheadCallback, RecipeCallback
from training.classifier import Classifier
from training.config import TrainingConfig
from training.job import FitJob
from training.loader import HeldOutLoader, StreamLoader, shard
from training.reservoir import build_reservoir

PROGRESS_SECONDS = 1.0
"""How often a run says how it goes."""

LOG_EVERY_STEPS = 10
"""A row in the metrics files every so many steps."""


def run(job: FitJob) -> None:
    """Run Lightning's loop over this worker's shard of the stream."""
    torch.set_num_threads(job.config.threads_per_worker)
    lightning.seed_everything(job.config.seed)
    rank = ray.train.get_context().get_world_rank()
    loader = StreamLoader(
        shard("train"),
        job.config.batch_size_per_worker,
        build_reservoir(job.config, job.recipe.image_size, rank),
        job.config.max_waiting_fraction,
    )
    held_out = HeldOutLoader(shard("held_out"), job.config.batch_size_per_worker)
    classifier = Classifier(job.config, job.recipe.label_space.num_classes, job.recipe.image_size)
    prepare_network(classifier, job.config)
    trainer = build_trainer(job, loader, held_out)
    with closing(loader):
        trainer.fit(classifier, train_dataloaders=loader, val_dataloaders=held_out)
    if trainer.global_step != job.config.num_steps:
        raise RuntimeError(f"Training ended after {trainer.global_step} of {job.config.num_steps} steps.")


def prepare_network(classifier: Classifier, config: TrainingConfig) -> None:
    """Do what training alone needs, and what leaves the names of the weights as they are."""
    if config.num_workers > 1:
        classifier.network = synchronized(classifier.network, on_gpu=config.gpus_per_worker > 0)
    if config.channels_last:
        classifier.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if config.compile:
        classifier.network.compile()


def averaging(config: TrainingConfig) -> list[lightning.Callback]:
    """Return what averages weights, on the training device, if they are to be."""
    if not config.ema_decay:
        return []
    return [EMAWeightAveraging(device=ray.train.torch.get_device(), decay=config.ema_decay)]


def build_trainer(job: FitJob, loader: StreamLoader, held_out: HeldOutLoader) -> lightning.Trainer:
    """Return a Trainer whose epochs are logical: parts of one stream, each a fixed number of steps."""
    trainer = lightning.Trainer(
        max_epochs=job.config.num_epochs,
        limit_train_batches=job.config.steps_per_epoch * job.config.accumulate_batches,
        accumulate_grad_batches=job.config.accumulate_batches,
        num_sanity_val_steps=0,
        accelerator="gpu" if job.config.gpus_per_worker else "cpu",
        devices="auto",
        strategy=RayDDPStrategy(),
        plugins=[RayLightningEnvironment()],
        precision=job.config.precision,
        logger=[
            CSVLogger(job.run_dir, name=None, version=""),
            TensorBoardLogger(job.run_dir, name="tensorboard", version=""),
        ],
        log_every_n_steps=LOG_EVERY_STEPS,
        callbacks=[
            RecipeCallback(job.recipe),
            ReadAheadCallback(held_out),
            ProgressCallback(loader, held_out, job.report, PROGRESS_SECONDS),
            *averaging(job.config),
            RayTrainReportCallback(),
        ],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return prepare_trainer(trainer)
