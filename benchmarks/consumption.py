"""What a run's place among its samples costs in a checkpoint: `python -m benchmarks.consumption`.

10^7 samples have come to one worker in blocks that overtake each other, and a reservoir holds the last of them; and, as
the worst that can be, every other one of 2 x 10^7 has come.
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
"""Samples that come together, and by how many blocks one may be late."""

RESERVOIR_SIZE, REUSE = 100_000, 8
MAX_SECONDS, MAX_BYTES = 1.0, 10_000_000
"""Targets."""


def main() -> None:
    """Measure both, print a table, and end with a status."""
    (row, is_met), (worst, _) = measure("stream", streamed()), measure("worst case", scattered())
    columns = ("", "ranges", "begun", "merge and save, s", "load, s", "MB")
    print_table(f"{NUM_SAMPLES:,} samples used", columns, (row, worst))
    sys.exit(None if is_met else "The stream missed its targets: 1 s to save, 10 MB.")


def streamed() -> Ledger:
    """Return the ledger of a worker to which blocks came out of order, the last of them still in use."""
    random = np.random.Generator(np.random.Philox(key=0))
    blocks = np.argsort(np.arange(NUM_SAMPLES // BLOCK) + random.uniform(0, NUM_OVERTAKEN, NUM_SAMPLES // BLOCK))
    came = (blocks[:-NUM_OVERTAKEN, None] * BLOCK + np.arange(BLOCK)).ravel()
    return ledger_of(IndexSet.of(came), came[-RESERVOIR_SIZE:])


def scattered() -> Ledger:
    """Return the ledger of a worker to which no two neighbours came."""
    return ledger_of(IndexSet.of(np.arange(0, 2 * NUM_SAMPLES, 2)), np.zeros(0, np.int64))


def ledger_of(taken: IndexSet, begun: np.ndarray) -> Ledger:
    """Return a ledger in which these have come, and some may be used again."""
    ledger = Ledger(Share(taken, begun, np.full(len(begun), REUSE // 2, np.int32)), REUSE, REUSE)
    ledger.taken |= taken
    return ledger


def measure(name: str, ledger: Ledger) -> tuple[list[str], bool]:
    """Return a row, and whether the targets are met."""
    started_at = time.perf_counter()
    state = merged(EMPTY_CONSUMPTION, [ledger.state()])
    file = io.BytesIO()
    torch.save(state.to_checkpoint(), file)
    saved_at = time.perf_counter()
    file.seek(0)
    again = Consumption.from_checkpoint(torch.load(file, weights_only=True))
    loaded_at = time.perf_counter()
    if again.taken != state.taken:
        sys.exit("What was saved is not what was loaded.")
    size, seconds = file.getbuffer().nbytes, saved_at - started_at
    row = [name, f"{len(state.taken.starts):,}", f"{len(state.begun):,}"]
    row += [f"{seconds:.2f}", f"{loaded_at - saved_at:.2f}", f"{size / 1e6:.1f}"]
    return row, seconds < MAX_SECONDS and size < MAX_BYTES


if __name__ == "__main__":
    main()
