"""Ways to make the images of some plans, each ready to be called again and again."""

import dataclasses
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from generation.config import GenerationConfig
from generation.engine.diffusers_generator import DiffusersGenerator
from generation.recipes.plan import SamplePlan
from generation.recipes.recipe import Recipe

PLAIN: dict[str, Any] = {
    "prompt_cache_size": 0,
    "channels_last": False,
    "fuse_qkv": False,
    "compile": False,
    "attention": "sdpa",
}
"""Settings of an engine without any of what makes it faster."""

CUDA_GRAPHS: dict[str, Any] = {"triton.cudagraphs": True}
"""torch.compile's options that launch all kernels of a call at once.

Graphs belong to the thread that recorded them; an actor's two threads could not share them.
"""


class Maker:
    """Makes the images of a batch of plans."""

    num_images: int
    """What a call makes, in all processes."""

    generator: DiffusersGenerator | None = None
    """The generator in this process, if it works here."""

    def __call__(self) -> np.ndarray:
        """Return uint8 [N, H, W, 3] of the plans; further processes make as many."""
        raise NotImplementedError

    def close(self) -> None:
        """End what was started."""


class Stock(Maker):
    """diffusers' pipeline as its documentation shows: prompts in, PIL images out; the noise is the plans'."""

    def __init__(self, recipe: Recipe, config: GenerationConfig, plans: Sequence[SamplePlan]) -> None:
        config = dataclasses.replace(config, **PLAIN)
        self.generator = generator = DiffusersGenerator(recipe, config)
        self.num_images = len(plans)
        self.recipe, self.plans = recipe, plans
        self.pipeline = generator.pipeline  # as it was loaded: nothing about it is changed by these settings
        noise = torch.stack([generator.initial_noise(plan) for plan in plans])
        self.noise = noise.to(generator.device, generator.dtype)
        negative = recipe.negative_prompt
        self.negative = {"negative_prompt": [negative] * len(plans)} if negative else {}

    def __call__(self) -> np.ndarray:
        """Call it."""
        images = self.pipeline(
            prompt=[plan.prompt for plan in self.plans],
            latents=self.noise,
            height=self.recipe.generated_size,
            width=self.recipe.generated_size,
            guidance_scale=self.plans[0].guidance_scale,
            num_inference_steps=self.recipe.num_inference_steps,
            **self.negative,
        ).images
        size = (self.recipe.image_size, self.recipe.image_size)
        return np.stack([np.asarray(image.resize(size)) for image in images])


class Engine(Maker):
    """Figment's generator with these settings."""

    def __init__(
        self,
        recipe: Recipe,
        config: GenerationConfig,
        plans: Sequence[SamplePlan],
        compile_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Load it, with torch.compile's options where they are not to be the generator's own."""
        self.generator = generator = DiffusersGenerator(recipe, config, compile_options)
        self.num_images = len(plans)
        self.generate = lambda: generator.generate(plans).images_nhwc

    def __call__(self) -> np.ndarray:
        """Call it."""
        return self.generate()


class Processes(Maker):
    """Several processes of one thread each, at work at the same time, as actors that share a machine's cores are."""

    def __init__(self, number: int, load: Callable[[], Maker]) -> None:
        """Start them and wait until all have loaded; `load` is pickled."""
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in range(number)]
        self.ends = [here for here, _ in pipes]
        self.processes = [context.Process(target=_work, args=(there, load), daemon=True) for _, there in pipes]
        for process, (_, there) in zip(self.processes, pipes, strict=True):
            process.start()
            there.close()  # so that a process that dies ends the wait for it
        self.num_images = sum(end.recv() for end in self.ends)

    def __call__(self) -> np.ndarray:
        """Let all make their images; return those of one."""
        for end in self.ends:
            end.send(True)
        images = [end.recv() for end in self.ends]
        return images[0]

    def close(self) -> None:
        """End the processes."""
        for end, process in zip(self.ends, self.processes, strict=True):
            end.send(False)
            process.join()


def _work(end: Connection, load: Callable[[], Maker]) -> None:
    torch.set_num_threads(1)
    make = load()
    end.send(make.num_images)
    while end.recv():
        end.send(make())
