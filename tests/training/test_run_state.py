from pathlib import Path

import numpy as np
import pytest
import torch

from generation.engine.generator import GenerationFailedError
from training.data.consumption import EMPTY_CONSUMPTION
from training.data.loader import EndedTooSoonError
from training.fit import is_worker_loss
from training.model.classifier import NonFiniteLossError
from training.run_state import Journal, RunState, random_state, restore_random_state


def test_journal_continues_after_truncated_line(tmp_path: Path):
    Journal(tmp_path, 0, started_at=1.0).write(1, "synthetic", np.array([5, 6]), np.array([0, 2]))
    path = tmp_path / "rank-0.csv"
    path.write_bytes(path.read_bytes()[:-10])
    Journal(tmp_path, 0, started_at=2.0).write(1, "real", np.array([7]), np.array([0]))
    assert path.read_text().split() == [
        "started_at,step,domain,serial,use",
        "1.0,1,synthetic,5,0",
        "1.0,1,synth",
        "2.0,1,real,7,0",
    ]


def test_random_state_is_restored():
    torch.manual_seed(3)
    state = RunState({"synthetic": EMPTY_CONSUMPTION}, {"images in the set": 5}, (random_state(),), is_over=True)
    first = torch.rand(4)
    again = RunState.from_checkpoint(state.to_checkpoint())
    restore_random_state(again.random[0])
    assert torch.equal(torch.rand(4), first)
    assert (again.sets, again.is_over) == ({"images in the set": 5}, True)


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:545] Read error: Connection reset by peer"), True),
        (torch.distributed.DistBackendError("NCCL communicator was aborted"), True),
        (RuntimeError("shape '[3]' is invalid for input of size 4"), False),
        (EndedTooSoonError("The stream ended after 1 of 2 samples."), False),
        (NonFiniteLossError("The loss is nan"), False),
        (GenerationFailedError("No actor was up"), False),
    ],
)
def test_worker_losses_are_distinguished_from_errors(error: Exception, is_one: bool):
    assert is_worker_loss(error) == is_one
