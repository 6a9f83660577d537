"""State of a run in its checkpoints besides weights: used samples and random states.

A sample counts as used once an optimization step has used it. Uses neither Lightning nor Ray.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from generation.files import name_in_errors
from training.data.consumption import EMPTY_CONSUMPTION, Consumption

JOURNAL_COLUMNS = ("started_at", "step", "domain", "serial", "use")


@dataclass(frozen=True)
class RunState:
    """State of a run between two optimization steps."""

    consumption: Mapping[str, Consumption]
    """Used samples by domain: `synthetic`, and `real` if real images are mixed in."""

    sets: Mapping[str, int]
    """The data sets that serials count in, from `training.job.sets_of`."""

    random: tuple[torch.Tensor, ...] = ()
    """State of torch's random generators per worker, from `random_state`."""

    is_over: bool = False
    """Whether early stopping has ended the run."""

    def of(self, domain: str) -> Consumption:
        """Return the used samples of a domain."""
        return self.consumption.get(domain, EMPTY_CONSUMPTION)

    def to_checkpoint(self) -> dict[str, Any]:
        """Return tensors and plain data."""
        return {
            "consumption": {domain: state.to_checkpoint() for domain, state in self.consumption.items()},
            "sets": dict(self.sets),
            "random": list(self.random),
            "is_over": self.is_over,
        }

    @staticmethod
    def from_checkpoint(saved: dict[str, Any]) -> "RunState":
        """Return the state that `to_checkpoint` wrote."""
        consumption = {domain: Consumption.from_checkpoint(state) for domain, state in saved["consumption"].items()}
        return RunState(consumption, saved["sets"], tuple(saved["random"]), saved["is_over"])


def random_state() -> torch.Tensor:
    """Return the state of this process's torch generators, uint8: the CPU's, followed by the GPU's if it has one."""
    states = [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_available() else [])]
    return torch.cat(states)


def restore_random_state(state: torch.Tensor) -> None:
    """Restore the state from `random_state`; a GPU whose state is missing keeps its own."""
    num_bytes = len(torch.get_rng_state())
    torch.set_rng_state(state[:num_bytes])
    if torch.cuda.is_available() and len(state) > num_bytes:
        torch.cuda.set_rng_state(state[num_bytes:])


class Journal:
    """One worker's log of the samples and use numbers of each step; later entries of a step replace earlier entries."""

    def __init__(self, folder: Path, rank: int, started_at: float) -> None:
        """Open the worker's file for appending. `started_at`, equal on all workers, identifies this start."""
        folder.mkdir(exist_ok=True)
        path = folder / f"rank-{rank}.csv"
        before = path.read_bytes() if path.exists() else b""
        self.file: TextIO = path.open("a", newline="")
        self.writer = csv.writer(self.file)
        self.started_at = started_at
        if not before:
            self.writer.writerow(JOURNAL_COLUMNS)
        elif not before.endswith(b"\n"):  # truncated by a kill
            self.file.write("\r\n")

    def write(self, step: int, domain: str, serials: np.ndarray, uses: np.ndarray) -> None:
        """Write and flush a row per sample."""
        rows = zip(serials.tolist(), uses.tolist(), strict=True)
        with name_in_errors(Path(self.file.name)):
            self.writer.writerows((self.started_at, step, domain, serial, use) for serial, use in rows)
            self.file.flush()
