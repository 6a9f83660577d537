"""What diffusers' pipelines read of a recipe, known from a model's small files without loading it or diffusers."""

from collections.abc import Iterator
from dataclasses import dataclass

from generation.recipes.model_files import read_config
from generation.recipes.recipe import Recipe

PAIR = ("prompt_embeds", "negative_prompt_embeds")
POOLED = ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")
MASKED = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask")


@dataclass(frozen=True)
class PipelineKind:
    """How a class of pipelines reads prompts and is guided."""

    embeddings: tuple[str, ...] = ()
    """What `encode_prompt` returns, as the pipeline's call names it; empty where prompts are left to the pipeline."""

    is_guided_in_pairs: bool = False
    """Whether it calls the denoiser once a step, null prompts first, and adds scale * (difference) to the null's.

    Others call it twice a step, put prompts first, or mean something else by the scale.
    """

    tokens_read: tuple[str, int] | None = None
    """A tokenizer whose texts are cut elsewhere than it says itself, and where: its default `max_sequence_length`."""

    takes_negative_prompt: bool = True
    """Whether it makes a second pass for it as it is called."""


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
"""Classes in diffusers of which something is known; any other one is called as it comes."""


def kind_of(name: str) -> PipelineKind:
    """Return what is known of a class of pipelines."""
    return KINDS.get(name, PipelineKind())


SCHNELL_TOKENS = 256
"""What FLUX.1-schnell was trained with, and is called with."""


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
        read = kind_of(self.name).tokens_read
        return {read[0]: min(read[1], SCHNELL_TOKENS) if self.is_schnell else read[1]} if read else {}


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
    if recipe.negative_prompt and not kind_of(traits.name).takes_negative_prompt:
        yield f"recipe.negative_prompt has no effect: {traits.name} takes none"
    elif recipe.negative_prompt and not is_guided and recipe.model:
        yield "recipe.negative_prompt has no effect: recipe.guidance_scale is 1, which is no guidance"
    if recipe.guidance_interval != (0.0, 1.0) and not is_guided:
        yield "recipe.guidance_interval has no effect: recipe.guidance_scale is 1, which is no guidance"
    for name, _, scale in recipe.loras:
        if scale == 0:
            yield f"recipe.loras '{name}' has no effect: its scale is 0"
