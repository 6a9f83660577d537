"""A classifier that measures its own computing time, for `benchmarks.training`; the rest of a step is loop overhead."""

import time
from typing import Any, cast

import torch
from ray.util.queue import Queue

from benchmarks.training import NUM_WARM_STEPS, Measured
from training.config import TrainingConfig
from training.data.loader import MixedLoader
from training.model.classifier import Classifier


class TimedClassifier(Classifier):
    """Adds up the time of training steps and backward passes on a CPU, after `NUM_WARM_STEPS`."""

    def __init__(self, results: Queue, config: TrainingConfig, num_classes: int, image_size: int) -> None:
        super().__init__(config, num_classes, image_size)
        self.results = results
        self.computing_seconds = 0.0
        self.after_warm_up = (0.0, 0.0, 0.0)
        """Clock, computing seconds and waiting seconds after the warm-up steps."""

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Return the loss."""
        started_at = time.perf_counter()
        loss = super().training_step(batch, batch_idx)
        self.computing_seconds += time.perf_counter() - started_at
        return loss

    def backward(self, loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute gradients."""
        started_at = time.perf_counter()
        super().backward(loss, *args, **kwargs)
        self.computing_seconds += time.perf_counter() - started_at

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Start the clock after the warm-up steps; send the measurements after the last step."""
        loader = cast(MixedLoader, self.trainer.train_dataloader)
        now = (time.perf_counter(), self.computing_seconds, loader.waiting_seconds)
        if self.trainer.global_step == NUM_WARM_STEPS and not self.after_warm_up[0]:
            self.after_warm_up = now
        if self.trainer.global_step == self.config.num_steps:
            seconds, computing, waiting = (
                after - before for after, before in zip(now, self.after_warm_up, strict=True)
            )
            num_images = (self.config.num_steps - NUM_WARM_STEPS) * self.config.global_batch_size
            self.results.put(Measured(num_images, seconds, computing, waiting))
