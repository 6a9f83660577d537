"""A pool on a cluster whose nodes, local processes, are started and stopped by Ray's autoscaler."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from generation.recipes.model_files import PROJECT_ROOT
from tests.support.autoscaled import GENERATORS, IDLE_MINUTES, LOCAL, autoscaled_cluster


@pytest.mark.ray
@pytest.mark.nightly
def test_nodes_follow_the_trainer(
    tmp_path: Path,
):
    """Ray Data's actor pools stay at one actor while nodes have to start first (ray#59144), and keep the slots of
    preempted actors (ray#62746).
    """
    with autoscaled_cluster({"generator": GENERATORS}, IDLE_MINUTES) as address:
        subprocess.run(
            [sys.executable, "-m", "tests.support.autoscaled_run", str(tmp_path / "phases.json")],
            env=os.environ | LOCAL | {"RAY_ADDRESS": address},
            cwd=PROJECT_ROOT,
            timeout=240,
            check=True,
        )
    phases = json.loads((tmp_path / "phases.json").read_text())
    assert phases == {"before": [0, 0], "one": [1, 1], "starving": [4, 4], "preempted": [4, 4], "paused": [0, 0]}
