"""A shortened run of the demo, and a copy of it that looks interrupted."""

import contextlib
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_jobs import train
from tests.support.commands import call
from tests.support.settings import CONFIGS
from training.checkpoint import checkpoint_name

DEMO = str(CONFIGS / "digits.yaml")
SHORTENED = [
    *("training.num_images=2048", "training.global_batch_size=32", "training.num_epochs=2", "training.num_held_out=64")
]
"""An eighth of the images in batches of half the size: 64 steps."""


@dataclass(frozen=True)
class TrainedRun:
    """A finished run and its output."""

    folder: Path
    log: str
    files: frozenset[str]
    """File names in its folder at the end."""

    @property
    def summary(self) -> dict[str, Any]:
        """Return its summary.json."""
        return json.loads((self.folder / "summary.json").read_text())


def train_demo(folder: Path) -> TrainedRun:
    """Train with the demo's config on an eighth of its images."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        call(train, DEMO, *SHORTENED, f"output={folder}")
    return TrainedRun(folder, printed.getvalue(), frozenset(path.name for path in folder.iterdir()))


def interrupted_copy(run: TrainedRun, folder: Path) -> Path:
    """Copy a run in the state after a kill that followed the second of two checkpoints."""
    shutil.copytree(run.folder, folder)
    (folder / "summary.json").unlink()
    (folder / "checkpoints").mkdir()
    for step in (32, 64):
        shutil.copy(folder / "checkpoint.ckpt", folder / "checkpoints" / checkpoint_name(step))
    (folder / "checkpoint.ckpt").unlink()
    return folder
