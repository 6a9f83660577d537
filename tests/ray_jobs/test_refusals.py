"""A user's mistake ends a command with exit status 2 and one line with the value and the remedy."""

import shutil
from pathlib import Path
from types import ModuleType

import pytest

from generation.recipes.model_files import PROJECT_ROOT
from ray_jobs import compare, evaluate, experiment, gallery, generate, regenerate, scale, train
from tests.support.commands import error_line, forbid_cluster, prepared
from tests.support.s3 import free_port
from tests.support.settings import CONFIGS, PAINTED

SCALE = str(CONFIGS / "scale.yaml")

DIGITS = ["recipe.generator=diffusers", f"recipe.model={PROJECT_ROOT / 'generation' / 'digits' / 'model'}"]

REFUSED = [
    (train, ["recipe.sede=1"], "Did you mean recipe.seed"),
    (train, ["recipe.image_size=30"], "Try 24"),
    (train, ["recipe.generator=diffusers", "recipe.model=no/such/model"], "not an existing file or folder"),
    (train, ["recipe.check=no/such.ckpt"], "recipe.check is 'no/such.ckpt', which is no file"),
    (train, ["recipe.keep_above=0.5"], "recipe.keep_above is 0.5, but recipe.check is empty"),
    (train, ["training.weight_by_score=true"], "weight_by_score is True, but no model scores the images"),
    (train, ["training.architecture=resnet51"], "'resnet51'"),
    (
        train,
        ["training.deterministic=true", "generation.batch_sizes={{L4: 8}}"],
        "Set generation.batch_size and leave batch_sizes out",
    ),
    (
        train,
        [*DIGITS, "training.deterministic=true", "generation.batch_size=0"],
        "Set generation.batch_size and leave batch_sizes out",
    ),
    (train, ["checkpoint=run/checkpoint.ckpt"], "checkpoint is 'run/checkpoint.ckpt', but training does not read it"),
    (train, ["output="], "The folder's path is empty. Choose another folder with output="),
    (train, ["evaluation.sets=[mine]", "evaluation.paths.mine="], "Add evaluation.paths.mine=FOLDER"),
    (train, ["output={taken}"], "already contains files"),
    (train, ["output=/proc/figment"], "cannot be written"),
    (train, ["output={taken}", "resume=true"], "contains no run to resume"),
    (generate, ["output=s3://bucket/set"], "cannot be listed"),
    (generate, ["output={taken}"], "has files but no manifest.json"),
    (generate, ["data.image_format=jpg"], "data.quality is 0; use 1 to 100 for jpg"),
    (generate, ["generation.compile=true", "generation.batch_size=0"], "Set generation.batch_size"),
    (generate, ["generation.batch_sizes={{L4: 8}}"], "Use generation.batch_size instead"),
    (
        generate,
        ["data.shard_size=100", "generation.batch_size=16"],
        "data.shard_size is 100, which is not a multiple of the batch",
    ),
    (generate, ["--check"], "No such option '--check'"),
    (experiment, ["arms={{a: [training.sede=1]}}"], "arm 'a': There is no setting 'training.sede'. Did you mean"),
    (experiment, ["arms={{a: [], b: []}}"], "The arms 'a' and 'b' have the same settings"),
    (experiment, ["arms={{a: [training.architecture=resnet51]}}"], "a, seed 0: "),
    (experiment, ["arms={{a: []}}", "resume=true"], "contains no run to resume"),
    (compare, ["arms=[streams]"], "arms has streams. Choose from stream, generate_then_train"),
    (compare, ["training.weight_by_score=true"], "weight_by_score is True, but no model scores the images"),
    (
        compare,
        ["training.soft_labels=0.5", "recipe.check=timm:resnet18"],
        "soft_labels is 0.5, but only streams carry class probabilities",
    ),
    (compare, ["seeds=[]"], "arms or seeds is empty"),
    (compare, ["training.keep_best=true"], "early_stop_epochs and keep_best would select by the real images"),
    (train, ["training.architecture=vit_b_16"], "'vit_b_16' does not accept images of"),
    (compare, ["data.shard_size=100"], "data.shard_size is 100, which is not a multiple of the batch size 64"),
    (compare, ["evaluation.sets=[]"], "evaluation.sets is empty, but every epoch needs real images"),
    (scale, ["training.num_workers=2"], "training.num_workers is 2; the fake trainer needs 1"),
    (scale, ["generation.painted_batch_seconds=0"], "painted_batch_seconds and generation.batch_size above 0"),
    (scale, ["recipe.check=timm:no_such_model"], "timm has no pretrained model 'no_such_model'"),
    (scale, ["generation.batch_sizes={{L4: 8}}"], "scale experiments need one rate for all actors"),
    (scale, ["num_local_nodes=-1"], "num_local_nodes is -1; use 0 or more"),
    (scale, ["fault.seconds=1"], "no setting 'fault'. Did you mean faults"),
    (evaluate, [], "checkpoint"),
    (evaluate, ["checkpoint=nowhere.ckpt"], "checkpoint is"),
    (regenerate, ["--index=x"], "--index"),
    (gallery, ["--classes=eleven"], "eleven"),
]

REFUSED_ON_A_CLUSTER = [
    (["generation.gpus_per_actor=1000"], "generator actors of 1000 GPU"),
    (["training.gpus_per_worker=1000"], "training workers of 0.5 CPU and 1000 GPU"),
    (["evaluation.gpus_per_actor=1000"], "evaluation actors of 1000 GPU"),
    (["generation.max_actors=4000"], "fit beside its other processes"),
    pytest.param(
        ["recipe.generator=diffusers", "recipe.model={damaged}"], "cannot be loaded", marks=pytest.mark.nightly
    ),
]


@pytest.mark.parametrize("command", [compare, scale])
def test_committed_configs_of_compare_and_scale_can_be_prepared(command: ModuleType, tmp_path: Path):
    name = command.__name__.rpartition(".")[2]
    assert prepared(command, name, f"output={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()


def damaged_model(folder: Path) -> Path:
    """Copy the embedded model with a truncated UNet."""
    shutil.copytree(PROJECT_ROOT / "generation" / "digits" / "model", folder)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"cut short")
    return folder


@pytest.mark.parametrize(("command", "arguments", "message"), REFUSED)
def test_wrong_input_is_one_line_and_exit_status_2(
    command: ModuleType, arguments: list[str], message: str, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    taken, out = tmp_path / "taken", tmp_path / "out"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    forbid_cluster(monkeypatch)
    config = SCALE if command is scale else PAINTED
    where = f"--out={out}" if command in (gallery, regenerate) else f"output={out}"
    given = [argument.format(taken=taken) for argument in arguments]
    assert message in error_line(command, capsys, config, where, *given)
    assert not out.exists()
    assert [path.name for path in taken.iterdir()] == ["mine.txt"]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(("arguments", "message"), REFUSED_ON_A_CLUSTER)
def test_impossible_job_on_the_cluster_is_one_line_and_exit_status_2(
    arguments: list[str], message: str, tmp_path: Path, capsys
):
    damaged = damaged_model(tmp_path / "damaged")
    given = [argument.format(damaged=damaged) for argument in arguments]
    assert message in error_line(train, capsys, PAINTED, f"output={tmp_path / 'out'}", *given)
    assert not (tmp_path / "out").exists()
