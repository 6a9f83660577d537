"""Settings of a recipe: what the images show."""

import math
from dataclasses import dataclass, field
from typing import Literal

from generation.ranges import AtLeastOne, Attempts, Documented, Finite, NotNegative, Seed, check_ranges
from generation.recipes.prompts import fields_of, template_text


@dataclass(frozen=True)
class SharedSettings(Documented):
    """What a recipe has as its settings say it."""

    seed: Seed = 0
    """Another seed gives another data set."""

    templates: tuple[str, ...] = ("definition",)
    """Prompt forms by name (generation/recipes/prompts.py), or texts with {fields}; one is drawn for each sample."""

    template_weights: tuple[float, ...] = ()
    """Share of samples with each template, summing to 1; empty is equal shares."""

    negative_prompt: str = ""
    """What guidance leads away from; without effect where the guidance scale is 1."""

    lemmas: Literal["all", "first"] = "all"
    """What {lemmas} becomes: all names of the class, its own first, joined with commas; or its own alone."""

    hypernym: Literal["first", "random", "all"] = "first"
    """What {hypernym} becomes where a synset has several; `random` draws one for each sample."""

    backgrounds: tuple[str, ...] = ()
    """What {background} may become, drawn uniformly for each sample; `places365` stands for its 365 scenes."""

    generator: Literal["diffusers", "painted"] = "diffusers"
    """`painted` computes images from the plan without a model: for tests and load experiments."""

    model: str = "generation/digits/model"
    """A folder in diffusers' layout, or a hub id such as CompVis/stable-diffusion-v1-4."""

    variant: str = ""
    """Which weights of a model that comes with several, such as fp16."""

    pipeline: str = ""
    """The class in diffusers that runs the model; empty is what AutoPipelineForText2Image takes for it."""

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the model's weights and activations."""

    scheduler: Literal["model", "pndm", "ddim", "dpm++", "euler", "euler_ancestral", "unipc", "lcm"] = "model"
    """How noise is removed: `model` is what the model comes with, the others as diffusers implements them."""

    safety_checker: bool = False
    """Let the model's own checker take images out, which are then made again; off, it is not even loaded."""

    leave_out_after: Attempts = 0
    """A sample whose image was refused this many times is left out, and counted; 0 ends the run at
    `generation.max_attempts` instead. Part of the recipe, since it decides which samples there are.
    """

    guidance_scale: tuple[float, ...] = (2.0,)
    """s in eps(null) + s * (eps(prompt) - eps(null)); 1 is no guidance, at half the cost."""

    guidance_draw: Literal["one_of", "between"] = "one_of"
    """With several scales: one of them for each sample, or any value between two."""

    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Guide from this share of the steps to that one, alone, as arXiv 2404.07724 does; [0, 1] is all of them."""

    num_inference_steps: AtLeastOne = 50
    """Denoising steps an image."""

    generated_size: int = 0
    """Height and width at which the model works, in pixels, to be shrunk from there; 0 is `image_size`."""

    image_size: int = 256
    """Height and width of a delivered image, in pixels."""


@dataclass(frozen=True)
class RecipeConfig(SharedSettings):
    """What decides the images. `generation.recipes.recipe.build_recipe` turns it into a recipe with a hash."""

    label_space: str = "digits"
    """Which classes there are: digits, imagenet1k, imagenet100, or a YAML or CSV file of your own classes."""

    class_weights: dict[str, NotNegative] = field(default_factory=dict)
    """How often a class comes, by wnid or name, where the others weigh 1; empty is exactly balanced."""

    prefix: str = ""
    """Put before every prompt with a space, such as `a photo of`."""

    backgrounds_file: str = ""
    """A YAML file with backgrounds of its own for each class, by wnid or name; `backgrounds` serve the others."""

    captions_file: str = ""
    """A JSONL file of {"class": ..., "caption": ...}: what {caption} may become, drawn uniformly for each sample."""

    revision: str = ""
    """Branch, tag or commit of a hub id; empty is the newest. A folder's revision is the hash of its files."""

    vae: str = ""
    """A decoder in place of the model's, such as madebyollin/taesd: a folder, or a hub id; `ID@REVISION` pins it."""

    loras: dict[str, Finite] = field(default_factory=dict)
    """LoRA weights added to the model's, and their scale: a safetensors file, a folder, or a hub id as for `vae`."""

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
                "not enlarged. Give a smaller image_size."
            )
        if not self.guidance_scale or not all(1 <= scale < math.inf for scale in self.guidance_scale):
            raise ValueError(f"recipe.guidance_scale is {_shown(self.guidance_scale)}; give 1 (no guidance) or more.")
        if self.guidance_draw == "between" and not (
            len(self.guidance_scale) == 2 and self.guidance_scale[0] < self.guidance_scale[1]
        ):
            raise ValueError(
                f"recipe.guidance_scale is {_shown(self.guidance_scale)}, but guidance_draw is between: give two "
                "values, the smaller first, such as [1.5, 3]."
            )
        start, end = self.guidance_interval
        if not 0 <= start < end <= 1:
            raise ValueError(
                f"recipe.guidance_interval is {_shown(self.guidance_interval)}. Give two shares, such as [0.1, 0.7]."
            )

    def _check_templates(self) -> None:
        if not self.templates:
            raise ValueError("recipe.templates is empty. Name one, such as definition.")
        if not all(text.strip() for text in self.backgrounds):
            raise ValueError("recipe.backgrounds has an empty text. Take it out.")
        if {"{", "}"} & set(self.prefix):
            raise ValueError(
                f"recipe.prefix is '{self.prefix}'; fields belong into recipe.templates. Write plain words."
            )
        fields = fields_of(*map(template_text, self.templates))
        if "background" in fields and not (self.backgrounds or self.backgrounds_file):
            raise ValueError("recipe.templates ask for a background: name some in recipe.backgrounds, or places365.")
        if "caption" in fields and not self.captions_file:
            raise ValueError("recipe.templates ask for a caption: name a JSONL file in recipe.captions_file.")
        weights = self.template_weights
        if weights and len(weights) != len(self.templates):
            raise ValueError(
                f"recipe.template_weights has {len(weights)} for {len(self.templates)} templates. Give each one."
            )
        if weights and not (min(weights) >= 0 and abs(math.fsum(weights) - 1) < 1e-6):
            raise ValueError(
                f"recipe.template_weights are {_shown(weights)}, which sum to {math.fsum(weights):g}. Give shares of 0 "
                "or more that sum to 1."
            )


def _shown(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values) or "empty"
