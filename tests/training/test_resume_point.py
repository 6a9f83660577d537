"""Choice of the checkpoint to resume from."""

from pathlib import Path

import torch

from training.resume import choose_checkpoint


def test_damaged_checkpoint_is_renamed_and_partial_files_are_deleted(tmp_path: Path):
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
