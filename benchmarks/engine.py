"""Compare engine and stock pipeline: `python -m benchmarks.engine CONFIG [--weights random] [--beside CONFIG]`.

Needs no Ray. Each row starting with + is the recipe's model on one device with one setting more than the row above; all
rows make the same images alternately, and the table has medians. The stock pipeline is called as its documentation
shows, with the same batch, noise and precision, and returns PIL images. `--weights random` builds the model from its
configuration without a download; `--beside CONFIG` adds a row for another config. `section.key=value` overrides the
first config, `generation.key=value` both.
"""

import dataclasses
import importlib.util
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.makers import CUDA_GRAPHS, PLAIN, Engine, Maker, Processes, Stock, hide_torch_warnings
from benchmarks.timer import Timer, seconds_of
from generation.config import GenerationConfig
from generation.engine.batch_size import MemoryMeter
from generation.engine.diffusers_generator import DiffusersGenerator
from generation.recipes.plan import SamplePlan, plan_sample
from generation.recipes.recipe import Recipe
from ray_jobs.cli.config import JobConfig, load_config
from ray_jobs.cli.errors import user_errors
from ray_jobs.job.tables import text_table

NUM_ROUNDS = 7
MIN_TURN_SECONDS = 1.0
MATRIX_SIZE = 4096
"""Rows and columns of the matrix product that measures the device's peak FLOP/s."""

NUM_PRODUCTS = 5
"""Number of products timed together; on a GPU a single one takes hardly longer than its launch."""

PARTS = ("text", "denoise", "decode", "post")


@dataclass
class Case:
    """A recipe's model on one device, and the plans to generate."""

    recipe: Recipe
    config: GenerationConfig
    plans: Sequence[SamplePlan]


@dataclass(frozen=True)
class RowPlan:
    """One way to make a case's images, not loaded yet."""

    name: str
    load: Callable[[], Maker]
    compiles: bool = False
    missing: str = ""
    """Reason why it cannot be measured here; empty if it can."""

    @property
    def is_variant(self) -> bool:
        """Whether the rows below do not include its setting."""
        return self.name.startswith("with ")


@dataclass
class Row:
    """One way to make a case's images, and its measurements."""

    name: str
    make: Maker
    start_seconds: float
    """Time to load, and to compile if requested."""

    seconds: list[float] = field(default_factory=list)
    images: np.ndarray | None = None
    part_seconds: dict[str, float] = field(default_factory=dict)
    batch_bytes: int | None = None
    """Peak memory of a batch in addition to the model; None if not measured."""

    @property
    def median_seconds(self) -> float:
        """Median time of a call."""
        return float(np.median(self.seconds))

    @property
    def images_per_second(self) -> float:
        """Images per second of all processes together."""
        return self.make.num_images / self.median_seconds

    @property
    def milliseconds_an_image(self) -> dict[str, float]:
        """Time of each part per image; empty if not measured."""
        return {part: 1000 * seconds / self.make.num_images for part, seconds in self.part_seconds.items()}


@click.command()
@click.argument("arguments", nargs=-1)
@click.option("--weights", type=click.Choice(["random"]))
@click.option("--beside", metavar="CONFIG")
def main(arguments: tuple[str, ...], weights: str | None, beside: str | None) -> None:
    """Load each row, time all rows alternately, print the table."""
    with user_errors(), tempfile.TemporaryDirectory() as folder:
        logging.basicConfig(format="%(message)s")
        logging.getLogger("generation").setLevel(logging.INFO)
        hide_torch_warnings()
        random_weights_in = Path(folder) if weights else None
        case = open_case(arguments, random_weights_in)
        plans = [*plan_rows(case), *plan_processes(case)]
        if beside:
            for_device = [argument for argument in arguments[1:] if argument.startswith("generation.")]
            other = open_case([beside, *for_device], random_weights_in)
            load = partial(Engine, other.recipe, other.config, other.plans)
            plans.append(RowPlan(Path(beside).stem, load))
        rows = [load_row(plan) for plan in plans if not plan.missing]
        for _ in chain(take_turns(rows, NUM_ROUNDS, MIN_TURN_SECONDS), look_inside_each(rows)):
            pass
        for row in rows:
            row.make.close()
        console = Console(width=160)
        console.print(table_of(rows, case))
        print_flops(console, rows[1], case.plans)


def ratios(arguments: Sequence[str]) -> dict[str, float]:
    """Measure the engine, adding one setting per row; return the rates as multiples of the stock pipeline's."""
    with user_errors():
        case = open_case(arguments, random_weights_in=None)
    rows = [load_row(plan) for plan in plan_rows(case) if not plan.is_variant]
    for _ in take_turns(rows, NUM_ROUNDS, MIN_TURN_SECONDS):
        pass
    return ratios_of(rows)


