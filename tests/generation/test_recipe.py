import dataclasses
import json
from pathlib import Path

import pytest

from generation.config import RecipeConfig
from generation.model_files import folder_sha256, resolve_revision
from generation.recipe import Recipe, build_recipe


def test_canonical_json_has_sorted_keys_and_no_spaces(painted: Recipe):
    text = painted.to_json()
    assert text.startswith('{"backgrounds":[],"generator":"painted","guidance_scale":2.0,')
    assert json.loads(text)["label_space"]["classes"][7]["lemmas"][0] == "seven"
    assert len(text) < 5000


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"prompt": "hypernym"}, {"guidance_scale": 7.5}, {"revision": "x"}, {"image_size": 24}]
)
def test_whatever_changes_the_images_changes_the_hash(painted: Recipe, change: dict):
    assert dataclasses.replace(painted, **change).sha256 != painted.sha256


def test_the_embedded_model_is_pinned_by_its_files():
    recipe = build_recipe(RecipeConfig(model="generation/digits/model", image_size=32))
    assert len(recipe.revision) == 64


def test_a_folders_revision_follows_its_weights_and_not_its_card(tmp_path: Path):
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "weights.safetensors").write_bytes(b"1")
    before = folder_sha256(tmp_path)
    (tmp_path / "README.md").write_text("a card")
    assert folder_sha256(tmp_path) == before
    (tmp_path / "weights.safetensors").write_bytes(b"2")
    assert folder_sha256(tmp_path) != before


def test_a_missing_model_folder_is_named_with_the_remedy(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no/such/model.*no such folder.*Check"):
        resolve_revision("no/such/model", "")


def test_a_folder_without_model_index_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"without model_index\.json"):
        resolve_revision(str(tmp_path), "")
