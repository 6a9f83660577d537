"""How many images to make at once: found by trial, within the memory there is."""

import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

MAX_BATCH_SIZE = 256

ENOUGH = 0.95
"""The smallest batch with this share of the best rate is taken: a larger one holds memory and makes samples wait."""

MEMORY_FRACTION = 0.9
"""Of the memory that is free: allocators lose some of it in pieces too small to use."""

PROCESS = Path("/proc/self")
CONTAINER = Path("/sys/fs/cgroup")

OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""What errors say of it that have no class of their own."""


@dataclass(frozen=True)
class Trial:
    """What a batch size came to."""

    batch_size: int
    images_per_second: float
    peak_bytes: int
    """Of device memory, or of the process on a CPU; the model included."""

    def __str__(self) -> str:
        """Return the numbers in words."""
        return f"{self.batch_size}: {self.images_per_second:.3g} images/s, {self.peak_bytes / 1e9:.2f} GB"


def find_batch_size(try_batch: Callable[[int], Trial | None], usable_bytes: int) -> Trial:
    """Return the best of batch sizes 1, 2, 4, ...; `try_batch` returns None where memory did not suffice.

    Sizes grow until one brings less than half of what doubling could, would need more than the usable memory as far as
    the last two tell, or is `MAX_BATCH_SIZE`. Raises ValueError if not even one image fits.
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
        raise ValueError(one_image_too_many(usable_bytes))
    best = max(trial.images_per_second for trial in trials)
    chosen = next(trial for trial in trials if trial.images_per_second >= ENOUGH * best)
    logging.getLogger(__name__).info(
        "generation.batch_size found: %s of %.1f; tried %s",
        chosen,
        usable_bytes / 1e9,
        "; ".join(str(trial) for trial in trials),
    )
    return chosen


def _saturated(trials: list[Trial]) -> bool:
    """Return whether neither of the last two doublings brought much; one alone may be noise."""
    rates = [trial.images_per_second for trial in trials]
    return len(rates) > 2 and rates[-1] < rates[-3] / ENOUGH


def _expected_bytes(trials: list[Trial]) -> int:
    """Return what the next doubling should need: each image takes as much as those of the last one did."""
    if len(trials) < 2:
        return 0
    before, last = trials[-2].peak_bytes, trials[-1].peak_bytes
    return last + 2 * max(0, last - before)


def one_image_too_many(usable_bytes: int) -> str:
    """Return what to tell whose device cannot make a single image."""
    return (
        f"Not even one image fits into {usable_bytes / 1e9:.1f} GB of memory. Give a smaller recipe.generated_size, "
        "recipe.precision=float16, a tiny recipe.vae such as madebyollin/taesd, or a larger device."
    )


def is_out_of_memory(error: Exception) -> bool:
    """Return whether a device, or torch's allocator on the CPU, had no memory left.

    Sana's pipelines (diffusers 0.40) turn the error of their decoder into a warning, and end without an `image`.
    """
    if isinstance(error, UnboundLocalError) and "'image'" in str(error):
        return True
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        words in str(error) for words in OUT_OF_MEMORY
    )


class MemoryMeter:
    """The most memory in use since `reset`: of the device, or of this process on a CPU."""

    def __init__(self, device: torch.device, fraction: float = 1.0) -> None:
        """Take the device that is measured, and the share of it that this process may use."""
        self.device = device
        self.fraction = fraction

    def reset(self) -> None:
        """Forget earlier peaks."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        elif os.access(PROCESS / "clear_refs", os.W_OK):
            (PROCESS / "clear_refs").write_text("5")  # proc(5): resets the peak of resident memory

    def peak_bytes(self) -> int:
        """Return the most that was in use since."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        if not (PROCESS / "status").is_file():
            return psutil.Process().memory_info().rss
        status = (PROCESS / "status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def in_use_bytes(self) -> int:
        """Return what is in use now."""
        return torch.cuda.memory_allocated() if self.device.type == "cuda" else psutil.Process().memory_info().rss

    def usable_bytes(self) -> int:
        """Return how much may be in use without running out."""
        if self.device.type == "cuda":
            free, total = torch.cuda.mem_get_info()
            free = min(free, self.fraction * total - torch.cuda.memory_reserved())
            free += torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        else:
            free = min(psutil.virtual_memory().available, _free_in_container())
        return int(self.in_use_bytes() + MEMORY_FRACTION * free)


def _free_in_container() -> float:
    """Return how much memory the process's control group still has, in bytes."""
    limit, used = CONTAINER / "memory.max", CONTAINER / "memory.current"
    if not (limit.is_file() and used.is_file()) or limit.read_text().strip() == "max":
        return math.inf
    return int(limit.read_text()) - int(used.read_text())
