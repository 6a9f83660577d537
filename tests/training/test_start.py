"""Where a run goes on."""

from pathlib import Path

import torch

from training.start import choose_checkpoint


def test_what_a_killed_worker_left_half_written_goes_and_a_damaged_checkpoint_is_set_aside(tmp_path: Path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    whole = {"classifier": {}, "recipe": {}, "run": {}, "state_dict": {}}
    torch.save(whole, folder / "step-000000000004.ckpt")
    (folder / "step-000000000008.ckpt").write_bytes(b"half")
    for name in ("checkpoints/.writing-step-000000000012.ckpt-1f", ".writing-best.ckpt-2f", "best.ckpt"):
        (tmp_path / name).write_bytes(b"half")
    assert choose_checkpoint(folder) == folder / "step-000000000004.ckpt"
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "best.ckpt",
        "step-000000000004.ckpt",
        "step-000000000008.damaged",
    ]
