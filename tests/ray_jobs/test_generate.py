"""Generating, extending, repairing and training on data sets, on a real local cluster."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest

from generation.recipes.model_files import PROJECT_ROOT
from ray_jobs import generate, train
from tests.support.commands import call, error_line, printed
from tests.support.mounts import enlarge, mounted, needs_mounts
from tests.support.s3 import serve_s3
from tests.support.settings import KEEPING, PAINTED


def files_in(folder: Path) -> dict[str, bytes]:
    """Return the shards, with their indices, below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".tar", ".parquet")
    }


def times_in(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_mtime_ns for name in files_in(folder)}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.nightly
def test_damaged_and_missing_shards_are_regenerated_to_the_byte(tmp_path: Path, capsys):
    folder, settings = tmp_path / "set", [*KEEPING, "training.num_images=128", f"output={tmp_path / 'set'}"]
    call(generate, PAINTED, *settings)
    whole, before = files_in(folder), times_in(folder)
    assert len(whole) == 2 * (1 + 4)  # shards and their indices, of held-out and of training images
    spoilt = bytearray(whole["shard-000001.tar"])
    spoilt[pq.read_table(folder / "index" / "shard-000001.parquet").to_pylist()[3]["offset"] + 40] ^= 1
    (folder / "shard-000001.tar").write_bytes(spoilt)
    (folder / "shard-000002.tar").unlink()
    assert "shard 1 is damaged: sample " in printed(generate, capsys, PAINTED, "--verify", *settings)
    assert files_in(folder) == whole
    assert times_in(folder)["shard-000000.tar"] == before["shard-000000.tar"]
    assert "nothing to generate" in printed(generate, capsys, PAINTED, *settings)
    line = error_line(generate, capsys, PAINTED, *settings, "recipe.seed=1")
    assert "contains a different data set: recipe.seed is 0 in the data set, 1 in this job" in line
    assert files_in(folder) == whole


@pytest.mark.ray
@pytest.mark.nightly
@pytest.mark.usefixtures("ray_cluster")
def test_data_set_is_generated_extended_checked_and_repaired(tmp_path: Path, capsys):
    folder, at_once = tmp_path / "set", tmp_path / "at_once"
    call(generate, PAINTED, *KEEPING, "training.num_images=128", f"output={folder}")
    assert list(files_in(folder)) == [
        "held_out/index/shard-000000.parquet",
        "held_out/shard-000000.tar",
        *(f"index/shard-00000{number}.parquet" for number in range(4)),
        *(f"shard-00000{number}.tar" for number in range(4)),
    ]
    card = (folder / "README.md").read_text()
    assert "# 128 generated images of 10 classes" in card
    assert "| images refused by the guard | 0 |" in card
    assert (folder / "samples.png").read_bytes().startswith(b"\x89PNG")

    before = times_in(folder)
    capsys.readouterr()
    call(generate, PAINTED, *KEEPING, "training.num_images=128", f"output={folder}")
    assert "nothing to generate" in capsys.readouterr().out
    call(generate, PAINTED, *KEEPING, "training.num_images=320", f"output={folder}")
    assert len(files_in(folder)) == 2 + 20
    assert {name: time for name, time in times_in(folder).items() if name in before} == before
    call(generate, PAINTED, *KEEPING, "training.num_images=320", f"output={at_once}")
    whole = files_in(at_once)
    assert files_in(folder) == whole

    (folder / "shard-000003.tar").write_bytes(whole["shard-000003.tar"][:5000])
    index = pq.read_table(folder / "index" / "shard-000007.parquet").to_pylist()
    spoilt = bytearray(whole["shard-000007.tar"])
    spoilt[index[3]["offset"] + 40] ^= 1
    (folder / "shard-000007.tar").write_bytes(spoilt)
    (folder / "shard-000008.tar").unlink()
    (folder / "held_out" / "index" / "shard-000000.parquet").write_bytes(b"")
    remade = {"shard-000003", "shard-000007", "shard-000008", "held_out/shard-000000"}
    before = times_in(folder)
    capsys.readouterr()
    call(generate, PAINTED, "--verify", *KEEPING, "training.num_images=320", f"output={folder}")
    out = capsys.readouterr().out
    assert "shard 3 is damaged: shard-000003.tar " in out
    assert f"shard 7 is damaged: sample {index[3]['index']}: the image does not match its SHA-256" in out
    assert files_in(folder) == whole
    after = times_in(folder)
    changed = {name for name in after if before.get(name) != after[name]}
    assert {name.replace("index/", "").rpartition(".")[0] for name in changed} == remade

    (folder / "shard-000008.tar").unlink()
    capsys.readouterr()
    call(generate, PAINTED, *KEEPING, "training.num_images=128", f"output={folder}")
    assert "nothing to generate" in capsys.readouterr().out  # of these 128, in a set planned for 320
    assert not (folder / "shard-000008.tar").exists()
    (folder / "shard-000008.tar").write_bytes(whole["shard-000008.tar"])

    line = error_line(generate, capsys, PAINTED, *KEEPING, "recipe.seed=1", f"output={folder}")
    assert "contains a different data set: recipe.seed is 0 in the data set, 1 in this job" in line
    assert files_in(folder) == whole


SLOWLY = [*KEEPING, "training.num_images=640", "generation.painted_batch_seconds=0.3"]


