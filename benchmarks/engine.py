"""The engine beside the stock pipeline: `python -m benchmarks.engine CONFIG [section.key=value ...]`.

Needs no Ray. Each row is the recipe's model on one device with one setting more than the row above; all rows make the
same images, in turns, and the table has medians. The stock pipeline is called as its documentation shows, with the same
batch, noise and precision, and returns PIL images.
"""

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from generation.config import GenerationConfig
from generation.diffusers_generator import DiffusersGenerator
from generation.plan import SamplePlan, plan_sample
from generation.recipe import Recipe
from ray_jobs.config import JobConfig, load_config, open_recipe
from ray_jobs.user_errors import user_errors

NUM_ROUNDS = 7
MATRIX_SIZE = 2048
"""Of the multiplication that measures what the device can do."""


@dataclass
class Row:
    """One way to make the images."""

    name: str
    make: Callable[[], np.ndarray]
    """Returns uint8 [N, H, W, 3]."""

    start_seconds: float
    """Loading, and compiling where that is asked for."""

    seconds: list[float] = field(default_factory=list)
    images: np.ndarray | None = None


def main() -> None:
    """Load each row, run them in turns, print the table."""
    with user_errors():
        config = load_config(JobConfig, sys.argv[1:])
        recipe = open_recipe(config)
        if recipe.generator != "diffusers":
            raise ValueError(f"recipe.generator is {recipe.generator}; the engine needs diffusers.")
    torch.set_num_threads(config.generation.threads_per_actor)
    plans = [plan_sample(recipe, index) for index in range(config.generation.batch_size)]
    rows = load_rows(recipe, config.generation, plans)
    for row in rows:
        row.images = row.make()
    for _ in range(NUM_ROUNDS):
        for row in rows:
            row.seconds.append(seconds_of(row.make))
    console = Console(width=120)
    console.print(table_of(rows, recipe, config.generation))
    print_parts(console, recipe, config.generation, plans)


def load_rows(recipe: Recipe, config: GenerationConfig, plans: Sequence[SamplePlan]) -> list[Row]:
    """Return the stock pipeline, the engine, and the engine with one setting more in each row."""
    plain = dataclasses.replace(config, prompt_cache_size=0, channels_last=False, compile=False)
    keeping = dataclasses.replace(plain, prompt_cache_size=config.prompt_cache_size)
    turned = dataclasses.replace(keeping, channels_last=True)
    compiled = dataclasses.replace(turned, compile=True)
    settings = {"engine": plain, "+ prompt cache": keeping, "+ channels last": turned, "+ compile": compiled}
    rows = [load_row("stock pipeline", lambda: stock_maker(recipe, plain, plans))]
    for name, setting in settings.items():
        rows.append(load_row(name, lambda setting=setting: engine_maker(recipe, setting, plans)))
    return rows


def load_row(name: str, load: Callable[[], Callable[[], np.ndarray]]) -> Row:
    """Return a row that is ready, and how long that took."""
    started_at = time.monotonic()
    make = load()
    return Row(name, make, start_seconds=time.monotonic() - started_at)


def stock_maker(recipe: Recipe, config: GenerationConfig, plans: Sequence[SamplePlan]) -> Callable[[], np.ndarray]:
    """Return the pipeline as documented: prompts in, PIL images out; the noise is the plans', to compare images."""
    generator = DiffusersGenerator(recipe, config)
    pipeline = generator.pipeline  # as it was loaded: these settings change nothing about it
    noise = torch.stack([generator.initial_noise(plan) for plan in plans]).to(pipeline.device)

    def make() -> np.ndarray:
        images = pipeline(
            prompt=[plan.prompt for plan in plans],
            latents=noise,
            height=recipe.generated_size,
            width=recipe.generated_size,
            guidance_scale=plans[0].guidance_scale,
            num_inference_steps=recipe.num_inference_steps,
        ).images
        return np.stack([np.asarray(image.resize((recipe.image_size, recipe.image_size))) for image in images])

    return make


