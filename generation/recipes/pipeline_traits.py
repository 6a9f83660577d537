"""Which recipe settings a diffusers pipeline uses, read from a model's small files without loading it or diffusers."""

from collections.abc import Iterator
from dataclasses import dataclass

from generation.recipes.model_files import read_config
from generation.recipes.recipe import Recipe

PAIR = ("prompt_embeds", "negative_prompt_embeds")
POOLED = ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")
MASKED = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask")


@dataclass(frozen=True)
class PipelineKind:
    """How a pipeline class encodes prompts and applies guidance."""

    embeddings: tuple[str, ...] = ()
    """Results of `encode_prompt`, named as in the pipeline's call; empty if the pipeline encodes prompts itself."""

    is_guided_in_pairs: bool = False
    """True if it calls the denoiser once per step, null prompts first, and adds scale * (difference) to the null.

    Others call it twice per step, put prompts first, or define the scale differently.
    """

    tokens_read: tuple[str, int] | None = None
    """A tokenizer and the pipeline's default `max_sequence_length`, if that is not the tokenizer's own limit."""

    takes_negative_prompt: bool = True
    """True if its call uses the negative prompt."""


KINDS = {
    "StableDiffusionPipeline": PipelineKind(PAIR, is_guided_in_pairs=True),
    "StableDiffusionXLPipeline": PipelineKind((*PAIR, *POOLED), is_guided_in_pairs=True),
    "StableDiffusion3Pipeline": PipelineKind(
        (*PAIR, *POOLED), is_guided_in_pairs=True, tokens_read=("tokenizer_3", 256)
    ),
    "PixArtAlphaPipeline": PipelineKind(MASKED, is_guided_in_pairs=True, tokens_read=("tokenizer", 120)),
    "PixArtSigmaPipeline": PipelineKind(MASKED, is_guided_in_pairs=True, tokens_read=("tokenizer", 300)),
    "LatentConsistencyModelPipeline": PipelineKind(PAIR, takes_negative_prompt=False),
    "FluxPipeline": PipelineKind(tokens_read=("tokenizer_2", 512), takes_negative_prompt=False),
    "AuraFlowPipeline": PipelineKind(tokens_read=("tokenizer", 256)),
    "ChromaPipeline": PipelineKind(tokens_read=("tokenizer", 512)),
    "CogView3PlusPipeline": PipelineKind(tokens_read=("tokenizer", 224)),
    "CogView4Pipeline": PipelineKind(tokens_read=("tokenizer", 1024)),
    "Lumina2Pipeline": PipelineKind(tokens_read=("tokenizer", 256)),
    "QwenImagePipeline": PipelineKind(tokens_read=("tokenizer", 512)),
    "SanaPipeline": PipelineKind(tokens_read=("tokenizer", 300)),
    "ZImagePipeline": PipelineKind(tokens_read=("tokenizer", 512)),
}
"""Known pipeline classes in diffusers; others are called with defaults."""


def kind_of(name: str) -> PipelineKind:
    """Return the known traits of a pipeline class, or the defaults."""
    return KINDS.get(name, PipelineKind())


SCHNELL_TOKENS = 256
"""Token limit that FLUX.1-schnell was trained with."""


@dataclass(frozen=True)
class PipelineTraits:
    """Traits of a recipe's pipeline, as far as files on this machine show."""

    name: str
    """Class in diffusers; empty if unknown."""

    is_schnell: bool
    """True for a Flux transformer without a guidance scale."""

    scheduler: str
    """Class of the model's own scheduler; empty if unknown."""

    @property
    def tokens_read(self) -> dict[str, int]:
        """Token limits that replace those of the named tokenizers."""
        read = kind_of(self.name).tokens_read
        return {read[0]: min(read[1], SCHNELL_TOKENS) if self.is_schnell else read[1]} if read else {}


def traits_of(recipe: Recipe) -> PipelineTraits:
    """Return the traits of a recipe's pipeline."""

    def read(file: str) -> dict:
        return (read_config(recipe.model, recipe.revision, file) or {}) if recipe.model else {}

    name = recipe.pipeline or str(read("model_index.json").get("_class_name", ""))
    takes_scale = read("transformer/config.json").get("guidance_embeds", True) if name == "FluxPipeline" else True
    return PipelineTraits(name, not takes_scale, str(read("scheduler/scheduler_config.json").get("_class_name", "")))


def check_scheduler(recipe: Recipe, own: str) -> None:
    """Raise ValueError if recipe.scheduler replaces a flow-matching scheduler; `own` is the class of the model's."""
    if recipe.scheduler != "model" and own.startswith("FlowMatch"):
        raise ValueError(
            f"recipe.scheduler is {recipe.scheduler}, but the model uses flow matching ({own}). Set "
            "recipe.scheduler=model."
        )


def without_effect(recipe: Recipe, traits: PipelineTraits) -> Iterator[str]:
    """Yield the settings that change the recipe's hash but none of its images, with the reason."""
    is_guided = max(recipe.guidance_scale) > 1
    if is_guided and traits.is_schnell:
        yield "recipe.guidance_scale has no effect: this FLUX.1 model has no guidance scale"
    if recipe.negative_prompt and not kind_of(traits.name).takes_negative_prompt:
        yield f"recipe.negative_prompt has no effect: {traits.name} does not use it"
    elif recipe.negative_prompt and not is_guided and recipe.model:
        yield "recipe.negative_prompt has no effect: recipe.guidance_scale is 1, which turns guidance off"
    if recipe.guidance_interval != (0.0, 1.0) and not is_guided:
        yield "recipe.guidance_interval has no effect: recipe.guidance_scale is 1, which turns guidance off"
    for name, _, scale in recipe.loras:
        if scale == 0:
            yield f"recipe.loras '{name}' has no effect: its scale is 0"
