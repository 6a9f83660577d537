"""Measure size and time of the record of used samples in a checkpoint: `python -m benchmarks.consumption`.

In the first case, 10^7 samples arrived at one worker in blocks out of order, and the reservoir still holds the last
100,000. In the worst case, every second sample of 2 x 10^7 arrived. Exit status 1 if the first case misses a target.
"""

import io
import sys
import time

import numpy as np
import torch

from generation.indices import IndexSet
from ray_jobs.job.tables import print_table
from training.data.consumption import EMPTY_CONSUMPTION, Consumption, Ledger, Share, merged

NUM_SAMPLES = 10**7
BLOCK, NUM_OVERTAKEN = 32, 64
"""Number of samples in a block, and the largest delay of a block, counted in blocks."""

RESERVOIR_SIZE, REUSE = 100_000, 8
MAX_SECONDS, MAX_BYTES = 1.0, 10_000_000
"""Targets for the time to save the record and for its size."""


def main() -> None:
    """Measure both cases and print a table; exit status 1 if the first case misses a target."""
    (row, is_met), (worst, _) = measure("stream", streamed()), measure("worst case", scattered())
    columns = ("", "ranges", "begun", "merge and save, s", "load, s", "MB")
    print_table(f"{NUM_SAMPLES:,} samples used", columns, (row, worst))
    sys.exit(None if is_met else f"The stream missed its targets: {MAX_SECONDS:g} s to save, {MAX_BYTES / 1e6:g} MB.")


def streamed() -> Ledger:
    """Return the ledger of a worker that received blocks out of order and may use the last samples again."""
    random = np.random.Generator(np.random.Philox(key=0))
    blocks = np.argsort(np.arange(NUM_SAMPLES // BLOCK) + random.uniform(0, NUM_OVERTAKEN, NUM_SAMPLES // BLOCK))
    arrived = (blocks[:-NUM_OVERTAKEN, None] * BLOCK + np.arange(BLOCK)).ravel()
    return ledger_of(IndexSet.of(arrived), arrived[-RESERVOIR_SIZE:])


def scattered() -> Ledger:
    """Return the ledger of a worker that received every second sample and has used them up."""
    return ledger_of(IndexSet.of(np.arange(0, 2 * NUM_SAMPLES, 2)), np.zeros(0, np.int64))


def ledger_of(taken: IndexSet, begun: np.ndarray) -> Ledger:
    """Return a ledger of a worker that received the samples `taken` and may use the samples `begun` again."""
    ledger = Ledger(Share(taken, begun, np.full(len(begun), REUSE // 2, np.int32)), REUSE, REUSE)
    ledger.taken |= taken
    return ledger


def measure(name: str, ledger: Ledger) -> tuple[list[str], bool]:
    """Save and load the ledger's record; return the table row, and whether the targets are met."""
    started_at = time.perf_counter()
    state = merged(EMPTY_CONSUMPTION, [ledger.state()])
    file = io.BytesIO()
    torch.save(state.to_checkpoint(), file)
    saved_at = time.perf_counter()
    file.seek(0)
    loaded = Consumption.from_checkpoint(torch.load(file, weights_only=True))
    loaded_at = time.perf_counter()
    if loaded.taken != state.taken:
        sys.exit("The loaded state differs from the saved one.")
    size, seconds = file.getbuffer().nbytes, saved_at - started_at
    row = [name, f"{len(state.taken.starts):,}", f"{len(state.begun):,}"]
    row += [f"{seconds:.2f}", f"{loaded_at - saved_at:.2f}", f"{size / 1e6:.1f}"]
    return row, seconds < MAX_SECONDS and size < MAX_BYTES


if __name__ == "__main__":
    main()
