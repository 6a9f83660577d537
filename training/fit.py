"""Train a classifier on a stream: Ray Train starts the workers, Lightning runs the loop.

Knows samples and neither generators nor prompts; the stream is whatever dataset it is handed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning
import ray.train
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from ray.data import DataIterator, Dataset
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, RayTrainReportCallback, prepare_trainer
from ray.train.torch import TorchTrainer

from generation.recipe import Recipe
from training.classifier import Classifier
from training.config import TrainingConfig
from training.loader import HeldOutLoader, StreamLoader
from training.progress import ProgressCallback, TrainingProgress

PROGRESS_SECONDS = 1.0
"""How often a run says how it goes."""

LOG_EVERY_STEPS = 10
"""A row in the metrics files every so many steps."""


@dataclass(frozen=True)
class FitJob:
    """What each worker is told."""

    config: TrainingConfig
    recipe: Recipe
    run_dir: Path
    """Absolute; loggers write here, so several hosts need it on storage they share."""

    report: Callable[[TrainingProgress], Any]


def fit(job: FitJob, train: Dataset, held_out: Dataset) -> Path:
    """Train through `train` once and return the last checkpoint's file; raises what a worker raised."""
    trainer = TorchTrainer(
        train_on_worker,
        train_loop_config={"job": job},
        datasets={"train": train, "held_out": held_out},
        scaling_config=ray.train.ScalingConfig(
            num_workers=job.config.num_workers,
            use_gpu=job.config.gpus_per_worker > 0,
            resources_per_worker=worker_resources(job.config),
        ),
        run_config=ray.train.RunConfig(
            name="checkpoints",
            storage_path=str(job.run_dir),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
        ),
    )
    try:
        checkpoint = trainer.fit().checkpoint
    except ray.train.WorkerGroupError as error:
        raise next(iter(error.worker_failures.values())) from None
    if checkpoint is None:
        raise RuntimeError("Training ended without a checkpoint.")
    return Path(checkpoint.path) / RayTrainReportCallback.CHECKPOINT_NAME


def worker_resources(config: TrainingConfig) -> dict[str, float]:
    """Return what one worker takes of the cluster."""
    gpus = {"GPU": config.gpus_per_worker} if config.gpus_per_worker else {}
    return {"CPU": config.cpus_per_worker, **gpus}


def train_on_worker(settings: dict[str, FitJob]) -> None:
    """Run Lightning's loop over this worker's shard of the stream."""
    job = settings["job"]
    torch.set_num_threads(job.config.threads_per_worker)
    lightning.seed_everything(job.config.seed)
    loader = StreamLoader(shard("train"), job.config.batch_size_per_worker)
    held_out = HeldOutLoader(shard("held_out"), job.config.batch_size_per_worker)
    classifier = Classifier(job.config, job.recipe.label_space.num_classes, job.recipe.image_size)
    trainer = build_trainer(job, loader)
    trainer.fit(classifier, train_dataloaders=loader, val_dataloaders=held_out)
    loader.close()
    if trainer.global_step != job.config.num_steps:
        raise RuntimeError(f"Training ended after {trainer.global_step} of {job.config.num_steps} steps.")


def shard(name: str) -> DataIterator:
    """Return this worker's share of a dataset that `fit` was handed."""
    return cast(DataIterator, ray.train.get_dataset_shard(name))


def build_trainer(job: FitJob, loader: StreamLoader) -> lightning.Trainer:
    """Return a Trainer whose epochs are logical: parts of one stream, each a fixed number of steps."""
    trainer = lightning.Trainer(
        max_epochs=job.config.num_epochs,
        limit_train_batches=job.config.steps_per_epoch,
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
            ProgressCallback(loader, job.report, PROGRESS_SECONDS),
            RayTrainReportCallback(),
        ],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return prepare_trainer(trainer)


class RecipeCallback(lightning.Callback):
    """Writes the recipe into every checkpoint: what the classifier was taught, and how to make it again."""

    def __init__(self, recipe: Recipe) -> None:
        """Take the recipe of the stream."""
        self.recipe = recipe

    def on_save_checkpoint(self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Add the recipe's JSON and its hash."""
        checkpoint["recipe"] = {"json": self.recipe.to_json(), "sha256": self.recipe.sha256}
