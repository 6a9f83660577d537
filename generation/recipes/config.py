"""Settings of a recipe: what the images show."""

import math
from dataclasses import dataclass, field
from typing import Literal

from generation.ranges import AtLeastOne, Attempts, BelowOne, Documented, Finite, NotNegative, Seed, check_ranges
from generation.recipes.prompts import fields_of, template_text


@dataclass(frozen=True)
class SharedSettings(Documented):
    """Settings that a recipe stores unchanged."""

    seed: Seed = 0
    """Seed of all labels, prompts and noise; another seed gives another data set."""

    templates: tuple[str, ...] = ("definition",)
    """Names of prompt forms (generation/recipes/prompts.py), or texts with {fields}; one is drawn per sample."""

    template_weights: tuple[float, ...] = ()
    """Share of samples per template, summing to 1; empty means equal shares."""

    negative_prompt: str = ""
    """Negative prompt of classifier-free guidance; has no effect where the guidance scale is 1."""

    lemmas: Literal["all", "first"] = "all"
    """Text of {lemmas}: all names of the class, the class name first, joined with commas; or the class name alone."""

    hypernym: Literal["first", "random", "all"] = "first"
    """Text of {hypernym} if a synset has several: the first, one drawn per sample (`random`), or all."""

    backgrounds: tuple[str, ...] = ()
    """Texts of {background}, drawn uniformly per sample; `places365` stands for its 365 scenes."""

    generator: Literal["diffusers", "painted"] = "diffusers"
    """Image source: a diffusers model, or `painted`, test images computed from the plan without a model."""

    model: str = "generation/digits/model"
    """The model: a folder in diffusers' layout, or a hub id such as CompVis/stable-diffusion-v1-4."""

    variant: str = ""
    """Variant of the model's weight files, such as fp16; empty means the default files."""

    pipeline: str = ""
    """Pipeline class in diffusers; empty means the choice of AutoPipelineForText2Image."""

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Data type of the model's weights and activations."""

    scheduler: Literal["model", "pndm", "ddim", "dpm++", "euler", "euler_ancestral", "unipc", "lcm"] = "model"
    """Sampler: `model` is the one saved with the model, the others are diffusers' implementations."""

    safety_checker: bool = False
    """Regenerate images that the model's safety checker flags; if false, the checker is not loaded."""

    leave_out_after: Attempts = 0
    """Leave out (and count) a sample after this many refused images; 0 fails the run after `generation.max_attempts`
    instead. Part of the recipe, because it decides which samples exist.
    """

    check: str = ""
    """Second model, which scores each image: a run's checkpoint.ckpt, `torchvision:NAME/WEIGHTS`, `timm:NAME`, or
    `clip:NAME`, a folder or hub id (`@REVISION` pins it). Part of the recipe, as it decides which images are refused.
    Empty means none.
    """

    keep_above: BelowOne = 0.0
    """Refuse images whose score, the probability that `check` gives their class, is below this; 0 refuses none."""

    guidance_scale: tuple[float, ...] = (2.0,)
    """Guidance scales s in eps(null) + s * (eps(prompt) - eps(null)); 1 means no guidance, at half the cost."""

    guidance_draw: Literal["one_of", "between"] = "one_of"
    """How several scales are used: draw one of them per sample, or any value between two."""

    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Fractions of the steps between which guidance is applied (arXiv 2404.07724); [0, 1] means all steps."""

    num_inference_steps: AtLeastOne = 50
    """Denoising steps per image."""

    generated_size: int = 0
    """Height and width of a generated image before it is shrunk, in pixels; 0 means `image_size`."""

    image_size: int = 256
    """Height and width of a delivered image, in pixels."""


@dataclass(frozen=True)
class RecipeConfig(SharedSettings):
    """What decides the images. `generation.recipes.recipe.build_recipe` resolves it into a recipe with a hash."""

    label_space: str = "digits"
    """The classes: digits, imagenet1k, imagenet100, or a YAML or CSV file with your own."""

    class_weights: dict[str, NotNegative] = field(default_factory=dict)
    """Relative frequency of classes, by wnid or name; others weigh 1. Empty means exactly balanced."""

    prefix: str = ""
    """Text before every prompt, such as `a photo of`; empty means none."""

    backgrounds_file: str = ""
    """YAML file of backgrounds per class, by wnid or name; other classes use `backgrounds`. Empty means none."""

    captions_file: str = ""
    """JSONL file of {"class": ..., "caption": ...}: texts of {caption}, one drawn per sample; empty means none."""

    revision: str = ""
    """Branch, tag or commit of a model on the hub; empty means the newest. Leave empty for a local folder."""

    vae: str = ""
    """VAE to use, such as madebyollin/taesd: a folder or a hub id (`ID@REVISION` pins it); empty means the model's."""

    loras: dict[str, Finite] = field(default_factory=dict)
    """LoRAs to add, each with its scale: a safetensors file, a folder, or a hub id (`ID@REVISION` pins it)."""

    def __post_init__(self) -> None:
        check_ranges(self, "recipe")
        self._check_templates()
        for name, size in (("image_size", self.image_size), ("generated_size", self.generated_size or 8)):
            if size < 8 or size % 8:
                raise ValueError(
                    f"recipe.{name} is {size}; latent diffusion needs a multiple of 8. Try {max(8, size // 8 * 8)}."
                )
        if 0 < self.generated_size < self.image_size:
            raise ValueError(
                f"recipe.generated_size is {self.generated_size}, less than image_size {self.image_size}: images are "
                "not enlarged. Lower image_size."
            )
        if self.keep_above and not self.check:
            raise ValueError(
                f"recipe.keep_above is {self.keep_above:g}, but recipe.check is empty. Set it to the model that scores "
                "images, or keep_above to 0."
            )
        if not self.guidance_scale or not all(1 <= scale < math.inf for scale in self.guidance_scale):
            raise ValueError(f"recipe.guidance_scale is {_shown(self.guidance_scale)}; use 1 (no guidance) or more.")
        if self.guidance_draw == "between" and not (
            len(self.guidance_scale) == 2 and self.guidance_scale[0] < self.guidance_scale[1]
        ):
            raise ValueError(
                f"recipe.guidance_scale is {_shown(self.guidance_scale)}, but recipe.guidance_draw is between: set two "
                "values, the smaller first, such as [1.5, 3]."
            )
        start, end = self.guidance_interval
        if not 0 <= start < end <= 1:
            raise ValueError(
                f"recipe.guidance_interval is {_shown(self.guidance_interval)}; use two ascending fractions, "
                "such as [0.1, 0.7]."
            )

    def _check_templates(self) -> None:
        if not self.templates:
            raise ValueError("recipe.templates is empty. Add one, such as definition.")
        if not all(text.strip() for text in self.backgrounds):
            raise ValueError("recipe.backgrounds has an empty text. Remove it.")
        if {"{", "}"} & set(self.prefix):
            raise ValueError(
                f"recipe.prefix is '{self.prefix}'; fields are not allowed here. Put them in recipe.templates."
            )
        fields = fields_of(*map(template_text, self.templates))
        if "background" in fields and not (self.backgrounds or self.backgrounds_file):
            raise ValueError(
                "recipe.templates use {background}, but recipe.backgrounds is empty. Add texts, or places365."
            )
        if "caption" in fields and not self.captions_file:
            raise ValueError(
                "recipe.templates use {caption}, but recipe.captions_file is empty. Set it to a JSONL file."
            )
        weights = self.template_weights
        if weights and len(weights) != len(self.templates):
            raise ValueError(
                f"recipe.template_weights has {len(weights)} values for {len(self.templates)} templates. Set one each."
            )
        if weights and not (min(weights) >= 0 and abs(math.fsum(weights) - 1) < 1e-6):
            raise ValueError(
                f"recipe.template_weights are {_shown(weights)}, which sum to {math.fsum(weights):g}; use shares of 0 "
                "or more that sum to 1."
            )


def _shown(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values) or "empty"
