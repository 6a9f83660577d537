"""Ways to make the images of given plans, loaded once and called repeatedly."""

import dataclasses
import logging
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
"""Settings of an engine without optimisations."""

CUDA_GRAPHS: dict[str, Any] = {"triton.cudagraphs": True}
"""torch.compile options that launch all kernels of a call at once.

A graph belongs to the thread that recorded it; an actor's two threads cannot share it.
"""


class Maker:
    """Makes the images of a batch of plans."""

    num_images: int
    """Number of images per call, in all processes together."""

    generator: DiffusersGenerator | None = None
    """The generator, if it runs in this process."""

    def __call__(self) -> np.ndarray:
        """Return the plans' images, uint8 [N, H, W, 3]; further processes make as many."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop any processes."""


class Stock(Maker):
    """diffusers' pipeline, called as its documentation shows: prompts in, PIL images out; with the plans' noise."""

    def __init__(self, recipe: Recipe, config: GenerationConfig, plans: Sequence[SamplePlan]) -> None:
        config = dataclasses.replace(config, **PLAIN)
        self.generator = generator = DiffusersGenerator(recipe, config)
        self.num_images = len(plans)
        self.recipe, self.plans = recipe, plans
        self.pipeline = generator.pipeline  # unmodified with these settings
        noise = torch.stack([generator.initial_noise(plan) for plan in plans])
        self.noise = noise.to(generator.device, generator.dtype)
        negative = recipe.negative_prompt
        self.negative = {"negative_prompt": [negative] * len(plans)} if negative else {}

    def __call__(self) -> np.ndarray:
        """Return the pipeline's images."""
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
        """Load the generator; `compile_options` for torch.compile replace the generator's own."""
        self.generator = generator = DiffusersGenerator(recipe, config, compile_options)
        self.num_images = len(plans)
        self.generate = lambda: generator.generate(plans).images_nhwc

    def __call__(self) -> np.ndarray:
        """Return the generator's images."""
        return self.generate()


class Processes(Maker):
    """Several processes with one thread each, working in parallel like actors that share a machine's cores."""

    def __init__(self, number: int, load: Callable[[], Maker]) -> None:
        """Start the processes and wait until all have loaded; `load` is pickled."""
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in range(number)]
        self.ends = [here for here, _ in pipes]
        self.processes = [context.Process(target=_work, args=(there, load), daemon=True) for _, there in pipes]
        for process, (_, there) in zip(self.processes, pipes, strict=True):
            process.start()
            there.close()  # so that recv() fails if the process dies
        self.num_images = sum(end.recv() for end in self.ends)

    def __call__(self) -> np.ndarray:
        """Make images in all processes; return those of the first."""
        for end in self.ends:
            end.send(True)
        images = [end.recv() for end in self.ends]
        return images[0]

    def close(self) -> None:
        """Stop the processes."""
        for end, process in zip(self.ends, self.processes, strict=True):
            end.send(False)
            process.join()


def hide_torch_warnings() -> None:
    """Hide torch's warnings in this process, such as of a missing CUDA runtime when it compiles for the CPU."""
    logging.getLogger("torch").setLevel(logging.ERROR)


def _work(end: Connection, load: Callable[[], Maker]) -> None:
    hide_torch_warnings()
    torch.set_num_threads(1)
    make = load()
    end.send(make.num_images)
    while end.recv():
        end.send(make())
