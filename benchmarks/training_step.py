"""Training steps on one device without Ray: Lightning's loop on random images in memory."""

import dataclasses
import gc
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import lightning
import torch

from benchmarks.timer import Timer, wait_for_device
from generation.engine.batch_size import MemoryMeter, is_out_of_memory
from training.config import TrainingConfig
from training.model.classifier import Classifier, prepare_network

NUM_BATCHES = 4
"""Number of distinct batches; each step makes new crops of one."""

SMALLEST_BATCH_SIZE = 8


@dataclass(frozen=True)
class Steps:
    """Numbers of steps of each kind."""

    num_warm: int
    """Warm-up steps at the beginning, not measured."""

    num_timed: int
    num_inspected: int
    """Steps at the end that synchronise the device around the augmentation, to measure its share."""

    @property
    def num_all(self) -> int:
        """Total number of steps."""
        return self.num_warm + self.num_timed + self.num_inspected


@dataclass(frozen=True)
class StepRate:
    """The measured speed of training."""

    batch_size: int
    images_per_second: float
    augmentation_fraction: float
    """Fraction of a step's time spent in augmentation, 0..1, with the device synchronised before and after."""

    peak_bytes: int
    """Peak device memory, or memory of the process on a CPU."""


def measure_steps(config: TrainingConfig, image_size: int, num_classes: int, steps: Steps) -> StepRate:
    """Return the rate with the config's batch size, halved until it fits into memory."""
    batch_size = config.global_batch_size
    while batch_size > SMALLEST_BATCH_SIZE:
        rate = _unless_out_of_memory(config, batch_size, image_size, num_classes, steps)
        if rate is not None:
            return rate
        batch_size //= 2
        gc.collect()
        if config.gpus_per_worker:
            torch.cuda.empty_cache()
    return _measure(config, batch_size, image_size, num_classes, steps)


def _unless_out_of_memory(config: TrainingConfig, batch_size: int, *sizes: Any) -> StepRate | None:
    try:
        return _measure(config, batch_size, *sizes)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            return None  # frees the error, whose frames hold tensors, before the next try
        raise


def _measure(config: TrainingConfig, batch_size: int, image_size: int, num_classes: int, steps: Steps) -> StepRate:
    config = dataclasses.replace(
        config, global_batch_size=batch_size, num_images=batch_size * steps.num_all, num_epochs=1
    )
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.set_num_threads(config.threads_per_worker)
    lightning.seed_everything(config.seed, verbose=False)
    classifier = Classifier(config, num_classes, image_size)
    prepare_network(classifier, config)
    clock = StepClock(steps)
    trainer = lightning.Trainer(
        max_steps=steps.num_all,
        accelerator="gpu" if config.gpus_per_worker else "cpu",
        devices=1,
        precision=config.precision,
        logger=False,
        callbacks=[clock],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(classifier, RandomBatches(config, image_size, num_classes))
    return StepRate(batch_size, clock.images_per_second(batch_size), clock.augmentation_fraction(), clock.peak_bytes)


class StepClock(lightning.Callback):
    """Times the steps, then the augmentation within the last steps."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.timed_seconds = self.inspected_seconds = 0.0
        self.peak_bytes = 0
        self.timers: list[Timer] = []
        self.started_at = 0.0

    def images_per_second(self, batch_size: int) -> float:
        """Return the rate of the timed steps."""
        return self.steps.num_timed * batch_size / self.timed_seconds

    def augmentation_fraction(self) -> float:
        """Return the fraction of the inspected steps spent in drawing random numbers and making crops."""
        return sum(timer.seconds for timer in self.timers) / self.inspected_seconds

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any, **__: Any
    ) -> None:
        """Start and stop the clock between the phases."""
        num_done = trainer.global_step
        last_timed = self.steps.num_warm + self.steps.num_timed
        if num_done not in (self.steps.num_warm, last_timed, self.steps.num_all):
            return
        wait_for_device()
        now = time.perf_counter()
        meter = MemoryMeter(pl_module.device)
        if num_done == self.steps.num_warm:
            meter.reset()
        elif num_done == last_timed:
            self.timed_seconds, self.peak_bytes = now - self.started_at, meter.peak_bytes()
            self.timers = [Timer(pl_module.augment, "forward"), Timer(pl_module, "_draws")]
        else:
            self.inspected_seconds = now - self.started_at
            for timer in self.timers:
                timer.remove()
        self.started_at = time.perf_counter()


class RandomBatches:
    """Random batches with the columns of `Classifier`, in pinned memory if a GPU is used."""

    def __init__(self, config: TrainingConfig, image_size: int, num_classes: int) -> None:
        random = torch.Generator().manual_seed(0)
        size, pins = config.global_batch_size, config.gpus_per_worker > 0
        self.num_steps = config.num_steps
        shape = (size, image_size, image_size, 3)
        images = [torch.randint(256, shape, dtype=torch.uint8, generator=random) for _ in range(NUM_BATCHES)]
        self.images = [batch.pin_memory() if pins else batch for batch in images]
        self.labels = torch.randint(num_classes, (size,), generator=random)

    def __len__(self) -> int:
        """Return the number of batches."""
        return self.num_steps

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield the batches; repeated images have an increasing number of uses."""
        size = len(self.labels)
        for step in range(self.num_steps):
            yield {
                "image": self.images[step % NUM_BATCHES],
                "label": self.labels,
                "serial": torch.arange(size),
                "use": torch.full((size,), step),
                "is_real": torch.zeros(size, dtype=torch.bool),
                "extent": torch.tensor(self.images[0].shape[1:3]).expand(size, 2),
            }
