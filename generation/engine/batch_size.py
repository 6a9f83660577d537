"""The batch size of a generator: found by trial within the available memory."""

import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

MAX_BATCH_SIZE = 256

NEAR_BEST_FRACTION = 0.95
"""The smallest batch with this share of the best rate is used; larger batches cost memory and latency."""

MEMORY_FRACTION = 0.9
"""Usable share of the free memory; allocators lose the rest to fragmentation."""

PROCESS = Path("/proc/self")
CONTAINER = Path("/sys/fs/cgroup")

OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""Texts of out-of-memory errors that have no class of their own."""


@dataclass(frozen=True)
class Trial:
    """The measured speed and memory of a batch size."""

    batch_size: int
    images_per_second: float
    peak_bytes: int
    """Peak device memory, or memory of the process on a CPU, including the model."""

    def __str__(self) -> str:
        """Return one line for the log."""
        return f"{self.batch_size}: {self.images_per_second:.3g} images/s, {self.peak_bytes / 1e9:.2f} GB"


def find_batch_size(try_batch: Callable[[int], Trial | None], usable_bytes: int) -> Trial:
    """Return the best of batch sizes 1, 2, 4, ...; `try_batch` returns None if a batch does not fit into memory.

    Sizes grow until the last two doublings gained almost nothing, the next size is expected to exceed the usable
    memory, or `MAX_BATCH_SIZE` is reached. Raises ValueError if not even one image fits.
    """
    trials: list[Trial] = []
    batch_size = 1
    while batch_size <= MAX_BATCH_SIZE and not _saturated(trials) and _expected_bytes(trials) <= usable_bytes:
        trial = try_batch(batch_size)
        if trial is None:
            break
        trials.append(trial)
        batch_size *= 2
    if not trials:
        raise ValueError(no_image_fits(usable_bytes))
    best = max(trial.images_per_second for trial in trials)
    chosen = next(trial for trial in trials if trial.images_per_second >= NEAR_BEST_FRACTION * best)
    logging.getLogger(__name__).info(
        "generation.batch_size: chose %s (%.1f GB usable); tried %s",
        chosen,
        usable_bytes / 1e9,
        "; ".join(str(trial) for trial in trials),
    )
    return chosen


def _saturated(trials: list[Trial]) -> bool:
    """Return whether the last two doublings together gained almost nothing; a single one may be noise."""
    rates = [trial.images_per_second for trial in trials]
    return len(rates) > 2 and rates[-1] < rates[-3] / NEAR_BEST_FRACTION


def _expected_bytes(trials: list[Trial]) -> int:
    """Return the expected memory of the next size, by the last doubling's memory per image; 0 while unknown."""
    if len(trials) < 2:
        return 0
    before, last = trials[-2].peak_bytes, trials[-1].peak_bytes
    return last + 2 * max(0, last - before)


def no_image_fits(usable_bytes: int) -> str:
    """Return the error message for a device that cannot make a single image."""
    return (
        f"Not even one image fits into {usable_bytes / 1e9:.1f} GB of memory. Use a smaller recipe.generated_size, "
        "recipe.precision=float16, a tiny recipe.vae such as madebyollin/taesd, or a device with more memory."
    )


def is_out_of_memory(error: Exception) -> bool:
    """Return whether the error means that a GPU, or torch's CPU allocator, ran out of memory.

    Sana's pipelines (diffusers 0.40) turn their decoder's out-of-memory error into a warning and then fail because
    `image` is not assigned.
    """
    if isinstance(error, UnboundLocalError) and "'image'" in str(error):
        return True
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        words in str(error) for words in OUT_OF_MEMORY
    )


class MemoryMeter:
    """Measures memory in use and its peak since `reset`: of a GPU, or of this process on a CPU."""

    def __init__(self, device: torch.device, fraction: float = 1.0) -> None:
        """Take the device, and the share of its memory that this process may use."""
        self.device = device
        self.fraction = fraction

    def reset(self) -> None:
        """Reset the peak."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        elif os.access(PROCESS / "clear_refs", os.W_OK):
            (PROCESS / "clear_refs").write_text("5")  # proc(5): resets the peak of resident memory

    def peak_bytes(self) -> int:
        """Return the peak since `reset`, in bytes."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        if not (PROCESS / "status").is_file():
            return psutil.Process().memory_info().rss
        status = (PROCESS / "status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def in_use_bytes(self) -> int:
        """Return the memory in use now, in bytes."""
        return torch.cuda.memory_allocated() if self.device.type == "cuda" else psutil.Process().memory_info().rss

    def usable_bytes(self) -> int:
        """Return the total that this process can use without running out, in bytes."""
        if self.device.type == "cuda":
            free, total = torch.cuda.mem_get_info()
            free = min(free, self.fraction * total - torch.cuda.memory_reserved())
            free += torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        else:
            free = min(psutil.virtual_memory().available, _free_in_container())
        return int(self.in_use_bytes() + MEMORY_FRACTION * free)


def _free_in_container() -> float:
    """Return the memory left in the process's control group, in bytes; infinite without a limit."""
    limit, used = CONTAINER / "memory.max", CONTAINER / "memory.current"
    if not (limit.is_file() and used.is_file()) or limit.read_text().strip() == "max":
        return math.inf
    return int(limit.read_text()) - int(used.read_text())
