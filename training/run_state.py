"""State of a run in its checkpoints besides weights: used samples and random states.

A sample counts as used once an optimization step has used it. Uses Lightning but no Ray, whatever the samples' source.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import lightning
import numpy as np
import torch
import torch.distributed

from generation.files import name_in_errors
from training.data.consumption import EMPTY_CONSUMPTION, Consumption, merged
from training.data.loader import StreamLoader
from training.data.reservoir import Batch

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


class CommitCallback(lightning.Callback):
    """Counts samples as used after each optimizer step, and writes the run's state into checkpoints."""

    def __init__(self, loaders: Mapping[str, StreamLoader], before: RunState, journal: "Journal | None") -> None:
        self.loaders = loaders
        """Loaders by domain."""

        self.before = before
        """State of the run when all workers started."""

        self.journal = journal
        self.pending: list[Batch] = []
        self.step = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Restore the random state, unless the number of workers has changed."""
        self.step = trainer.global_step
        if len(self.before.random) == trainer.world_size:
            restore_random_state(self.before.random[trainer.global_rank])

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Commit all batches of a step after its optimizer step."""
        self.pending.append(batch)
        if trainer.global_step == self.step:
            return
        self.step = trainer.global_step
        for each in self.pending:
            serials, uses, is_real = (each[name].numpy() for name in ("serial", "use", "is_real"))
            for domain, loader in self.loaders.items():
                rows = is_real if domain == "real" else ~is_real
                loader.commit(serials[rows])
                if self.journal:
                    self.journal.write(self.step, domain, serials[rows], uses[rows])
        self.pending = []

    def on_save_checkpoint(self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Add the used samples of all workers; each of them calls this at the same step."""
        mine = ({domain: loader.state() for domain, loader in self.loaders.items()}, random_state())
        of_workers = [mine] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(of_workers, mine)
        consumption = {
            domain: merged(self.before.of(domain), [state[domain] for state, _ in of_workers])
            for domain in self.loaders
        }
        random = tuple(random for _, random in of_workers)
        state = RunState(consumption, self.before.sets, random, trainer.should_stop)
        checkpoint["run"] = state.to_checkpoint()


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
