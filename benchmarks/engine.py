"""The engine beside the stock pipeline: `python -m benchmarks.engine CONFIG [--weights random] [--beside CONFIG]`.

Needs no Ray. Each row + is the recipe's model on one device with one setting more than the row above; all make the same
images, in turns, and the table has medians. The stock pipeline is called as its documentation shows, with the same
batch, noise and precision, and returns PIL images. `--weights random` builds the model from its configuration, without
a network; `--beside CONFIG` adds a row for another recipe, as its own config has it. `section.key=value` changes the
first config, `generation.key=value` both.
"""

import dataclasses
import importlib.util
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.makers import PLAIN, Engine, Maker, Processes, Stock
from generation.batch_size import MemoryMeter
from generation.config import GenerationConfig
from generation.diffusers_generator import DiffusersGenerator
from generation.plan import SamplePlan, plan_sample
from generation.recipe import Recipe
from ray_jobs.config import JobConfig, load_config, open_recipe
from ray_jobs.options import split_options
from ray_jobs.user_errors import user_errors

NUM_ROUNDS = 7
MIN_TURN_SECONDS = 1.0
MATRIX_SIZE = 4096
"""Of the multiplication that measures what the device can do."""

NUM_PRODUCTS = 5
"""Timed at once: on a GPU one alone takes hardly longer than being told to."""

PARTS = ("text", "denoise", "decode", "post")


@dataclass
class Case:
    """A recipe's model on one device, and the plans that are made."""

    recipe: Recipe
    config: GenerationConfig
    plans: Sequence[SamplePlan]


@dataclass
class Row:
    """One way to make a case's images, and what it came to."""

    name: str
    make: Maker
    start_seconds: float
    """Loading, and compiling where that is asked for."""

    seconds: list[float] = field(default_factory=list)
    images: np.ndarray | None = None
    part_seconds: dict[str, float] = field(default_factory=dict)
    batch_bytes: int | None = None
    """The most that a batch takes beside the model; None where it was not measured."""

    @property
    def median_seconds(self) -> float:
        """How long a call takes."""
        return float(np.median(self.seconds))

    @property
    def images_per_second(self) -> float:
        """Images of all processes."""
        return self.make.num_images / self.median_seconds


def main() -> None:
    """Load each row, run them in turns, print the table."""
    with user_errors(), tempfile.TemporaryDirectory() as folder:
        options, arguments = split_options(sys.argv[1:], ("weights", "beside"))
        if options.get("weights", "random") != "random":
            raise ValueError(f"--weights is '{options['weights']}'. Give random, or leave it out for the model's own.")
        logging.basicConfig(format="%(message)s")
        logging.getLogger("generation").setLevel(logging.INFO)
        random_weights_in = Path(folder) if "weights" in options else None
        case = open_case(arguments, random_weights_in)
        rows = load_rows(case)
        if "beside" in options:
            for_device = [argument for argument in arguments[1:] if argument.startswith("generation.")]
            other = open_case([options["beside"], *for_device], random_weights_in)
            rows.append(
                load_row(Path(options["beside"]).stem, partial(Engine, other.recipe, other.config, other.plans))
            )
        measure(rows)
        for row in rows:
            row.make.close()
        console = Console(width=160)
        console.print(table_of(rows, case))
        print_flops(console, case)


def ratios(arguments: Sequence[str]) -> dict[str, float]:
    """Measure the engine with one setting more in each row; return its rates as multiples of the stock pipeline's."""
    with user_errors():
        case = open_case(arguments, random_weights_in=None)
    rows = load_steps(case)
    take_turns(rows)
    return ratios_of(rows)


def ratios_of(rows: Sequence[Row]) -> dict[str, float]:
    """Return images a second of each row after the first as multiples of the first's, the stock pipeline."""
    return {row.name: row.images_per_second / rows[0].images_per_second for row in rows[1:]}


def open_case(arguments: Sequence[str], random_weights_in: Path | None) -> Case:
    """Return what a config says, its batch size found if it has none."""
    config = load_config(JobConfig, arguments)
    recipe = open_recipe(config)
    if recipe.generator != "diffusers":
        raise ValueError(f"recipe.generator is {recipe.generator}; the engine needs diffusers.")
    if random_weights_in is not None:
        recipe = with_random_weights(recipe, random_weights_in)
    torch.set_num_threads(config.generation.threads_per_actor)
    plain = dataclasses.replace(config.generation, **PLAIN)
    batch_size = plain.batch_size or DiffusersGenerator(recipe, plain).batch_size
    plans = [plan_sample(recipe, index) for index in range(batch_size)]
    return Case(recipe, dataclasses.replace(config.generation, batch_size=batch_size), plans)


