"""Check that the weights of a LoRA file fit a model: diffusers ignores the others. Reads file headers only."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from generation.recipes.model_files import LORA, fetch, find_local
from generation.recipes.recipe import Recipe

DENOISERS = ("unet", "transformer")
"""Folders of the denoising network; a model has one of them."""

KEY = re.compile(r"(unet|transformer)\.(.+)\.lora(_A|_B|\.down|\.up)\.weight")
"""Name of a denoiser weight in diffusers' scheme; other trainers' names are converted when the model is loaded."""


def check_headers(recipe: Recipe) -> None:
    """Raise ValueError for LoRA weights that do not fit the model, as far as files on this machine show."""
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
    """Raise ValueError, with counts and examples, if a model uses only some of a LoRA's weights."""
    unused = [key for key in keys if key not in used]
    if unused:
        example = f", such as {next(iter(used))}" if used else ""
        raise ValueError(
            f"recipe.loras '{name}' has {len(unused)} of {len(keys)} weights that do not fit '{model}', such as "
            f"{unused[0]}; {len(used)} fit{example}. Use a LoRA that was trained for this model."
        )


def _modules_of(model: Path) -> set[str]:
    """Return the denoiser's modules that have weights, in a LoRA's naming."""
    return {
        f"{folder}.{key.removesuffix('.weight')}"
        for folder in DENOISERS
        for file in sorted((model / folder).glob("*.safetensors"))
        for key in keys_of(file, str(file))
    }


def check_no_dora(name: str, keys: Sequence[str]) -> None:
    """Raise ValueError for a file with DoRA scales."""
    if any("dora_scale" in key for key in keys):
        raise ValueError(
            f"recipe.loras '{name}' is a DoRA, whose scales diffusers ignores. Use a LoRA without dora_scale."
        )


def keys_of(file: Path, name: str) -> list[str]:
    """Return the weight names in a safetensors file; raise ValueError if it is unreadable."""
    try:
        with safe_open(file, framework="numpy") as opened:
            return list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise ValueError(f"'{name}' cannot be read: {error}. Replace it with a complete file.") from error
