"""Train a classifier on a stream: Ray Train starts the workers, `training.loop` is what they run.

Knows samples and neither generators nor prompts; the stream is whatever dataset it is handed.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray.train
from ray.data import Dataset
from ray.train.torch import TorchTrainer

from training.config import TrainingConfig
from training.job import FitJob

CHECKPOINT_NAME = "checkpoint.ckpt"
"""As `ray.train.lightning.RayTrainReportCallback` names it."""


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
            failure_config=ray.train.FailureConfig(
                max_failures=0, max_preemption_failures=0, controller_failure_limit=0
            ),
        ),
        dataset_config=own_execution_options({"train": train, "held_out": held_out}),
    )
    try:
        with interrupt_raises():
            checkpoint = trainer.fit().checkpoint
    except ray.train.WorkerGroupError as error:
        raise next(iter(error.worker_failures.values())) from None
    if checkpoint is None:
        raise RuntimeError("Training ended without a checkpoint.")
    return Path(checkpoint.path) / CHECKPOINT_NAME


def own_execution_options(datasets: dict[str, Dataset]) -> ray.train.DataConfig:
    """Return what makes Ray Train keep the options of each dataset, above all its bound on memory.

    Otherwise Train replaces them by the driver's defaults, under which a stream runs ahead without limit.
    """
    return ray.train.DataConfig(
        execution_options={name: dataset.context.execution_options for name, dataset in datasets.items()}
    )


@contextmanager
def interrupt_raises() -> Iterator[None]:
    """Make Ctrl-C during Ray Train's `fit` a KeyboardInterrupt: Train would exit with status 0, as if all were well."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as ended:
        if ended.code == 0:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, handler)


def worker_resources(config: TrainingConfig) -> dict[str, float]:
    """Return what one worker takes of the cluster."""
    gpus = {"GPU": config.gpus_per_worker} if config.gpus_per_worker else {}
    return {"CPU": config.cpus_per_worker, **gpus}


def train_on_worker(settings: dict[str, FitJob]) -> None:
    """Run the loop; Lightning is imported by workers alone, since drivers and controllers start faster without it."""
    from training.loop import run

    run(settings["job"])
