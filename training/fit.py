"""Train a classifier on a stream: Ray Train starts the workers, which run `training.loop`.

Uses no generators or prompts: the job opens its samples.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray.train
from ray.data import Dataset
from ray.exceptions import RayTaskError
from ray.train.torch import TorchConfig, TorchTrainer
from torch.distributed import DistError

from training.checkpoint import checkpoint_files
from training.config import TrainingConfig
from training.job import TRAIN_FOLDER, FitJob
from training.loggers import logger_environment

COLLECTIVE_TIMEOUT_SECONDS = 7 * 24 * 3600
"""Timeout of collectives, one week: a worker may wait this long for another one's images. Ray detects lost workers."""

UNLIMITED_RESTARTS = -1
"""Ray Train's value for unlimited restarts."""


def fit(job: FitJob, held_out: Dataset) -> Path:
    """Train, or resume from the newest checkpoint, and return the path of the last one. Re-raises a worker's error.

    After losing a worker, Ray Train restarts all workers, which resume from the newest checkpoint.
    """
    settings = {"job": job, "environment": logger_environment(job.config)}
    run_workers(train_on_worker, settings, job.config, job.run_dir, job.config.max_restarts, held_out)
    return checkpoint_files(job.checkpoints)[0]


def run_workers(
    loop: Callable[[dict[str, Any]], None],
    settings: dict[str, Any],
    config: TrainingConfig,
    storage: Path,
    max_restarts: int,
    held_out: Dataset | None = None,
) -> None:
    """Run a loop on all workers, with up to `max_restarts` restarts after losing one. Re-raises a worker's error."""
    datasets: dict[str, Any] = {} if held_out is None else {"held_out": held_out}
    trainer = TorchTrainer(
        loop,
        train_loop_config=settings,
        datasets=datasets,
        scaling_config=worker_group(config),
        run_config=ray.train.RunConfig(
            name=TRAIN_FOLDER,
            storage_path=str(storage),
            failure_config=ray.train.FailureConfig(
                max_failures=max_restarts, max_preemption_failures=max_restarts, controller_failure_limit=0
            ),
            callbacks=[FailFastOnErrors()],
        ),
        torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_SECONDS),
        dataset_config=keep_execution_options(datasets),
    )
    try:
        with interrupt_raises():
            trainer.fit()
    except ray.train.WorkerGroupError as error:
        raise next(iter(error.worker_failures.values())) from None
    except ray.train.ControllerError as error:
        raise error.controller_failure from None


class FailFastOnErrors(ray.train.UserCallback):
    """Ends the run at an error in Figment's code, which would recur; Ray Train restarts workers only after a loss."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise the first error that does not come from a lost worker."""
        for error in worker_exceptions.values():
            if not is_worker_loss(error):
                raise error


def is_worker_loss(error: Exception) -> bool:
    """Return whether the error means a lost worker: an error of Ray, or of a collective, often the first symptom."""
    if isinstance(error, RayTaskError):  # raised by Figment's code in another process
        return False
    is_ray_error = type(error).__module__.startswith("ray.")  # not all of Ray Train's worker errors are public
    is_gloo_error = type(error) is RuntimeError and any(word in str(error).lower() for word in ("gloo", "connection"))
    return is_ray_error or is_gloo_error or isinstance(error, DistError)


def keep_execution_options(datasets: dict[str, Dataset]) -> ray.train.DataConfig:
    """Return a DataConfig that preserves each dataset's execution options, notably its memory limit.

    Ray Train would otherwise use the driver's defaults, with which a stream prefetches without limit.
    """
    return ray.train.DataConfig(
        execution_options={name: dataset.context.execution_options for name, dataset in datasets.items()}
    )


@contextmanager
def interrupt_raises() -> Iterator[None]:
    """Turn Ctrl-C during Ray Train's `fit` into KeyboardInterrupt; Ray Train itself would exit with status 0."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as ended:
        if ended.code == 0:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, handler)


def worker_group(config: TrainingConfig) -> ray.train.ScalingConfig:
    """Return Ray Train's scaling config: number of workers, their resources and node labels."""
    return ray.train.ScalingConfig(
        num_workers=config.num_workers,
        use_gpu=config.gpus_per_worker > 0,
        resources_per_worker=worker_resources(config),
        label_selector=config.label_selector,
    )


def worker_resources(config: TrainingConfig) -> dict[str, float]:
    """Return the Ray resources of one worker."""
    gpus = {"GPU": config.gpus_per_worker} if config.gpus_per_worker else {}
    return {"CPU": config.cpus_per_worker, **gpus}


def train_on_worker(settings: dict[str, Any]) -> None:
    """Run the training loop, imported here, so that drivers and controllers start faster without it."""
    from training.loop import run

    os.environ.update(settings["environment"].variables)
    run(settings["job"])
