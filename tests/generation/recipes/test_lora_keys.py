"""LoRA files with weights that do not fit the model and that diffusers would ignore."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from generation.recipes.config import RecipeConfig
from generation.recipes.lora_keys import check_headers
from generation.recipes.recipe import Recipe, build_recipe

ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0.attn1"


def recipe_of(folder: Path, *keys: str) -> Recipe:
    """Return a recipe of the digits model and a LoRA with these keys."""
    file = folder / "lora.safetensors"
    save_file({key: np.zeros((2, 2), np.float32) for key in keys}, file)
    return build_recipe(RecipeConfig(image_size=32, loras={str(file): 1.0}))


def pair_of(module: str) -> tuple[str, str]:
    return f"{module}.lora_A.weight", f"{module}.lora_B.weight"


def test_unused_weights_are_named_from_file_headers(tmp_path: Path):
    recipe = recipe_of(tmp_path, *pair_of(f"unet.{ATTENTION}.to_q"), *pair_of("unet.middle.to_q"))
    message = (
        r"lora\.safetensors' has 2 of 4 weights that do not fit 'generation/digits/model', such as "
        rf"unet\.middle\.to_q\.lora_A\.weight; 2 fit, such as unet\.{ATTENTION}\.to_q\.lora_A\.weight\. Use a LoRA"
    )
    with pytest.raises(ValueError, match=message):
        check_headers(recipe)


@pytest.mark.parametrize("name", [lambda module: f"transformer.{module}", lambda module: f"unet.other.{module}"])
def test_lora_for_another_architecture_is_rejected(name: Callable[[str], str], tmp_path: Path):
    with pytest.raises(ValueError, match=r"has 2 of 2 weights that do not fit .*; 0 fit\. Use a LoRA"):
        check_headers(recipe_of(tmp_path, *pair_of(name(f"{ATTENTION}.to_q"))))


def test_dora_is_rejected(tmp_path: Path):
    module = f"unet.{ATTENTION}.to_q"
    with pytest.raises(ValueError, match=r"lora\.safetensors' is a DoRA"):
        check_headers(recipe_of(tmp_path, *pair_of(module), f"{module}.dora_scale"))


def test_complete_loras_and_other_naming_schemes_pass(tmp_path: Path):
    kohya = f"lora_unet_{ATTENTION.replace('.', '_')}_to_q.lora_down.weight"
    check_headers(recipe_of(tmp_path, *pair_of(f"unet.{ATTENTION}.to_q"), kohya))


def test_truncated_file_is_named(tmp_path: Path):
    recipe = recipe_of(tmp_path, *pair_of(f"unet.{ATTENTION}.to_q"))
    file = tmp_path / "lora.safetensors"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"lora\.safetensors' cannot be read: .*\. Replace it with a complete file"):
        check_headers(recipe)
