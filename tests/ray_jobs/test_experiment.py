"""Experiments on a real local cluster: painted generators and a tiny classifier."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ray_jobs import experiment
from tests.support.commands import call
from tests.support.settings import PAINTED

CONFIG = f"""
base: {PAINTED}
recipe: {{image_size: 16}}
generation: {{batch_size: 16, cpus_per_actor: 0.1}}
training:
  architecture: timm/resnet10t
  num_images: 128
  num_epochs: 2
  num_held_out: 16
  global_batch_size: 32
  cpus_per_worker: 0.25
evaluation: {{sets: []}}
"""
TWO_ARMS = """
arms:
  plain: []
  mixed: ["training.real_images={folder}", training.real_fraction=0.25]
seeds: [0]
"""


def results(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Return the learners in results.json by folder."""
    return {each["folder"]: each for each in json.loads((run_dir / "results.json").read_text())["learners"]}


def write_images(folder: Path) -> Path:
    """Write two real images, of which the second cannot be read, and return that one."""
    for name in ("zero", "one"):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (16, 16), "white").save(folder / name / "a.png")
    (folder / "one" / "a.png").write_bytes(b"damaged")
    return folder / "one" / "a.png"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_failed_run_ends_no_other_and_is_resumed_alone(tmp_path: Path, capsys):
    damaged = write_images(tmp_path / "real")
    config, run_dir = tmp_path / "two.yaml", tmp_path / "out"
    config.write_text(CONFIG + TWO_ARMS.format(folder=tmp_path / "real"))
    with pytest.raises(SystemExit) as ended:
        call(experiment, str(config), f"output={run_dir}")
    assert ended.value.code == 1
    printed = capsys.readouterr().out
    (failed,) = [line for line in printed.splitlines() if "mixed, seed 0 failed: " in line]
    assert "one/a.png" in failed
    assert "plain, seed 0: epoch 2 of 2, held-out top-1" in printed
    found = results(run_dir)
    assert {name: each["status"] for name, each in found.items()} == {
        "plain/seed-0": "finished",
        "mixed/seed-0": "failed",
    }
    assert found["plain/seed-0"]["summary"]["num_trained"] == 128

    Image.new("RGB", (16, 16), "white").save(damaged)
    summary = run_dir / "plain" / "seed-0" / "summary.json"
    written_at = summary.stat().st_mtime_ns
    call(experiment, str(config), f"output={run_dir}", "resume=true")
    assert summary.stat().st_mtime_ns == written_at
    found = results(run_dir)
    assert [each["status"] for each in found.values()] == ["finished", "finished"]
    assert found["mixed/seed-0"]["overrides"] == [
        f"training.real_images={tmp_path / 'real'}",
        "training.real_fraction=0.25",
    ]
    assert sorted(path.name for path in run_dir.iterdir()) == [
        *("config-2.yaml", "config.yaml", "mixed", "plain", "results.json")
    ]
    assert {path.name for path in (run_dir / "mixed" / "seed-0").iterdir()} >= {
        *("checkpoint.ckpt", "config.yaml", "recipe.json", "report.html", "samples.png", "spent.csv", "summary.json")
    }
