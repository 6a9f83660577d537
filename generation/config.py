"""Settings of generation: what the images show, and the pool of actors that makes them."""

import math
from dataclasses import dataclass, field
from typing import Literal

from generation.prompts import fields_of, template_text


@dataclass(frozen=True)
class RecipeConfig:
    """What decides the images. `generation.recipe.build_recipe` turns it into a recipe with a hash."""

    seed: int = 0
    """Another seed gives another data set."""

    label_space: str = "digits"
    """Which classes there are: digits, imagenet1k, imagenet100, or a YAML or CSV file of your own classes."""

    class_weights: dict[str, float] = field(default_factory=dict)
    """How often a class comes, by wnid or name, where the others weigh 1; empty is exactly balanced."""

    templates: tuple[str, ...] = ("definition",)
    """Prompt forms by name (generation/prompts.py), or texts with {fields}; one is drawn for each sample."""

    template_weights: tuple[float, ...] = ()
    """Share of samples with each template, summing to 1; empty is equal shares."""

    prefix: str = ""
    """Put before every prompt with a space, such as `a photo of`."""

    negative_prompt: str = ""
    """What guidance leads away from; without effect where the guidance scale is 1."""

    lemmas: Literal["all", "first"] = "all"
    """What {lemmas} becomes: all names of the class, its own first, joined with commas; or its own alone."""

    hypernym: Literal["first", "random", "all"] = "first"
    """What {hypernym} becomes where a synset has several; `random` draws one for each sample."""

    backgrounds: tuple[str, ...] = ()
    """What {background} may become, drawn uniformly for each sample; `places365` stands for its 365 scenes."""

    backgrounds_file: str = ""
    """A YAML file with backgrounds of its own for each class, by wnid or name; `backgrounds` serve the others."""

    captions_file: str = ""
    """A JSONL file of {"class": ..., "caption": ...}: what {caption} may become, drawn uniformly for each sample."""

    generator: Literal["diffusers", "painted"] = "diffusers"
    """`painted` computes images from the plan without a model: for tests and load experiments."""

    model: str = "generation/digits/model"
    """A folder in diffusers' layout, or a hub id such as CompVis/stable-diffusion-v1-4."""

    revision: str = ""
    """Branch, tag or commit of a hub id; empty is the newest. A folder's revision is the hash of its files."""

    variant: str = ""
    """Which weights of a model that comes with several, such as fp16."""

    pipeline: str = ""
    """The class in diffusers that runs the model; empty is what AutoPipelineForText2Image takes for it."""

    vae: str = ""
    """A decoder in place of the model's, such as madebyollin/taesd: a folder, or a hub id; `ID@REVISION` pins it."""

    loras: dict[str, float] = field(default_factory=dict)
    """LoRA weights added to the model's, and their scale: a safetensors file, a folder, or a hub id as for `vae`."""

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the model's weights and activations."""

    scheduler: Literal["model", "pndm", "ddim", "dpm++", "euler", "euler_ancestral", "unipc", "lcm"] = "model"
    """How noise is removed: `model` is what the model comes with, the others as diffusers implements them."""

    safety_checker: bool = False
    """Let the model's own checker take images out, which are then made again; off, it is not even loaded."""

    leave_out_after: int = 0
    """A sample whose image was refused this many times is left out, and counted; 0 ends the run at
    `generation.max_attempts` instead. Part of the recipe, since it decides which samples there are.
    """

    guidance_scale: tuple[float, ...] = (2.0,)
    """s in eps(null) + s * (eps(prompt) - eps(null)); 1 is no guidance, at half the cost."""

    guidance_draw: Literal["one_of", "between"] = "one_of"
    """With several scales: one of them for each sample, or any value between two."""

    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Guide from this share of the steps to that one, alone, as arXiv 2404.07724 does; [0, 1] is all of them."""

    num_inference_steps: int = 50
    """Denoising steps an image."""

    generated_size: int = 0
    """Height and width at which the model works, in pixels, to be shrunk from there; 0 is `image_size`."""

    image_size: int = 256
    """Height and width of a delivered image, in pixels."""

    def __post_init__(self) -> None:
        """Refuse impossible settings before anything starts."""
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
        if self.num_inference_steps < 1:
            raise ValueError(f"recipe.num_inference_steps is {self.num_inference_steps}; give 1 or more.")
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
        for name, scale in self.loras.items():
            if not math.isfinite(scale):
                raise ValueError(f"recipe.loras gives '{name}' the scale {scale}. Give a number, such as 1.")
        if not 0 <= self.leave_out_after <= 127:
            raise ValueError(f"recipe.leave_out_after is {self.leave_out_after}; give 0 (nothing) to 127 attempts.")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"recipe.seed is {self.seed}; give 0 to 2**64 - 1.")

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
        for name, weight in self.class_weights.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"recipe.class_weights.{name} is {weight:g}; give 0 or more.")


def _shown(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values) or "empty"


@dataclass(frozen=True)
class GenerationConfig:
    """The pool of generator actors, and how the stream asks it. Decides no image."""

    min_actors: int = 1
    """The pool shrinks to no less than this many actors where the trainer needs less."""

    max_actors: int = 1
    """The pool never has more."""

    initial_actors: int = 0
    """The pool starts with this many actors; 0 is `max_actors`. Training does not wait for more than `min_actors`."""

    gpus_per_actor: float = 1.0
    """0 runs the actor on the CPU; with a share of a GPU, such as 0.5, several actors are on one."""

    cpus_per_actor: float = 0.5
    """Cores that Ray counts as taken; see `threads_per_actor` for the cores really used."""

    label_selector: dict[str, str] = field(default_factory=dict)
    """Labels of the nodes that may hold an actor, as Ray selects by them: `{ray.io/node-group: generator}`,
    `{ray.io/accelerator-type: "in(L4,A10G)"}`; empty is any node.
    """

    threads_per_actor: int = 1
    """Threads that torch may use in an actor."""

    batch_size: int = 0
    """Images an actor makes at once; 0 is the best that it finds when it starts, within the memory there is."""

    batch_sizes: dict[str, int] = field(default_factory=dict)
    """The same for types of GPU in place of `batch_size`: `{L4: 8, A100: 32}`, by nodes' `ray.io/accelerator-type`."""

    attention: Literal["sdpa", "xformers"] = "sdpa"
    """By torch's scaled_dot_product_attention, or by xformers, which needs a GPU and the extra `gpu`."""

    fuse_qkv: bool = False
    """Compute queries, keys and values of an attention layer in one multiplication."""

    channels_last: bool = False
    """Lay weights and activations out channel by channel, as convolutions in half precision like it on GPUs."""

    compile: bool = False
    """Compile denoiser and decoder when an actor starts, for a minute; batches are filled up to `batch_size`."""

    prompt_cache_size: int = 2_000
    """A recipe of no more prompts has their embeddings kept, 0.2 MB each for Stable Diffusion in float16."""

    max_attempts: int = 10
    """A refused image is made again until this many attempts were refused, which ends the run, unless
    `recipe.leave_out_after` says to do without.

    With 5% refused at each attempt that is one run in eight million, of 1.3 million images each; with 30% of one class
    of 1,300 images, one in 130.
    """

    max_buffered_bytes: int = 100_000_000
    """How far the stream may run ahead of training, in bytes of images.

    Beside it who asks holds what is answered before its turn: 4 batches an actor, up to 16 once one came late.
    """

    wait_for_nodes_seconds: float = 0.0
    """How long to wait for the cluster's autoscaler to bring nodes; 0 asks that all fits on the nodes there are."""

    start_timeout_seconds: float = 900.0
    """The longest that the pool may take to start, download of the model included."""

    idle_seconds: float = 60.0
    """An actor above `min_actors` that nobody needs is given back after this long."""

    painted_batch_seconds: float = 0.0
    """A painted generator takes at least this long for a batch, which gives it a known rate."""

    painted_start_seconds: float = 0.0
    """A painted generator takes this long to start, as if it loaded a model."""

    def __post_init__(self) -> None:
        """Refuse impossible settings before any GPU is taken."""
        if not 0 <= self.min_actors <= self.max_actors or self.max_actors < 1:
            raise ValueError(
                f"generation.min_actors is {self.min_actors} and max_actors {self.max_actors}; "
                "give 0 <= min_actors <= max_actors, and max_actors of 1 or more."
            )
        if self.initial_actors and not self.min_actors <= self.initial_actors <= self.max_actors:
            raise ValueError(
                f"generation.initial_actors is {self.initial_actors}; give {self.min_actors} to {self.max_actors}, as "
                "min_actors and max_actors are, or 0 for the most."
            )
        if self.attention == "xformers" and (self.fuse_qkv or not self.gpus_per_actor):
            raise ValueError("generation.attention is xformers, which needs gpus_per_actor and no fuse_qkv. Take sdpa.")
        for name in ("threads_per_actor", "max_buffered_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"generation.{name} is {getattr(self, name)}; give 1 or more.")
        for name, size in self.batch_sizes.items():
            if size < 1:
                raise ValueError(f"generation.batch_sizes.{name} is {size}; give 1 or more.")
        if not 1 <= self.max_attempts <= 127:
            raise ValueError(f"generation.max_attempts is {self.max_attempts}; give 1 to 127.")
        check_not_negative(
            "generation",
            self,
            "gpus_per_actor",
            "cpus_per_actor",
            "batch_size",
            "prompt_cache_size",
            "wait_for_nodes_seconds",
            "start_timeout_seconds",
            "idle_seconds",
            "painted_batch_seconds",
            "painted_start_seconds",
        )
        check_gpus("generation.gpus_per_actor", self.gpus_per_actor)

    @property
    def num_initial_actors(self) -> int:
        """How many actors the pool starts with."""
        return self.initial_actors or self.max_actors

    @property
    def longest_start_seconds(self) -> float:
        """How long the pool may be without an actor that is up."""
        return self.start_timeout_seconds + self.wait_for_nodes_seconds


def check_not_negative(section: str, settings: object, *names: str) -> None:
    """Raise ValueError for one of these settings of a section that is below 0, infinite, or no number."""
    for name in names:
        if not 0 <= getattr(settings, name) < math.inf:
            raise ValueError(f"{section}.{name} is {getattr(settings, name)}; give 0 or more.")


def check_gpus(name: str, gpus: float) -> None:
    """Raise ValueError for what Ray gives nobody: more than one GPU, and a share of another."""
    if gpus > 1 and gpus % 1:
        raise ValueError(f"{name} is {gpus:g}; give a whole number, or a share below 1.")


@dataclass(frozen=True)
class DataConfig:
    """Where samples come from, and whether and how they are kept: as shards of WebDataset's format."""

    source: Literal["stream", "shards", "real"] = "stream"
    """What training takes: images generated meanwhile, those kept in `shards`, or, as a reference, `real` ones."""

    shards: str = ""
    """What to train on where `source` is shards: a folder or URL that `ray_jobs.generate`, or `tee`, has written."""

    real: str = ""
    """What to train on where `source` is real: `digits`, or a folder of images by class; the recipe says which classes
    alone.
    """

    tee: str = ""
    """Keep what the stream generates here, a folder or URL such as s3://bucket/folder; empty keeps nothing."""

    replays: int = 0
    """With `tee`: how often what was kept is trained on again, after it streamed. `training.num_images` counts all."""

    shard_size: int = 1024
    """Images in a shard, a multiple of the batches in which they are made."""

    image_format: Literal["png", "jpg", "webp"] = "png"
    """Files that images are kept as."""

    quality: int = 0
    """0 is lossless, which jpg is not; else the format's own scale, 1 to 100."""

    num_readers: int = 2
    """Processes that read and decode shards, or real images that are mixed in."""

    def __post_init__(self) -> None:
        """Refuse impossible settings before anything starts."""
        for name in ("shard_size", "num_readers"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name} is {getattr(self, name)}; give 1 or more.")
        lowest, highest = {"png": (0, 0), "webp": (0, 100), "jpg": (1, 100)}[self.image_format]
        if not lowest <= self.quality <= highest:
            raise ValueError(
                f"data.quality is {self.quality}; for {self.image_format} give {lowest} to {highest}. 0 is lossless."
            )
        if self.source == "shards" and not self.shards:
            raise ValueError("data.source is shards, but data.shards names none. Give a folder or URL of shards.")
        if self.replays < 0 or (self.replays and not self.tee):
            raise ValueError(f"data.replays is {self.replays}; give 0, or 1 or more with data.tee.")
        for name in ("shards", "real"):
            if getattr(self, name) and self.source != name:
                raise ValueError(f"data.{name} is given, but data.source is {self.source}. Add data.source={name}.")
        if self.source == "real" and not self.real:
            raise ValueError("data.source is real, but data.real names no images. Give digits, or a folder of classes.")
        if self.source != "stream" and self.tee:
            raise ValueError(f"data.tee keeps what is generated, but data.source is {self.source}. Leave one out.")