def ratios_of(rows: Sequence[Row]) -> dict[str, float]:
    """Return the rates of all further rows as multiples of the first row's, the stock pipeline."""
    return {row.name: row.images_per_second / rows[0].images_per_second for row in rows[1:]}


def open_case(arguments: Sequence[str], random_weights_in: Path | None) -> Case:
    """Return the case of a config; chooses the batch size if the config has none."""
    config = load_config(JobConfig, arguments)
    recipe = config.opened_recipe
    if recipe.generator != "diffusers":
        raise ValueError(f"recipe.generator is {recipe.generator}; the engine needs recipe.generator=diffusers.")
    if random_weights_in is not None:
        recipe = with_random_weights(recipe, random_weights_in)
    torch.set_num_threads(config.generation.threads_per_actor)
    plain = dataclasses.replace(config.generation, **PLAIN)
    batch_size = plain.batch_size or DiffusersGenerator(recipe, plain).batch_size
    plans = [plan_sample(recipe, index) for index in range(batch_size)]
    return Case(recipe, dataclasses.replace(config.generation, batch_size=batch_size), plans)


def with_random_weights(recipe: Recipe, folder: Path) -> Recipe:
    """Return the recipe with random weights of the same architecture, written into the folder."""
    from benchmarks.architectures import write_random_model

    paths = {name: folder / name.replace("/", "--") for name in (recipe.model, recipe.vae) if name}
    for name, path in paths.items():
        if not path.exists():
            write_random_model(name, path, recipe.precision)
    return dataclasses.replace(recipe, model=str(paths[recipe.model]), vae=str(paths.get(recipe.vae, "")))


def plan_rows(case: Case) -> list[RowPlan]:
    """Return the stock pipeline, the engine, and rows starting with + that add one setting each."""
    plain, missing = dataclasses.replace(case.config, **PLAIN), missing_on(case.config)
    rows = [
        RowPlan("stock pipeline", partial(Stock, case.recipe, plain, case.plans)),
        RowPlan("engine", partial(load_engine, case, {})),
    ]
    added: dict[str, Any] = {}
    for name, change in settings_to_add(case.config).items():
        added |= change
        rows.append(RowPlan(f"+ {name}", partial(load_engine, case, dict(added)), compiles="compile" in change))
        for variant, alone in VARIANTS.get(name, {}).items():
            load = partial(load_engine, case, added | alone)
            rows.append(RowPlan(f"with {variant}", load, missing=missing.get(variant, "")))
    with_graphs = partial(load_engine, case, dict(added), CUDA_GRAPHS)
    return [*rows, RowPlan("with CUDA graphs", with_graphs, compiles=True, missing=missing.get("CUDA graphs", ""))]


def plan_processes(case: Case) -> list[RowPlan]:
    """Return rows with one process per core; none on a GPU or a single core."""
    num_cores = os.cpu_count() or 1
    if case.config.gpus_per_actor or num_cores == 1:
        return []
    config = dataclasses.replace(case.config, **PLAIN)
    for change in settings_to_add(case.config).values():
        config = dataclasses.replace(config, **change)
    loads = {
        name: partial(load, case.recipe, config, case.plans) for name, load in (("stock", Stock), ("engine", Engine))
    }
    return [
        RowPlan(f"{name}, {num_cores} x 1 thread", partial(Processes, num_cores, load)) for name, load in loads.items()
    ]


def load_engine(case: Case, settings: dict[str, Any], compile_options: Mapping[str, Any] | None = None) -> Maker:
    """Return the engine with these settings and no other optimisation."""
    config = dataclasses.replace(case.config, **PLAIN | settings)
    return Engine(case.recipe, config, case.plans, compile_options)


def settings_to_add(config: GenerationConfig) -> dict[str, dict[str, Any]]:
    """Return the setting that each row adds, by the row's name."""
    return {
        "prompt cache": {"prompt_cache_size": config.prompt_cache_size},
        "channels last": {"channels_last": True},
        "compile": {"compile": True},
    }


VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "channels last": {"fused QKV": {"fuse_qkv": True}, "xformers": {"attention": "xformers"}}
}
"""Other ways to compute attention, by the row that they follow; rows below do not include them."""


def missing_on(config: GenerationConfig) -> dict[str, str]:
    """Return the variants that cannot be measured here, with the reason."""
    if not config.gpus_per_actor:
        return {"xformers": "xformers needs a GPU", "CUDA graphs": "CUDA graphs need a GPU"}
    return {} if importlib.util.find_spec("xformers") else {"xformers": "xformers is not installed"}


def load_row(plan: RowPlan) -> Row:
    """Return a loaded row with its first images and its loading time."""
    started_at = time.monotonic()
    make = plan.load()
    return Row(plan.name, make, time.monotonic() - started_at, images=make())


