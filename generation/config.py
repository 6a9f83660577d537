"""Settings of generation: what the images show, and the pool of actors that makes them."""

import math
from dataclasses import dataclass
from typing import Literal

from generation.prompts import needs_background


@dataclass(frozen=True)
class RecipeConfig:
    """What decides the images. `generation.recipe.build_recipe` turns it into a recipe with a hash."""

    seed: int = 0
    """Another seed gives another data set."""

    label_space: str = "digits"
    """Which classes there are: the name of a table in generation/data."""

    prompt: str = "definition"
    """A prompt form of arXiv 2212.08420 by name; see generation/prompts.py."""

    backgrounds: tuple[str, ...] = ()
    """What `{background}` may become, drawn uniformly for each sample."""

    generator: Literal["diffusers", "painted"] = "diffusers"
    """`painted` computes images from the plan without a model: for tests and load experiments."""

    model: str = "generation/digits/model"
    """A folder in diffusers' layout, or a hub id such as CompVis/stable-diffusion-v1-4."""

    revision: str = ""
    """Branch, tag or commit of a hub id; empty is the newest. A folder's revision is the hash of its files."""

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the model's weights and activations."""

    guidance_scale: float = 2.0
    """s in eps(null) + s * (eps(prompt) - eps(null)); 1 is no guidance, at half the cost."""

    num_inference_steps: int = 50
    """Denoising steps an image."""

    image_size: int = 256
    """Height and width of an image, in pixels."""

    def __post_init__(self) -> None:
        """Refuse impossible settings before anything starts."""
        if needs_background(self.prompt) and not self.backgrounds:
            raise ValueError(
                f"recipe.prompt '{self.prompt}' needs recipe.backgrounds, which is empty. Name some, such as [plain]."
            )
        if self.image_size < 8 or self.image_size % 8:
            raise ValueError(
                f"recipe.image_size is {self.image_size}; latent diffusion needs a multiple of 8. Try "
                f"{max(8, self.image_size // 8 * 8)}."
            )
        if self.num_inference_steps < 1:
            raise ValueError(f"recipe.num_inference_steps is {self.num_inference_steps}; give 1 or more.")
        if not 1 <= self.guidance_scale < math.inf:
            raise ValueError(f"recipe.guidance_scale is {self.guidance_scale}; give 1 (no guidance) or more.")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"recipe.seed is {self.seed}; give 0 to 2**64 - 1.")


@dataclass(frozen=True)
class GenerationConfig:
    """The pool of generator actors, and how the stream asks it. Decides no image."""

    min_actors: int = 1
    """The pool shrinks to this many actors when the trainer asks for less."""

    max_actors: int = 1
    """The pool starts with this many actors and never has more."""

    gpus_per_actor: float = 1.0
    """0 runs the actor on the CPU."""

    cpus_per_actor: float = 0.5
    """Cores that Ray counts as taken; see `threads_per_actor` for the cores really used."""

    threads_per_actor: int = 1
    """Threads that torch may use in an actor."""

    batch_size: int = 32
    """Images an actor makes at once."""

    max_attempts: int = 3
    """A refused image is made again until this many attempts were refused."""

    max_buffered_bytes: int = 100_000_000
    """How far the stream may run ahead of training, in bytes of images."""

    wait_for_nodes_seconds: float = 0.0
    """How long to wait for the cluster's autoscaler to bring nodes; 0 asks that all fits on the nodes there are."""

    start_timeout_seconds: float = 900.0
    """The longest that the pool may take to start, download of the model included."""

    idle_seconds: float = 60.0
    """An actor above `min_actors` that nobody needs is given back after this long."""

    painted_batch_seconds: float = 0.0
    """A painted generator takes at least this long for a batch, which gives it a known rate."""

    def __post_init__(self) -> None:
        """Refuse impossible settings before any GPU is taken."""
        if not 0 <= self.min_actors <= self.max_actors or self.max_actors < 1:
            raise ValueError(
                f"generation.min_actors is {self.min_actors} and max_actors {self.max_actors}; "
                "give 0 <= min_actors <= max_actors, and max_actors of 1 or more."
            )
        for name in ("threads_per_actor", "batch_size", "max_buffered_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"generation.{name} is {getattr(self, name)}; give 1 or more.")
        if not 1 <= self.max_attempts <= 127:
            raise ValueError(f"generation.max_attempts is {self.max_attempts}; give 1 to 127.")
        for name in (
            "gpus_per_actor",
            "cpus_per_actor",
            "wait_for_nodes_seconds",
            "start_timeout_seconds",
            "idle_seconds",
            "painted_batch_seconds",
        ):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"generation.{name} is {getattr(self, name)}; give 0 or more.")

    @property
    def longest_start_seconds(self) -> float:
        """How long the pool may be without an actor that is up."""
        return self.start_timeout_seconds + self.wait_for_nodes_seconds
