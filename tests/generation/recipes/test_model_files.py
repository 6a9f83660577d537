import os
import subprocess
import sys
from pathlib import Path

import pytest

from generation.recipes.config import RecipeConfig
from generation.recipes.model_files import (
    LORA,
    MODEL,
    PROJECT_ROOT,
    VAE,
    ModelSource,
    check_on_this_node,
    check_revision,
    check_safetensors,
    files_sha256,
    find_local,
    local_path,
    resolve_revision,
)
from generation.recipes.recipe import build_recipe
from tests.support.hub import COMMIT, serve_hub


def test_full_commit_pins_a_model_without_the_hub():
    commit = "133a221b8aa7292a167afc5127cb63fb5005638b"
    assert resolve_revision(MODEL, "CompVis/stable-diffusion-v1-4", commit) == commit


def test_embedded_model_is_pinned_by_its_files():
    recipe = build_recipe(RecipeConfig(model="generation/digits/model", image_size=32))
    assert len(recipe.revision) == 64


def test_folder_revision_depends_on_weights_but_not_on_the_card(tmp_path: Path):
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "weights.safetensors").write_bytes(b"1")
    before = files_sha256(tmp_path)
    (tmp_path / "README.md").write_text("a card")
    assert files_sha256(tmp_path) == before
    (tmp_path / "weights.safetensors").write_bytes(b"2")
    assert files_sha256(tmp_path) != before


@pytest.mark.parametrize("file", ["tokenizer/spiece.model", "tokenizer/chat_template.jinja", "tokenizer/merges.txt"])
def test_folder_revision_depends_on_tokenizer_files(tmp_path: Path, file: str):
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / file).write_bytes(b"1")
    before = files_sha256(tmp_path)
    (tmp_path / file).write_bytes(b"2")
    assert files_sha256(tmp_path) != before