def with_random_weights(recipe: Recipe, folder: Path) -> Recipe:
    """Return the recipe with models of the same architecture, which are written into the folder."""
    from benchmarks.architectures import write_random_model

    places = {name: folder / name.replace("/", "--") for name in (recipe.model, recipe.vae) if name}
    for name, place in places.items():
        if not place.exists():
            write_random_model(name, place, recipe.precision)
    return dataclasses.replace(recipe, model=str(places[recipe.model]), vae=str(places.get(recipe.vae, "")))


def load_rows(case: Case) -> list[Row]:
    """Return all steps, other ways to compute attention above the last of them, and processes on all cores below."""
    recipe, plans, settings = case.recipe, case.plans, step_settings(case.config)
    rows = load_steps(case)
    rows[-1:-1] = [
        load_row(
            f"  with {attention}",
            partial(Engine, recipe, dataclasses.replace(settings["+ channels last"], **alone), plans),
        )
        for attention, alone in attentions(case.config).items()
    ]
    num_cores = os.cpu_count() or 1
    if not case.config.gpus_per_actor and num_cores > 1:
        for name, load in (("stock", Stock), ("engine", Engine)):
            all_cores = partial(Processes, num_cores, partial(load, recipe, settings["+ compile"], plans))
            rows.append(load_row(f"{name}, {num_cores} x 1 thread", all_cores))
    return rows


def load_steps(case: Case) -> list[Row]:
    """Return the stock pipeline, the engine, and the engine with one setting more in each row."""
    rows = [load_row("stock pipeline", partial(Stock, case.recipe, case.config, case.plans))]
    for name, setting in step_settings(case.config).items():
        rows.append(load_row(name, partial(Engine, case.recipe, setting, case.plans)))
    return rows


def step_settings(config: GenerationConfig) -> dict[str, GenerationConfig]:
    """Return the engine's settings by row: each has those of the row above it and one more."""
    setting = dataclasses.replace(config, **PLAIN)
    settings = {"engine": setting}
    for name, change in settings_to_add(config).items():
        settings[f"+ {name}"] = setting = dataclasses.replace(setting, **change)
    return settings


def settings_to_add(config: GenerationConfig) -> dict[str, dict[str, Any]]:
    """Return what is turned on from row to row."""
    return {
        "prompt cache": {"prompt_cache_size": config.prompt_cache_size},
        "channels last": {"channels_last": True},
        "compile": {"compile": True},
    }


def attentions(config: GenerationConfig) -> dict[str, dict[str, Any]]:
    """Return other ways to compute attention, each tried by itself and not carried on to the rows below."""
    has_xformers = config.gpus_per_actor and importlib.util.find_spec("xformers")
    return {"fused QKV": {"fuse_qkv": True}} | ({"xformers": {"attention": "xformers"}} if has_xformers else {})


def load_row(name: str, load: Callable[[], Maker]) -> Row:
    """Return a row that is ready, and how long that took."""
    started_at = time.monotonic()
    make = load()
    return Row(name, make, start_seconds=time.monotonic() - started_at)


def take_turns(rows: Sequence[Row]) -> None:
    """Run each row once, uncounted, then all in turns."""
    for row in rows:
        row.images = row.make()
    for _ in range(NUM_ROUNDS):
        for row in rows:
            row.seconds.append(seconds_of_turn(row.make))


def measure(rows: Sequence[Row]) -> None:
    """Run all rows in turns, then each once more to measure its parts and its memory."""
    take_turns(rows)
    for row in rows:
        if row.make.generator is not None:
            look_inside(row, row.make.generator)
            if row.make.generator.batch_size != row.make.num_images:
                raise ValueError(f"'{row.name}' ran out of memory beside the other rows. Give generation.batch_size.")


def seconds_of(make: Callable[[], Any]) -> float:
    """Return how long a call takes; its images are on the host at its end, so that the device is done."""
    started_at = time.perf_counter()
    make()
    return time.perf_counter() - started_at


def seconds_of_turn(make: Callable[[], Any]) -> float:
    """Return how long a call takes among others like it; a turn lasts `MIN_TURN_SECONDS` or one call."""
    started_at, num_calls = time.perf_counter(), 0
    while num_calls == 0 or time.perf_counter() - started_at < MIN_TURN_SECONDS:
        make()
        num_calls += 1
    return (time.perf_counter() - started_at) / num_calls


