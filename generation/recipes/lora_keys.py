"""Which weights of a LoRA file fit a model: diffusers passes over the others. Reads headers of files alone."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from generation.recipes.model_files import LORA, fetch, find_local
from generation.recipes.recipe import Recipe

DENOISERS = ("unet", "transformer")
"""Folders of the network that is called once a step; a model has one of them."""

KEY = re.compile(r"(unet|transformer)\.(.+)\.lora(_A|_B|\.down|\.up)\.weight")
"""A weight of the denoiser as diffusers names it; names of other trainers are converted when the model is loaded."""


def check_headers(recipe: Recipe) -> None:
    """Raise ValueError for a LoRA with weights that fit nowhere, as far as headers of files on this machine tell."""
    model = find_local(recipe.model) if recipe.loras else None
    modules = _modules_of(model) if model is not None else set()
    for name, revision, _ in recipe.loras:
        if find_local(name) is None:
            continue
        keys = keys_of(fetch(LORA, name, revision), name)
        check_no_dora(name, keys)
        named = {key: match for key in keys if (match := KEY.fullmatch(key))}
        if modules:
            check_all_used(
                name, recipe.model, list(named), [k for k, m in named.items() if f"{m[1]}.{m[2]}" in modules]
            )


def check_all_used(name: str, model: str, keys: Sequence[str], used: Collection[str]) -> None:
    """Raise ValueError with numbers and examples if a model takes some of a LoRA's weights alone."""
    unused = [key for key in keys if key not in used]
    if unused:
        example = f", such as {next(iter(used))}" if used else ""
        raise ValueError(
            f"recipe.loras '{name}' has {len(unused)} of {len(keys)} weights that fit nowhere in '{model}', such as "
            f"{unused[0]}; {len(used)} fit{example}. Give a LoRA that was trained for this model."
        )


def _modules_of(model: Path) -> set[str]:
    """Return the modules of a model's denoiser that have weights, as a LoRA names them."""
    return {
        f"{folder}.{key.removesuffix('.weight')}"
        for folder in DENOISERS
        for file in sorted((model / folder).glob("*.safetensors"))
        for key in keys_of(file, str(file))
    }


def check_no_dora(name: str, keys: Sequence[str]) -> None:
    """Raise ValueError for a file with scales of a DoRA."""
    if any("dora_scale" in key for key in keys):
        raise ValueError(
            f"recipe.loras '{name}' is a DoRA, whose scales diffusers leaves out. Give a LoRA without them."
        )


def keys_of(file: Path, name: str) -> list[str]:
    """Return the names of a safetensors file's weights; ValueError if it is not whole."""
    try:
        with safe_open(file, framework="numpy") as opened:
            return list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise ValueError(f"'{name}' cannot be read: {error}. Put a whole file there.") from error