@pytest.mark.ray
@pytest.mark.nightly
@pytest.mark.usefixtures("ray_cluster")
def test_rerun_after_a_killed_driver_gives_the_bytes_of_an_undisturbed_run(tmp_path: Path, capsys):
    folder, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    driver = subprocess.Popen(
        [sys.executable, "-m", "ray_jobs.generate", PAINTED, *SLOWLY, f"output={folder}"], cwd=PROJECT_ROOT
    )
    give_up_at = time.monotonic() + 120
    while len(list(folder.glob("index/*"))) < 3 and time.monotonic() < give_up_at:
        time.sleep(0.05)
    second = error_line(generate, capsys, PAINTED, *SLOWLY, f"output={folder}")
    assert f"Another job is using '{folder}'" in second
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    time.sleep(2)  # until its actors have ended
    assert 3 <= len(list(folder.glob("index/*"))) < 20
    call(generate, PAINTED, *KEEPING, "training.num_images=640", f"output={folder}")
    call(generate, PAINTED, *KEEPING, "training.num_images=640", f"output={undisturbed}")
    assert files_in(folder) == files_in(undisturbed)
    assert list(folder.rglob(".writing-*")) == []


@needs_mounts
@pytest.mark.ray
@pytest.mark.nightly
@pytest.mark.usefixtures("ray_cluster")
def test_full_disk_is_one_line_and_a_rerun_generates_the_rest(tmp_path: Path, capsys):
    small, undisturbed = tmp_path / "small", tmp_path / "undisturbed"
    settings = [*KEEPING, "training.num_images=640"]
    call(generate, PAINTED, *settings, f"output={undisturbed}")
    whole = files_in(undisturbed)
    with mounted(small, f"size={sum(map(len, whole.values())) // 2}"):
        line = error_line(generate, capsys, PAINTED, *settings, f"output={small}")
        assert "No space left on device" in line
        assert "Free disk space and run again: complete files are kept" in line
        kept = {name: content for name, content in files_in(small).items() if name in whole}
        assert kept.items() <= whole.items()
        assert list(small.rglob(".writing-*")) == []
        line = error_line(train, capsys, PAINTED, *settings, f"data.tee={small}", f"output={tmp_path}/run")
        assert "No space left on device" in line
        enlarge(small, "64m")
        before = {name: time for name, time in times_in(small).items() if name.endswith(".parquet")}
        call(generate, PAINTED, *settings, f"output={small}")
        assert files_in(small) == whole
        assert times_in(small).items() >= before.items()  # shards with an index are complete and not regenerated


@pytest.mark.ray
@pytest.mark.nightly
@pytest.mark.usefixtures("ray_cluster")
def test_tee_on_s3_equals_a_generated_set_and_trains_again(tmp_path: Path, monkeypatch):
    settings = [*KEEPING, "training.num_images=128"]
    call(generate, PAINTED, *settings, f"output={tmp_path / 'generated'}")
    with serve_s3("bucket") as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        call(train, PAINTED, *settings, f"output={tmp_path / 'teed'}", "data.tee=s3://bucket/a/set")
        store = fsspec.filesystem("s3", endpoint_url=environment["AWS_ENDPOINT_URL"])
        store.get("s3://bucket/a/set/", f"{tmp_path / 'fetched'}/", recursive=True)
        assert files_in(tmp_path / "fetched") == files_in(tmp_path / "generated")
        assert (tmp_path / "fetched" / "README.md").is_file()
        from_shards = ["data.source=shards", "data.shards=s3://bucket/a/set"]
        call(train, PAINTED, *settings, *from_shards, f"output={tmp_path / 'replayed'}")
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("teed", "replayed")]
    assert [summary["num_trained"] for summary in summaries] == [128, 128]
    assert [summary["num_generated"] for summary in summaries] == [128 + 32 + 20, 0]  # 24 held out, in whole batches
    assert summaries[1]["held_out_top1"] is not None


@pytest.mark.ray
@pytest.mark.nightly
@pytest.mark.usefixtures("ray_cluster")
def test_unusable_shards_are_one_line(tmp_path: Path, capsys):
    folder = tmp_path / "set"
    settings = [*KEEPING, "training.num_images=64", "data.source=shards", f"data.shards={folder}"]
    assert "has no data set. Generate it with" in error_line(train, capsys, PAINTED, *settings, f"output={tmp_path}/r")
    call(generate, PAINTED, *KEEPING, "training.num_images=64", f"output={folder}")
    line = error_line(train, capsys, PAINTED, *settings, "recipe.seed=5", f"output={tmp_path}/r")
    assert "recipe.seed is 0 in the data set, 5 in this job" in line
    more = "training.num_held_out=100"
    line = error_line(train, capsys, PAINTED, *settings, more, f"output={tmp_path}/r")
    assert "has 24 held-out images, but training.num_held_out is 100" in line
    (folder / "shard-000001.tar").write_bytes((folder / "shard-000001.tar").read_bytes()[:5000])
    line = error_line(train, capsys, PAINTED, *settings, f"output={tmp_path}/cut")
    assert "shard-000001.tar: sample " in line
    assert "the image does not match its SHA-256" in line
    assert "Repair it with ray_jobs.generate --verify" in line
    (folder / "shard-000001.tar").unlink()
    line = error_line(train, capsys, PAINTED, *settings, f"output={tmp_path}/r")
    assert "lacks 1 of the 2 shards needed" in line
