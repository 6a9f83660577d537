"""What a run's place among its samples costs in a checkpoint: `python -m benchmarks.consumption`.

10^7 samples have come to one worker in blocks that overtake each other, and a reservoir holds the last of them; and, as
the worst that can be, every other one of 2 x 10^7 has come.
"""

import io
import sys
import time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from generation.indices import IndexSet
from training.data.consumption import NOT_BEGUN, Consumption, Ledger, Share, merged

NUM_SAMPLES = 10**7
BLOCK, NUM_OVERTAKEN = 32, 64
"""Samples that come together, and by how many blocks one may be late."""

RESERVOIR_SIZE, REUSE = 100_000, 8
MAX_SECONDS, MAX_BYTES = 1.0, 10_000_000
"""Targets."""


def main() -> None:
    """Measure both, print a table, and end with a status."""
    table = Table(title=f"{NUM_SAMPLES:,} samples used")
    for column in ("", "ranges", "begun", "merge and save, s", "load, s", "MB"):
        table.add_column(column, justify="right" if column else "left")
    is_met = [measure(table, name, ledger) for name, ledger in (("stream", streamed()), ("worst case", scattered()))]
    Console(width=120).print(table)
    sys.exit(None if is_met[0] else "The stream missed its targets: 1 s to save, 10 MB.")


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


def measure(table: Table, name: str, ledger: Ledger) -> bool:
    """Add a row, and return whether the targets are met."""
    started_at = time.perf_counter()
    state = merged(NOT_BEGUN, [ledger.state()])
    file = io.BytesIO()
    torch.save(state.to_checkpoint(), file)
    saved_at = time.perf_counter()
    file.seek(0)
    again = Consumption.from_checkpoint(torch.load(file, weights_only=True))
    loaded_at = time.perf_counter()
    if again.taken != state.taken:
        sys.exit("What was saved is not what was loaded.")
    size, seconds = file.getbuffer().nbytes, saved_at - started_at
    row = (len(state.taken.starts), len(state.begun))
    table.add_row(name, *(f"{n:,}" for n in row), f"{seconds:.2f}", f"{loaded_at - saved_at:.2f}", f"{size / 1e6:.1f}")
    return seconds < MAX_SECONDS and size < MAX_BYTES


if __name__ == "__main__":
    main()