def look_inside(row: Row, generator: DiffusersGenerator) -> None:
    """Measure memory, and the parts, with the device waited for before and after each: `else` is what is none of them.

    Waiting keeps the host from working ahead of the device, so that `else` is an upper bound.
    """
    meter = MemoryMeter(generator.device)
    before = meter.in_use_bytes()
    meter.reset()
    row.make()
    row.batch_bytes = meter.peak_bytes() - before
    timers = [
        Timer(generator.pipeline, "encode_prompt"),
        Timer(generator.denoiser, "forward"),
        Timer(generator.pipeline.vae, "decode"),
        Timer(generator, "delivered"),
    ]
    whole = seconds_of(row.make)
    row.part_seconds = {part: timer.seconds for part, timer in zip(PARTS, timers, strict=True)}
    row.part_seconds["else"] = whole - sum(row.part_seconds.values())
    for timer in timers:
        timer.remove()


class Timer:
    """Adds up the time spent in one method of an object, the device's work included."""

    def __init__(self, owner: Any, method: str) -> None:
        """Put itself in the method's place."""
        self.seconds = 0.0
        self.owner, self.method = owner, method
        self.call = getattr(owner, method)
        setattr(owner, method, self)

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        """Call the method; what the device has left to do from before is not the method's."""
        wait_for_device()
        started_at = time.perf_counter()
        result = self.call(*arguments, **settings)
        wait_for_device()
        self.seconds += time.perf_counter() - started_at
        return result

    def remove(self) -> None:
        """Put the method back."""
        setattr(self.owner, self.method, self.call)


def table_of(rows: Sequence[Row], case: Case) -> Table:
    """Return medians, ratios to the stock pipeline, milliseconds an image by part, and how far images are apart."""
    recipe, config = case.recipe, case.config
    device = torch.cuda.get_device_name() if config.gpus_per_actor else f"CPU, {config.threads_per_actor} threads"
    table = Table(
        title=f"{Path(recipe.model).name}, {recipe.precision}, {recipe.num_inference_steps} steps, "
        f"{recipe.generated_size} px, guidance {recipe.guidance_scale[0]:g}, batch {len(case.plans)}, {device}"
    )
    table.add_column("")
    for column in ("images/s", "to stock", "ms/image", *PARTS, "else", "batch GB", "mean apart", "most apart", "start"):
        table.add_column(column, justify="right")
    for row in rows:
        milliseconds = {part: 1000 * seconds / row.make.num_images for part, seconds in row.part_seconds.items()}
        table.add_row(
            row.name,
            f"{row.images_per_second:.4g}",
            f"{row.images_per_second / rows[0].images_per_second:.2f}",
            f"{1000 / row.images_per_second:.4g}",
            *(f"{milliseconds[part]:.3g}" if part in milliseconds else "" for part in (*PARTS, "else")),
            "" if row.batch_bytes is None else f"{row.batch_bytes / 1e9:.2f}",
            *apart(row, rows[0]),
            f"{row.start_seconds:.1f} s",
        )
    return table


def apart(row: Row, stock: Row) -> tuple[str, str]:
    """Return the mean and the largest difference of values, of 255; empty for images of other plans."""
    if row.images is None or stock.images is None or row.images.shape != stock.images.shape:
        return "", ""
    difference = np.abs(row.images.astype(int) - stock.images.astype(int))
    return f"{difference.mean():.2f}", str(difference.max())


def print_flops(console: Console, case: Case) -> None:
    """Print the plain engine's FLOP/s beside those of a large matrix multiplication."""
    generator = DiffusersGenerator(case.recipe, dataclasses.replace(case.config, **PLAIN))
    generator.generate(case.plans)
    with FlopCounterMode(display=False) as counter:
        generator.generate(case.plans)
    seconds = float(np.median([seconds_of(lambda: generator.generate(case.plans)) for _ in range(NUM_ROUNDS)]))
    flops, peak = counter.get_total_flops() / seconds, matmul_flops(generator.device, generator.dtype)
    console.print(
        f"engine: {counter.get_total_flops() / len(case.plans) / 1e9:,.3g} GFLOP an image, {flops / 1e9:,.0f} GFLOP/s, "
        f"{flops / peak:.0%} of a matrix multiplication's {peak / 1e9:,.0f}"
    )


def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the floating-point operations a second of a large matrix multiplication."""
    a = torch.randn(MATRIX_SIZE, MATRIX_SIZE, device=device).to(dtype)

    def multiply() -> None:
        products = [a @ a for _ in range(NUM_PRODUCTS)]
        products[-1][0, 0].item()

    multiply()
    seconds = [seconds_of(multiply) for _ in range(NUM_ROUNDS)]
    return NUM_PRODUCTS * 2 * MATRIX_SIZE**3 / float(np.median(seconds))


def wait_for_device() -> None:
    """Return when the GPU, if there is one, has done all it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
