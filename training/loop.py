"""One worker's run: it starts its share of the stream, then trains on it. Uses no generators."""

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import torch

from training.job import FitJob
from training.progress import TrainingProgress
from training.resume import open_loader, resolve_resume_point


def run(job: FitJob, build_classifier: Callable[..., Any] | None = None) -> None:
    """Train on this worker's share of the samples, from the newest readable checkpoint.

    The stream starts before Lightning is imported: its processes take as long to start as the import.
    """
    torch.set_num_threads(job.config.threads_per_worker)
    start = resolve_resume_point(job)
    if start.step == job.config.num_steps or start.state.is_over:  # interrupted after the last checkpoint
        now, num_trained = time.time(), start.step * job.config.global_batch_size
        epoch = start.step // job.config.steps_per_epoch
        job.report(TrainingProgress(num_trained, num_trained, epoch, requested_at=now, first_batch_at=now))
        return
    with closing(open_loader(job, start)) as loader:
        loader.start()
        from training.trainer import train

        train(job, start, loader, *([build_classifier] if build_classifier else []))
