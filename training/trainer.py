"""Lightning's part of training: the network, its trainer and callbacks. Importing Lightning takes seconds."""

from collections.abc import Callable

import lightning
import ray.train
import ray.train.torch
from lightning.pytorch.callbacks import EMAWeightAveraging, LambdaCallback
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, prepare_trainer

from training.callbacks import (
    CheckpointFiles,
    CommitCallback,
    KeepBest,
    KeepCallback,
    ProgressCallback,
    RecipeCallback,
    SaveCallback,
    StopEarly,
)
from training.config import TrainingConfig
from training.data.loader import EndedTooSoonError, HeldOutLoader, MixedLoader, shard
from training.job import KEPT, FitJob
from training.loggers import build_loggers
from training.model.classifier import Classifier, prepare_network
from training.resume import ResumePoint
from training.run_state import Journal

BuildClassifier = Callable[[TrainingConfig, int, int], Classifier]

PROGRESS_SECONDS = 1.0
"""Minimum interval between progress reports."""


def train(job: FitJob, start: ResumePoint, loader: MixedLoader, build_classifier: BuildClassifier = Classifier) -> None:
    """Train a classifier on the batches of `loader`, from the resume point to the end of the run."""
    lightning.seed_everything(job.config.seed)
    held_out = HeldOutLoader(shard("held_out"), job.config.batch_size_per_worker)
    classifier = build_classifier(job.config, job.recipe.label_space.num_classes, job.recipe.image_size)
    classifier.held_out_is_real = job.held_out_is_real
    prepare_network(classifier, job.config)
    trainer = build_trainer(job, start, loader, held_out)
    trainer.fit(classifier, loader, held_out, ckpt_path=start.path, weights_only=True)
    if trainer.global_step != job.config.num_steps and not trainer.should_stop:
        raise EndedTooSoonError(f"Training ended after {trainer.global_step} of {job.config.num_steps} steps.")


def build_trainer(job: FitJob, start: ResumePoint, loader: MixedLoader, held_out: HeldOutLoader) -> lightning.Trainer:
    """Return a Trainer with logical epochs: parts of one stream, each a fixed number of steps."""
    config, rank = job.config, ray.train.get_context().get_world_rank()
    journal = Journal(job.run_dir / "journal", rank, start.started_at) if config.journal else None
    device = ray.train.torch.get_device()
    trainer = lightning.Trainer(
        max_epochs=config.num_epochs,
        limit_train_batches=config.steps_per_epoch * config.accumulate_batches,
        accumulate_grad_batches=config.accumulate_batches,
        num_sanity_val_steps=0,
        accelerator="gpu" if config.gpus_per_worker else "cpu",
        devices="auto",
        strategy=RayDDPStrategy(),
        plugins=[RayLightningEnvironment(), CheckpointFiles()],
        precision=config.precision,
        deterministic=config.deterministic,
        logger=build_loggers(config, job.run_dir),
        log_every_n_steps=config.log_every_steps,
        callbacks=[
            RecipeCallback(job.recipe, job.trained_on),
            LambdaCallback(on_train_batch_start=lambda *_: held_out.start()),  # the stream is running by then
            *([EMAWeightAveraging(device=device, decay=config.ema_decay)] if config.ema_decay else []),
            CommitCallback(loader.loaders, start.state, journal),
            ProgressCallback(loader, held_out, job.report, PROGRESS_SECONDS),
            *([StopEarly(config.early_stop_epochs)] if config.early_stop_epochs else []),
            *([KeepBest(job.run_dir)] if config.keep_best else []),
            SaveCallback(job.checkpoints, config.checkpoint_every_steps),
            KeepCallback(job.run_dir / KEPT, job.keep_every_images),
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return prepare_trainer(trainer)
