import dataclasses

import numpy as np
import pytest
import torch

from generation.engine.batch_size import MemoryMeter, Trial, find_batch_size
from generation.engine.diffusers_generator import DiffusersGenerator
from generation.engine.generator import GenerationFailedError
from generation.recipes.plan import plan_sample
from generation.recipes.recipe import Recipe
from tests.support.images import MAX_LEVELS_APART, apart
from tests.support.settings import ON_CPU

GB = 10**9


def found(rates: dict[int, float], *, gb_an_image: float = 0.0, usable_gb: float = 80.0) -> tuple[int, list[int]]:
    """Return the batch size found on a device with these rates, and the sizes tried."""
    tried = []

    def try_batch(batch_size: int) -> Trial | None:
        tried.append(batch_size)
        peak_bytes = int((4 + batch_size * gb_an_image) * GB)
        return Trial(batch_size, rates[batch_size], peak_bytes) if peak_bytes <= 80 * GB else None

    return find_batch_size(try_batch, int(usable_gb * GB)).batch_size, tried


def test_smallest_batch_near_the_best_rate_is_chosen():
    rates = {1: 1.0, 2: 1.9, 4: 3.0, 8: 3.9, 16: 4.0, 32: 4.05}
    assert found(rates) == (8, [1, 2, 4, 8, 16, 32])


def test_one_slow_size_does_not_end_the_search():
    rates = {1: 1.0, 2: 0.9, 4: 2.0, 8: 4.0, 16: 4.1, 32: 4.1}
    assert found(rates) == (8, [1, 2, 4, 8, 16, 32])


def test_size_expected_not_to_fit_is_not_tried():
    rates = {2**i: float(2**i) for i in range(9)}
    assert found(rates, gb_an_image=2.0, usable_gb=50.0) == (16, [1, 2, 4, 8, 16])  # 4 + 2 x 32 = 68 GB


def test_size_that_does_not_fit_ends_the_search():
    rates = {2**i: float(2**i) for i in range(9)}
    assert found(rates, gb_an_image=2.0, usable_gb=1000.0) == (32, [1, 2, 4, 8, 16, 32, 64])  # 4 + 2 x 64 = 132 GB


def test_device_too_small_for_one_image_is_an_error():
    with pytest.raises(ValueError, match=r"Not even one image fits into 6\.0 GB.*smaller recipe\.generated_size"):
        find_batch_size(lambda _: None, 6 * GB)


def test_peak_memory_is_measured_and_reset():
    meter = MemoryMeter(torch.device("cpu"))
    meter.reset()
    before = meter.peak_bytes()
    held = np.ones(200_000_000, dtype=np.uint8)
    assert 150_000_000 < meter.peak_bytes() - before < 400_000_000
    del held
    meter.reset()
    assert meter.peak_bytes() - before < 100_000_000


@pytest.mark.parametrize(
    ("num_steps", "seconds", "expected"),
    [
        (1, {1: 2.0}, 2.0),
        (50, {4: 1.0, 8: 1.4}, 1.0 + 0.1 * 46),
        (50, {4: 1.0, 8: 0.9}, 1.0),  # noise: more steps cannot take less time
    ],
)
def test_time_of_many_steps_is_extrapolated_from_few(
    digits: Recipe, monkeypatch, num_steps: int, seconds: dict[int, float], expected: float
):
    generator = DiffusersGenerator(dataclasses.replace(digits, num_inference_steps=num_steps), ON_CPU)
    calls: list[int] = []

    def seconds_of(steps: int) -> float:
        calls.append(steps)
        return seconds[steps] + (0.5 if calls.count(steps) == 1 and steps > 1 else 0.0)  # the first run has a hiccup

    monkeypatch.setattr(generator, "_seconds_of", seconds_of)
    assert generator._trial().images_per_second == pytest.approx(4 / expected)


def test_batch_size_is_found_when_not_set(digits: Recipe):
    short = dataclasses.replace(digits, num_inference_steps=1)
    generator = DiffusersGenerator(short, dataclasses.replace(ON_CPU, batch_size=0))
    assert generator.batch_size in {2**i for i in range(9)}


def without_memory_above(generator: DiffusersGenerator, most: int, error: Exception) -> list[int]:
    """Make batches of more than `most` images run out of memory; return a list that records the sizes tried."""
    sizes, call = [], generator._call_pipeline

    def call_or_fail(samples):
        sizes.append(len(samples))
        if len(samples) > most:
            raise error
        return call(samples)

    generator._call_pipeline = call_or_fail
    return sizes


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    RuntimeError("CUDA error: out of memory"),
    UnboundLocalError("cannot access local variable 'image' where it is not associated with a value"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize(
    "error", [OUT_OF_MEMORY[0], *(pytest.param(error, marks=pytest.mark.nightly) for error in OUT_OF_MEMORY[1:])]
)
def test_out_of_memory_halves_the_batch_size_and_loses_no_sample(digits: Recipe, error: Exception):
    plans = [plan_sample(digits, index) for index in range(11)]
    generator = DiffusersGenerator(digits, dataclasses.replace(ON_CPU, batch_size=8))
    whole = generator.generate(plans).images_nhwc
    sizes = without_memory_above(generator, 2, error)
    assert apart(generator.generate(plans).images_nhwc, whole) <= MAX_LEVELS_APART
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 1]
    assert generator.batch_size == 2
    sizes.clear()
    generator.generate(plans[:5])
    assert sizes == [2, 2, 1]


def test_other_errors_are_not_treated_as_out_of_memory(digits: Recipe):
    generator = DiffusersGenerator(digits, ON_CPU)
    without_memory_above(generator, 0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        generator.generate([plan_sample(digits, 0)])
    assert generator.batch_size == 4


def test_out_of_memory_for_one_image_is_an_error(digits: Recipe):
    generator = DiffusersGenerator(digits, ON_CPU)
    without_memory_above(generator, 0, OUT_OF_MEMORY[0])
    with pytest.raises(GenerationFailedError, match=r"Not even one image fits.*recipe\.precision=float16"):
        generator.generate([plan_sample(digits, 0)])
