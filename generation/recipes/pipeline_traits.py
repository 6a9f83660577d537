"""What diffusers' pipelines read of a recipe, known from a model's small files without loading it or diffusers."""

from collections.abc import Iterator
from dataclasses import dataclass

from generation.recipes.model_files import read_config
from generation.recipes.recipe import Recipe

TOKENS_READ = {
    "AuraFlowPipeline": ("tokenizer", 256),
    "ChromaPipeline": ("tokenizer", 512),
    "CogView3PlusPipeline": ("tokenizer", 224),
    "CogView4Pipeline": ("tokenizer", 1024),
    "FluxPipeline": ("tokenizer_2", 512),
    "Lumina2Pipeline": ("tokenizer", 256),
    "PixArtAlphaPipeline": ("tokenizer", 120),
    "PixArtSigmaPipeline": ("tokenizer", 300),
    "QwenImagePipeline": ("tokenizer", 512),
    "SanaPipeline": ("tokenizer", 300),
    "StableDiffusion3Pipeline": ("tokenizer_3", 256),
    "ZImagePipeline": ("tokenizer", 512),
}
"""A tokenizer whose texts are cut elsewhere than it says itself: their default `max_sequence_length`."""

SCHNELL_TOKENS = 256
"""What FLUX.1-schnell was trained with, and is called with."""

NO_NEGATIVE_PROMPT = ("FluxPipeline", "LatentConsistencyModelPipeline")
"""Pipelines that are called without a second pass for it."""


@dataclass(frozen=True)
class PipelineTraits:
    """A recipe's pipeline, as far as files on this machine say."""

    name: str
    """Its class in diffusers; empty where that is not known."""

    is_schnell: bool
    """A Flux whose transformer takes no guidance scale."""

    scheduler: str
    """The class of the model's own; empty where that is not known."""

    @property
    def tokens_read(self) -> dict[str, int]:
        """Tokens that are read of each tokenizer whose own limit does not hold."""
        tokenizer, limit = TOKENS_READ.get(self.name, ("", 0))
        return {tokenizer: min(limit, SCHNELL_TOKENS) if self.is_schnell else limit} if tokenizer else {}


def traits_of(recipe: Recipe) -> PipelineTraits:
    """Return what is known of a recipe's pipeline."""

    def read(file: str) -> dict:
        return (read_config(recipe.model, recipe.revision, file) or {}) if recipe.model else {}

    name = recipe.pipeline or str(read("model_index.json").get("_class_name", ""))
    takes_scale = read("transformer/config.json").get("guidance_embeds", True) if name == "FluxPipeline" else True
    return PipelineTraits(name, not takes_scale, str(read("scheduler/scheduler_config.json").get("_class_name", "")))


def check_scheduler(recipe: Recipe, own: str) -> None:
    """Raise ValueError for a scheduler in the place of the model's own, by its class, that it was not trained for."""
    if recipe.scheduler != "model" and own.startswith("FlowMatch"):
        raise ValueError(
            f"recipe.scheduler is {recipe.scheduler}, but the model is of flow matching ({own}). Take model."
        )


def without_effect(recipe: Recipe, traits: PipelineTraits) -> Iterator[str]:
    """Yield the settings of a recipe that are part of its hash, and change no image of its model."""
    is_guided = max(recipe.guidance_scale) > 1
    if is_guided and traits.is_schnell:
        yield "recipe.guidance_scale has no effect: this FLUX.1 takes no guidance scale"
    if recipe.negative_prompt and traits.name in NO_NEGATIVE_PROMPT:
        yield f"recipe.negative_prompt has no effect: {traits.name} takes none"
    elif recipe.negative_prompt and not is_guided and recipe.model:
        yield "recipe.negative_prompt has no effect: recipe.guidance_scale is 1, which is no guidance"
    if recipe.guidance_interval != (0.0, 1.0) and not is_guided:
        yield "recipe.guidance_interval has no effect: recipe.guidance_scale is 1, which is no guidance"
    for name, _, scale in recipe.loras:
        if scale == 0:
            yield f"recipe.loras '{name}' has no effect: its scale is 0"