def engine_maker(recipe: Recipe, config: GenerationConfig, plans: Sequence[SamplePlan]) -> Callable[[], np.ndarray]:
    """Return the engine with these settings."""
    generator = DiffusersGenerator(recipe, config)
    return lambda: generator.generate(plans).images_nhwc


def seconds_of(make: Callable[[], Any]) -> float:
    """Return how long a call takes; its images are on the host at its end, so that the device is done."""
    started_at = time.perf_counter()
    make()
    return time.perf_counter() - started_at


def table_of(rows: Sequence[Row], recipe: Recipe, config: GenerationConfig) -> Table:
    """Return medians, ratios to the stock pipeline, and how far images are apart from its."""
    device = torch.cuda.get_device_name() if config.gpus_per_actor else f"CPU, {config.threads_per_actor} threads"
    table = Table(
        title=f"{recipe.model}, {recipe.precision}, {recipe.num_inference_steps} steps, guidance "
        f"{recipe.guidance_scale[0]:g}, batch {config.batch_size}, {device}"
    )
    for column in ("", "images/s", "ms/image", "ratio to stock", "mean apart", "most apart", "start"):
        table.add_column(column, justify="right" if column else "left")
    stock = rows[0]
    for row in rows:
        seconds = float(np.median(row.seconds))
        apart = np.abs(_levels(row) - _levels(stock))
        table.add_row(
            row.name,
            f"{config.batch_size / seconds:.1f}",
            f"{1000 * seconds / config.batch_size:.2f}",
            f"{float(np.median(stock.seconds)) / seconds:.2f}",
            f"{apart.mean():.2f} of 255",
            f"{apart.max()} of 255",
            f"{row.start_seconds:.1f} s",
        )
    return table


def _levels(row: Row) -> np.ndarray:
    if row.images is None:
        raise RuntimeError(f"Row '{row.name}' has not been run.")
    return row.images.astype(int)


def print_parts(console: Console, recipe: Recipe, config: GenerationConfig, plans: Sequence[SamplePlan]) -> None:
    """Print where the plain engine's time goes, and its FLOP/s beside what the device can do."""
    generator = DiffusersGenerator(recipe, dataclasses.replace(config, prompt_cache_size=0, compile=False))
    generator.generate(plans)
    with FlopCounterMode(display=False) as counter:
        generator.generate(plans)
    timers = {
        "text": Timer(generator.pipeline, "encode_prompt"),
        "denoise": Timer(generator.pipeline.unet, "forward"),
        "decode": Timer(generator.pipeline.vae, "decode"),
    }
    seconds = seconds_of(lambda: generator.generate(plans))
    rest = seconds - sum(timer.seconds for timer in timers.values())
    parts = {name: timer.seconds for name, timer in timers.items()} | {"all else": rest}
    shares = ", ".join(
        f"{name} {1000 * part / len(plans):.2f} ms ({part / seconds:.0%})" for name, part in parts.items()
    )
    console.print(f"engine, per image: {shares}")
    flops, peak = counter.get_total_flops() / seconds, matmul_flops(generator.pipeline.device, generator.pipeline.dtype)
    console.print(f"{flops / 1e9:,.0f} GFLOP/s, {flops / peak:.0%} of a matrix multiplication's {peak / 1e9:,.0f}")


class Timer:
    """Adds up the time spent in one method of an object, the device's work included."""

    def __init__(self, owner: Any, method: str) -> None:
        """Put itself in the method's place."""
        self.seconds = 0.0
        self.call = getattr(owner, method)
        setattr(owner, method, self)

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        """Call the method."""
        started_at = time.perf_counter()
        result = self.call(*arguments, **settings)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - started_at
        return result


def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the floating-point operations a second of a large matrix multiplication."""
    a = torch.randn(MATRIX_SIZE, MATRIX_SIZE, device=device).to(dtype)

    def multiply() -> None:
        (a @ a)[0, 0].item()

    seconds = [seconds_of(multiply) for _ in range(NUM_ROUNDS)]
    return 2 * MATRIX_SIZE**3 / float(np.median(seconds))


if __name__ == "__main__":
    main()