def take_turns(rows: Sequence[Row], num_rounds: int, min_turn_seconds: float) -> Iterator[None]:
    """Time all rows alternately for `num_rounds` rounds; yield after each round."""
    for _ in range(num_rounds):
        for row in rows:
            row.seconds.append(seconds_of_turn(row.make, min_turn_seconds))
        yield


def look_inside_each(rows: Sequence[Row]) -> Iterator[None]:
    """Measure each row's parts and memory; yield after each. ValueError if the rows together ran out of memory."""
    for row in rows:
        if row.make.generator is not None:
            look_inside(row, row.make.generator)
            if row.make.generator.batch_size != row.make.num_images:
                raise ValueError(
                    f"'{row.name}' ran out of memory while the other rows are loaded. Set a smaller "
                    "generation.batch_size."
                )
        yield


def seconds_of_turn(make: Callable[[], Any], min_seconds: float) -> float:
    """Return the mean time of a call, repeated for at least `min_seconds`."""
    started_at, num_calls = time.perf_counter(), 0
    while num_calls == 0 or time.perf_counter() - started_at < min_seconds:
        make()
        num_calls += 1
    return (time.perf_counter() - started_at) / num_calls


def look_inside(row: Row, generator: DiffusersGenerator) -> None:
    """Measure peak memory and the time of each part, synchronising the device before and after; `else` is the rest.

    Synchronising keeps the host from running ahead of the device, so `else` is an upper bound.
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


def table_of(rows: Sequence[Row], case: Case) -> Table:
    """Return a table of medians, ratios to the stock pipeline, milliseconds per image by part and image differences."""
    recipe, config = case.recipe, case.config
    device = torch.cuda.get_device_name() if config.gpus_per_actor else f"CPU, {config.threads_per_actor} threads"
    title = (
        f"{Path(recipe.model).name}, {recipe.precision}, {recipe.num_inference_steps} steps, "
        f"{recipe.generated_size} px, guidance {recipe.guidance_scale[0]:g}, batch {len(case.plans)}, {device}"
    )
    columns = ["", "images/s", "to stock", "ms/image", *PARTS, "else", "batch GB", "mean apart", "most apart", "start"]
    return text_table(title, columns, [cells(row, rows[0]) for row in rows])


def cells(row: Row, stock: Row) -> list[str]:
    """Return a row's table cells."""
    milliseconds, difference = row.milliseconds_an_image, apart(row, stock)
    return [
        row.name,
        f"{row.images_per_second:.4g}",
        f"{row.images_per_second / stock.images_per_second:.2f}",
        f"{1000 / row.images_per_second:.4g}",
        *(f"{milliseconds[part]:.3g}" if part in milliseconds else "" for part in (*PARTS, "else")),
        "" if row.batch_bytes is None else f"{row.batch_bytes / 1e9:.2f}",
        *((f"{difference[0]:.2f}", str(difference[1])) if difference else ("", "")),
        f"{row.start_seconds:.1f} s",
    ]


def apart(row: Row, stock: Row) -> tuple[float, int] | None:
    """Return the mean and the largest difference of pixel values, of 255; None for images of other plans."""
    if row.images is None or stock.images is None or row.images.shape != stock.images.shape:
        return None
    difference = np.abs(row.images.astype(int) - stock.images.astype(int))
    return float(difference.mean()), int(difference.max())


def print_flops(console: Console, engine: Row, plans: Sequence[SamplePlan]) -> None:
    """Print the plain engine's FLOP/s compared with a large matrix multiplication's."""
    generator = engine.make.generator
    if generator is None:
        return
    flops_per_image, peak = flops_of_image(generator, plans[0]), matmul_flops(generator.device, generator.dtype)
    flops = flops_per_image * engine.images_per_second
    console.print(
        f"engine: {flops_per_image / 1e9:,.3g} GFLOP per image, {flops / 1e9:,.0f} GFLOP/s, "
        f"{flops / peak:.0%} of a matrix multiplication's {peak / 1e9:,.0f}"
    )


def flops_of_image(generator: DiffusersGenerator, plan: SamplePlan) -> int:
    """Return the floating-point operations of one image; the generator must not be compiled."""
    generator.generate([plan])
    with FlopCounterMode(display=False) as counter:
        generator.generate([plan])
    return counter.get_total_flops()


def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s of a large matrix multiplication."""
    a = torch.randn(MATRIX_SIZE, MATRIX_SIZE, device=device).to(dtype)

    def multiply() -> None:
        products = [a @ a for _ in range(NUM_PRODUCTS)]
        products[-1][0, 0].item()

    multiply()
    seconds = [seconds_of(multiply) for _ in range(NUM_ROUNDS)]
    return NUM_PRODUCTS * 2 * MATRIX_SIZE**3 / float(np.median(seconds))


if __name__ == "__main__":
    main()