def test_missing_model_folder_is_named_with_the_remedy(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no/such/model.*not an existing file or folder.*Check"):
        resolve_revision(MODEL, "no/such/model", "")


def folder_of_one_file(folder: Path) -> Path:
    folder.mkdir()
    (folder / "model_index.json").write_text("{}")
    return folder


def test_node_with_other_files_is_rejected(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = folder_of_one_file(tmp_path / "model")
    revision = resolve_revision(MODEL, str(model), "")
    check_on_this_node(MODEL, str(model), revision)
    (model / "model_index.json").write_text("{ }")
    for _ in range(2):  # an error leaves no stamp
        with pytest.raises(ValueError, match=r"recipe\.model '.*' has changed since the recipe was written"):
            check_on_this_node(MODEL, str(model), revision)
    with pytest.raises(ValueError, match=r"recipe\.model 'no/such/model' is not on node .*\. Copy it there"):
        check_on_this_node(MODEL, "no/such/model", revision)


def test_files_are_hashed_once_per_node(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model, hashed = folder_of_one_file(tmp_path / "model"), list[Path]()
    revision = resolve_revision(MODEL, str(model), "")

    def count(path: Path) -> str:
        hashed.append(path)
        return files_sha256(path)

    monkeypatch.setattr("generation.recipes.model_files.files_sha256", count)
    for _ in range(3):
        check_on_this_node(MODEL, str(model), revision)
    assert len(hashed) == 1
    (tmp_path / f"figment-{os.getuid()}").rename(tmp_path / "elsewhere")
    (tmp_path / f"figment-{os.getuid()}").touch()  # no writable folder for stamps
    for _ in range(2):
        check_on_this_node(MODEL, str(model), revision)
    assert len(hashed) == 3


def test_relative_path_resolves_in_the_drivers_folder(tmp_path: Path, monkeypatch):
    folder_of_one_file(tmp_path / "model")
    monkeypatch.chdir("/")
    assert find_local("model") is None
    monkeypatch.setenv("FIGMENT_DRIVERS_FOLDER", str(tmp_path))
    assert find_local("model") == tmp_path / "model"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_local("~/model") == tmp_path / "model"


def test_folder_without_model_index_is_rejected(tmp_path: Path):
    with pytest.raises(ValueError, match=r"which has no model_index\.json"):
        resolve_revision(MODEL, str(tmp_path), "")


def test_file_in_the_model_folder_is_rejected():
    index = PROJECT_ROOT / "generation" / "digits" / "model" / "model_index.json"
    with pytest.raises(ValueError, match=r"model_index\.json', which has no model_index\.json\. Use a folder"):
        resolve_revision(MODEL, str(index), "")


def test_hub_id_without_a_pipeline_is_rejected(tmp_path: Path):
    with serve_hub(PROJECT_ROOT / "generation" / "digits" / "model" / "unet") as hub:
        refused = plan_with(hub.url, tmp_path, "recipe.model=figment/digits", "--index", "7")
    assert refused.returncode == 2
    assert "has 0 files model_index.json on the hub" in refused.stderr


def test_pickled_weights_are_rejected(tmp_path: Path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "unet" / "diffusion_pytorch_model.bin").touch()
    with pytest.raises(ValueError, match=r"pickled weights \(unet/diffusion_pytorch_model\.bin\).*Use safetensors"):
        resolve_revision(MODEL, str(tmp_path), "")
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").touch()
    assert len(resolve_revision(MODEL, str(tmp_path), "")) == 64


@pytest.mark.parametrize(
    ("part", "files"),
    [(VAE, ["config.json", "diffusion_pytorch_model.bin"]), (LORA, ["pytorch_lora_weights.bin"])],
)
def test_pickled_vaes_and_loras_are_rejected(part: ModelSource, files: list[str]):
    with pytest.raises(ValueError, match=rf"{part.setting} 'x' has pickled weights"):
        check_safetensors(part, "x", files)


def test_pickles_that_are_not_loaded_are_ignored():
    check_safetensors(MODEL, "x", ["v1-4.ckpt", "safety_checker/pytorch_model.bin", "unet/a.safetensors", "unet/a.bin"])


def test_folder_with_two_loras_is_rejected(tmp_path: Path):
    for name in ("a.safetensors", "b.safetensors"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"which has 2 files \*\.safetensors\. Name one"):
        resolve_revision(LORA, str(tmp_path), "")
    assert len(resolve_revision(LORA, str(tmp_path / "a.safetensors"), "")) == 64


def test_local_path_with_a_revision_is_rejected(tmp_path: Path):
    (tmp_path / "config.json").touch()
    with pytest.raises(ValueError, match=r"is a local path, which has no revision 'main'"):
        resolve_revision(VAE, str(tmp_path), "main")


def test_vae_changed_after_planning_is_named(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    recipe = build_recipe(RecipeConfig(image_size=32, vae=str(tmp_path)))
    assert [part[1] for part in recipe.parts] == ["generation/digits/model", str(tmp_path)]
    (tmp_path / "config.json").write_text('{"latent_channels": 4}')
    with pytest.raises(ValueError, match=r"recipe\.vae .* has changed since the recipe was written"):
        check_revision(*recipe.parts[1])


def plan_with(endpoint: str, home: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Plan the demo with a model of the hub at `endpoint`, in a new process."""
    return subprocess.run(
        [sys.executable, "-m", "ray_jobs.plan", "ray_jobs/configs/digits.yaml", *arguments],
        cwd=PROJECT_ROOT,
        env=os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.nightly
def test_mirror_pins_a_model_and_a_missing_network_is_a_one_line_error(tmp_path: Path):
    model, out = "recipe.model=figment/digits", tmp_path / "recipe.json"
    with serve_hub(PROJECT_ROOT / "generation" / "digits" / "model") as hub:
        planned = plan_with(hub.url, tmp_path / "home", model, "--out", str(out))
    assert planned.returncode == 0, planned.stderr
    assert COMMIT in out.read_text()
    refused = plan_with("http://127.0.0.1:9", tmp_path / "home", model, "--out", str(tmp_path / "other.json"))
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert (
        "recipe.model is 'figment/digits', which is not an existing folder, and the Hugging Face hub" in refused.stderr
    )
    assert "set HF_ENDPOINT to use a mirror" in refused.stderr
    pinned = plan_with("http://127.0.0.1:9", tmp_path / "home", model, f"recipe.revision={COMMIT}", "--index", "7")
    assert pinned.returncode == 0, pinned.stderr


def test_error_for_an_unknown_scheduler_lists_the_known_ones():
    refused = plan_with("http://127.0.0.1:9", Path("/nonexistent"), "recipe.scheduler=dpm", "--index", "7")
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert "recipe.scheduler" in refused.stderr
    assert "euler_ancestral" in refused.stderr


def test_broken_link_is_named(tmp_path: Path):
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "config.json").symlink_to(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"config\.json' is a broken link\. Restore its target"):
        resolve_revision(MODEL, str(tmp_path), "")


def test_pipe_among_model_files_is_ignored(tmp_path: Path):
    (tmp_path / "model_index.json").write_text("{}")
    revision = resolve_revision(MODEL, str(tmp_path), "")
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    assert resolve_revision(MODEL, str(tmp_path), "") == revision


def test_local_path_prefers_the_drivers_folder(tmp_path: Path, monkeypatch):
    (tmp_path / "classes.yaml").touch()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("FIGMENT_DRIVERS_FOLDER", str(tmp_path))
    assert local_path("classes.yaml") == tmp_path / "classes.yaml"
    assert local_path("ray_jobs/configs/digits.yaml") == PROJECT_ROOT / "ray_jobs/configs/digits.yaml"
    assert local_path("other.yaml") == Path("other.yaml")
    monkeypatch.setenv("HOME", "/home/someone")
    assert local_path("~/other.yaml") == Path("/home/someone/other.yaml")
    assert local_path("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")
