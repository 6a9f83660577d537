"""The parts of `benchmarks.device` and their sizes. Writes no result files."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from benchmarks.architectures import TINY as TINY_MODEL
from benchmarks.copies import MatrixBatches, generate_in_threads, hidden_fraction
from benchmarks.deadline import Deadline
from benchmarks.device_report import OUT_OF_TIME, Line, failed, not_measured
from benchmarks.engine import (
    Case,
    Row,
    RowPlan,
    apart,
    flops_of_image,
    load_row,
    look_inside_each,
    matmul_flops,
    open_case,
    plan_rows,
    take_turns,
)
from benchmarks.gpu_tests import ALL, run_gpu_tests
from benchmarks.makers import Engine
from benchmarks.tf32 import tf32
from benchmarks.timer import seconds_of
from benchmarks.training_step import Steps, measure_steps
from generation.engine.batch_size import MemoryMeter
from generation.engine.diffusers_generator import DiffusersGenerator
from generation.recipes.model_files import PROJECT_ROOT
from ray_jobs.cli.config import JobConfig, load_config
from training.config import TrainingConfig

LOG = logging.getLogger(__name__)

PLAIN_SECONDS, COMPILED_SECONDS = 10.0, 60.0
"""Time that must be left for a line to start: without compilation, and with it."""

NUM_CALLS = 2
"""Timed calls of lines that do not alternate with others; their median is reported."""

NUM_COPIED = 30
"""Number of batches copied to the host in a measurement of copies."""

COPIED = (256, 512)
"""Number of images in a copied batch, and their height and width in pixels: 201 MB."""

MATRIX_SIZE = 4096
"""Rows and columns of the matrices whose products precede each copy."""

NUM_THREADS = 2
"""Threads of a generator actor."""

CONFIGS = PROJECT_ROOT / "ray_jobs" / "configs"
PAPER, FAST = CONFIGS / "paper.yaml", CONFIGS / "fast.yaml"

NEEDS_GPU = "needs a GPU"

TRAINING_WAYS = {
    "": {},
    ", channels first": {"channels_last": False},
    ", one crop an image": {"augmentation": "crop_flip"},
}
"""Changes to the paper's training settings, by the suffix of the line's name."""


@dataclass(frozen=True)
class Size:
    """The size of the measurements and the device."""

    on_gpu: bool = True
    settings: tuple[str, ...] = ()
    """Overrides for both presets."""

    training_settings: tuple[str, ...] = ()
    """Further overrides for the training part."""

    batch_size: int = 8
    num_steps: int = 20
    """Denoising steps, except in the parts `presets` (the presets' own) and `float32` (`float32_steps`)."""

    preset_batch_sizes: tuple[int, int] = (8, 64)
    """Batch sizes of the paper's preset (reuses the compiled code of `engine`) and of the fast preset."""

    float32_steps: int = 5
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    num_rounds: int = 3
    training_steps: Steps = field(default_factory=lambda: Steps(num_warm=5, num_timed=20, num_inspected=5))


TINY = Size(
    on_gpu=False,
    settings=(
        f"recipe.model={TINY_MODEL}",
        "recipe.precision=float32",
        "recipe.generated_size=32",
        "recipe.image_size=16",
        "generation.gpus_per_actor=0",
        "generation.compile=false",
    ),
    training_settings=(
        "training.architecture=resnet18",
        "training.global_batch_size=4",
        "training.crop_size=96",  # at 16 px, torch's bfloat16 gradients on a CPU are sometimes infinite
        "training.local_crop_size=64",
        "training.num_local_crops=2",
        "training.gpus_per_worker=0",
    ),
    batch_size=2,
    num_steps=2,
    float32_steps=2,
    preset_batch_sizes=(2, 2),
    batch_sizes=(1, 2),
    num_rounds=1,
    training_steps=Steps(num_warm=1, num_timed=1, num_inspected=1),
)
"""Runs on a CPU in seconds; tests that the parts work, the numbers mean nothing."""


@dataclass(frozen=True)
class Run:
    """The settings shared by all parts."""

    size: Size
    out: Path
    weights: Path
    """Folder for random weights; a model is written when first needed."""


Lines = Iterator[Sequence[Line]]


@dataclass(frozen=True)
class PlannedPart:
    """A part of a run."""

    name: str
    seconds: float
    """Time budget; later parts get what is left over."""

    lines: Callable[[Run, Deadline], Lines]
    """Runs the part; yields all lines so far after each step."""


def gpu_tests(run: Run, deadline: Deadline) -> Lines:
    """Run the tests marked `gpu`."""
    if run.size.on_gpu:
        yield run_gpu_tests(run.out / "gpu_tests.xml", deadline.left_seconds())
    else:
        yield [not_measured(ALL, NEEDS_GPU)]


def engine(run: Run, deadline: Deadline) -> Lines:
    """Compare the engine with diffusers' pipeline; each line starting with + adds one setting."""
    outcomes: list[Row | Line] = []
    case = open_paper(run)
    yield from compare(outcomes, plan_rows(case), run.size, deadline)
    yield [*lines_of(outcomes), arithmetic_line("arithmetic of the engine", outcomes, case, run.size, deadline)]


def arithmetic_line(name: str, outcomes: Sequence[Row | Line], case: Case, size: Size, deadline: Deadline) -> Line:
    """Return the plain engine's FLOP/s compared with a matrix multiplication's."""
    rows = [row for row in outcomes if isinstance(row, Row) and row.name == "engine"]
    if not size.on_gpu:
        return not_measured(name, "skipped by --tiny")
    if not rows or rows[0].make.generator is None or not deadline.allows(0):
        return not_measured(name, OUT_OF_TIME)
    generator = rows[0].make.generator
    achieved = flops_of_image(generator, case.plans[0]) * rows[0].images_per_second
    peak = matmul_flops(generator.device, generator.dtype)
    values = {"arithmetic_tflops": achieved / 1e12, "matrix_multiplication_tflops": peak / 1e12}
    return Line(name, values=values | {"share_fraction": achieved / peak})


def presets(run: Run, deadline: Deadline) -> Lines:
    """Compare the fast preset with the paper's, each with its config's settings."""
    plans = []
    for config, batch_size in zip((PAPER, FAST), run.size.preset_batch_sizes, strict=True):
        case = open_case([str(config), *run.size.settings, f"generation.batch_size={batch_size}"], run.weights)
        name = f"{config.name}, batch size {batch_size}, steps: {case.recipe.num_inference_steps}"
        load = partial(Engine, case.recipe, case.config, case.plans)
        plans.append(RowPlan(name, load, compiles=case.config.compile))
    yield from compare([], plans, run.size, deadline, same_images=False)


def training(run: Run, deadline: Deadline) -> Lines:
    """Measure training steps with the paper's settings and its variants."""
    config = load_config(JobConfig, [str(PAPER), *run.size.settings, *run.size.training_settings])
    recipe, lines = config.opened_recipe, list[Line]()
    for change, settings in TRAINING_WAYS.items():
        changed = dataclasses.replace(config.training, **settings)
        name = f"{changed.architecture}, {changed.precision}{change}"
        if not deadline.allows(PLAIN_SECONDS):
            lines.append(not_measured(name, OUT_OF_TIME))
        else:
            try:
                lines.append(training_line(name, changed, recipe.image_size, recipe.label_space.num_classes, run.size))
            except Exception as error:  # the other lines are still measured
                LOG.exception("'%s' failed.", name)
                lines.append(failed(name, error))
        yield with_ratios(lines)


def training_line(name: str, config: TrainingConfig, image_size: int, num_classes: int, size: Size) -> Line:
    """Measure training with one set of settings."""
    rate = measure_steps(config, image_size, num_classes, size.training_steps)
    values = {
        "augmentation_fraction": rate.augmentation_fraction,
        "batch_size": rate.batch_size,
        "memory_gb": rate.peak_bytes / 1e9,
    }
    return Line(name, rate.images_per_second, values=values)


def copies(run: Run, deadline: Deadline) -> Lines:
    """Compare copies that overlap the next batch with blocking copies."""
    if not run.size.on_gpu:
        yield [not_measured("copies overlapping the next batch", NEEDS_GPU)]
        return
    lines = copy_lines()
    yield lines
    if deadline.allows(PLAIN_SECONDS):
        yield [*lines, *thread_lines(run)]
    else:
        yield [*lines, not_measured(f"{FAST.name}, two threads", OUT_OF_TIME)]


def copy_lines() -> list[Line]:
    """Measure batches that consist of matrix products and a copy only."""
    batches = MatrixBatches(*COPIED, MATRIX_SIZE, torch.device("cuda"))
    ways = {
        "blocking copies": batches.wait_for_each,
        "copies overlapping the next batch": batches.copy_beside_the_next,
        "no copies": batches.only_compute,
    }
    seconds = {
        name: float(np.median([seconds_of(partial(way, NUM_COPIED)) for _ in range(1 + NUM_CALLS)][1:]))
        for name, way in ways.items()
    }
    blocking, overlapping, computed = seconds.values()
    hidden = {"hidden_fraction": hidden_fraction(computed, blocking, overlapping)}
    rates = {name: NUM_COPIED * batches.num_images / taken for name, taken in seconds.items()}
    return with_ratios(
        [Line(name, rate, values=hidden if "overlapping" in name else {}) for name, rate in rates.items()]
    )


def thread_lines(run: Run) -> list[Line]:
    """Measure the fast preset's engine, not compiled, with one thread and with two, the number of an actor."""
    batch_size = run.size.preset_batch_sizes[1]
    settings = (*run.size.settings, f"generation.batch_size={batch_size}", "generation.compile=false")
    case = open_case([str(FAST), *settings], run.weights)
    generator = DiffusersGenerator(case.recipe, case.config)
    lines = []
    for num_threads in (1, NUM_THREADS):
        make = partial(generate_in_threads, generator, case.plans, 2 * NUM_THREADS, num_threads)
        make()
        seconds = float(np.median([seconds_of(make) for _ in range(NUM_CALLS)]))
        rate = 2 * NUM_THREADS * batch_size / seconds
        lines.append(Line(f"{FAST.name}, not compiled, threads: {num_threads}", rate))
    return with_ratios(lines)


def batch_sizes(run: Run, deadline: Deadline) -> Lines:
    """Measure the engine by batch size, with all settings except compile."""
    largest = max(run.size.batch_sizes)
    case = open_paper(run, f"generation.batch_size={largest}", "generation.compile=false")
    generator, lines = DiffusersGenerator(case.recipe, case.config), list[Line]()
    for batch_size in run.size.batch_sizes:
        if deadline.allows(PLAIN_SECONDS):
            lines.append(batch_size_line(generator, case, batch_size))
        else:
            lines.append(not_measured(f"batch size {batch_size}", OUT_OF_TIME))
        yield with_ratios(lines)


def batch_size_line(generator: DiffusersGenerator, case: Case, batch_size: int) -> Line:
    """Measure batches of one size."""
    make, meter = partial(generator.generate, case.plans[:batch_size]), MemoryMeter(generator.device)
    generator.batch_size = batch_size
    meter.reset()
    make()
    seconds = float(np.median([seconds_of(make) for _ in range(NUM_CALLS)]))
    name = f"batch size {batch_size}"
    if generator.batch_size != batch_size:
        return not_measured(name, "out of memory")
    return Line(name, batch_size / seconds, values={"batch_ms": 1000 * seconds, "memory_gb": meter.peak_bytes() / 1e9})


def float32(run: Run, deadline: Deadline) -> Lines:
    """Compare images and rates in float32 with TF32 off, then measure with TF32 on."""
    case = open_paper(run, "recipe.precision=float32", f"recipe.num_inference_steps={run.size.float32_steps}")
    as_generated = dataclasses.replace(case.recipe, image_size=case.recipe.generated_size)  # the two resize differently
    outcomes: list[Row | Line] = []
    with tf32(allowed=False):
        plans = plan_rows(dataclasses.replace(case, recipe=as_generated))[:2]
        yield from compare(outcomes, plans, run.size, deadline)
    yield [*lines_of(outcomes), tf32_line("engine, TF32 on", outcomes, run.size, deadline)]


def tf32_line(name: str, outcomes: Sequence[Row | Line], size: Size, deadline: Deadline) -> Line:
    """Measure the loaded engine with TF32 on."""
    rows = [row for row in outcomes if isinstance(row, Row)]
    if not size.on_gpu:
        return not_measured(name, NEEDS_GPU)
    if len(rows) < 2 or not deadline.allows(0):
        return not_measured(name, OUT_OF_TIME)
    stock, off = rows
    with tf32(allowed=True):
        on = Row(name, off.make, 0.0, images=off.make())
        on.seconds = [seconds_of(on.make) for _ in range(NUM_CALLS)]
    return line_of(on, stock)


def open_paper(run: Run, *settings: str) -> Case:
    """Return the paper's preset with this run's batch size and number of steps; later `settings` win."""
    own = (f"generation.batch_size={run.size.batch_size}", f"recipe.num_inference_steps={run.size.num_steps}")
    return open_case([str(PAPER), *run.size.settings, *own, *settings], run.weights)


def compare(
    outcomes: list[Row | Line], plans: Sequence[RowPlan], size: Size, deadline: Deadline, same_images: bool = True
) -> Lines:
    """Load rows into `outcomes` and time them alternately until the deadline.

    With `same_images`, the time of the parts and the difference of the images are measured too.
    """
    for plan in plans:
        outcomes.append(outcome(plan, deadline, size))
        yield lines_of(outcomes, same_images)
    rows = [row for row in outcomes if isinstance(row, Row)]
    for _ in chain(take_turns(rows, size.num_rounds, 0.0), look_inside_each(rows) if same_images else ()):
        yield lines_of(outcomes, same_images)
        if not deadline.allows(0):
            return


def outcome(plan: RowPlan, deadline: Deadline, size: Size) -> Row | Line:
    """Return the loaded row, or a line with the reason why it cannot be measured."""
    if plan.missing:
        return not_measured(plan.name, plan.missing)
    if plan.compiles and not size.on_gpu:
        return not_measured(plan.name, "--tiny does not compile")
    if not deadline.allows(COMPILED_SECONDS if plan.compiles else PLAIN_SECONDS):
        return not_measured(plan.name, OUT_OF_TIME)
    try:
        return load_row(plan)
    except Exception as error:  # the other rows are still measured
        LOG.exception("'%s' failed.", plan.name)
        return failed(plan.name, error)


def lines_of(outcomes: Sequence[Row | Line], same_images: bool = True) -> list[Line]:
    """Return a line for each row, with ratios to the first row; keep other lines as they are."""
    rows = [row for row in outcomes if isinstance(row, Row)]
    return [line_of(each, rows[0], same_images) if isinstance(each, Row) else each for each in outcomes]


def line_of(row: Row, stock: Row, same_images: bool = True) -> Line:
    """Return the measurements of a row as a line."""
    values = {f"{part}_ms": milliseconds for part, milliseconds in row.milliseconds_an_image.items()}
    if row.batch_bytes is not None:
        values["batch_gb"] = row.batch_bytes / 1e9
    if same_images and row is not stock and (difference := apart(row, stock)):
        values |= {"mean_apart_levels": difference[0], "most_apart_levels": difference[1]}
    if row.start_seconds:
        values["start_seconds"] = row.start_seconds
    if not row.seconds:
        return Line(row.name, values=values, outcome="not measured", reason="loaded, but not timed yet")
    ratio = row.images_per_second / stock.images_per_second if stock.seconds else None
    return Line(row.name, row.images_per_second, ratio, values)


def with_ratios(lines: Sequence[Line]) -> list[Line]:
    """Return the lines with ratios to the first measured one."""
    rates = [line.images_per_second for line in lines if line.images_per_second]
    return [
        dataclasses.replace(line, ratio=line.images_per_second / rates[0]) if line.images_per_second else line
        for line in lines
    ]


PLANNED_PARTS = (
    PlannedPart("gpu tests", 70.0, gpu_tests),
    PlannedPart("engine", 200.0, engine),
    PlannedPart("presets", 85.0, presets),
    PlannedPart("training", 25.0, training),
    PlannedPart("copies", 15.0, copies),
    PlannedPart("batch sizes", 25.0, batch_sizes),
    PlannedPart("float32", 20.0, float32),
)
"""Ordered by importance: if time runs out, the last parts are cut."""
