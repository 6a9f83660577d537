import dataclasses
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from generation.engine.actor import GeneratorActor
from generation.engine.diffusers_generator import DiffusersGenerator
from generation.engine.pipeline import SCHEDULERS
from generation.recipes.model_files import PROJECT_ROOT
from generation.recipes.plan import plan_sample
from generation.recipes.recipe import Recipe
from tests.support.images import (
    MAX_LEVELS_APART,
    MAX_LEVELS_APART_IN_BFLOAT16,
    MAX_LEVELS_APART_ON_A_GPU,
    apart,
)
from tests.support.settings import ON_CPU

MODEL = PROJECT_ROOT / "generation" / "digits" / "model"


@pytest.fixture(scope="module")
def generator(digits: Recipe) -> DiffusersGenerator:
    return DiffusersGenerator(digits, ON_CPU)


def test_image_is_the_same_alone_in_a_batch_and_on_another_actor(digits: Recipe, generator: DiffusersGenerator):
    plans = [plan_sample(digits, index) for index in range(20, 28)]
    together = generator.generate(plans).images_nhwc
    alone = generator.generate(plans[3:4]).images_nhwc[0]
    backwards = generator.generate(plans[::-1]).images_nhwc[::-1]
    elsewhere = GeneratorActor(digits, ON_CPU).generate([5, 23])["image"][1]
    assert together.shape == (8, 32, 32, 3)
    assert apart(alone, together[3]) <= MAX_LEVELS_APART
    assert apart(elsewhere, together[3]) <= MAX_LEVELS_APART
    assert apart(backwards, together) <= MAX_LEVELS_APART
    assert min(apart(together[i], together[j]) for i in range(8) for j in range(i)) > 50


def test_same_batch_is_identical_to_the_bit(digits: Recipe, generator: DiffusersGenerator):
    plans = [plan_sample(digits, index) for index in range(8)]
    first, second = generator.generate(plans).images_nhwc, generator.generate(plans).images_nhwc
    np.testing.assert_array_equal(first, second)


def test_guidance_scales_mix_in_a_batch(digits: Recipe, generator: DiffusersGenerator):
    plain = plan_sample(digits, 4)
    guided = dataclasses.replace(plain, guidance_scale=5.0)
    mixed = generator.generate([plain, guided, plain]).images_nhwc
    assert apart(mixed[0], mixed[2]) <= MAX_LEVELS_APART
    assert apart(mixed[0], mixed[1]) > 20
    assert apart(mixed[1], generator.generate([guided]).images_nhwc[0]) <= MAX_LEVELS_APART


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_image_is_the_same_alone_and_in_a_batch_with_every_scheduler(digits: Recipe, scheduler: str):
    recipe = dataclasses.replace(digits, scheduler=scheduler, num_inference_steps=6)
    generator = DiffusersGenerator(recipe, ON_CPU)
    assert isinstance(generator.pipeline.scheduler, SCHEDULERS[scheduler])
    plans = [plan_sample(recipe, index) for index in range(4)]
    together = generator.generate(plans).images_nhwc
    assert apart(generator.generate(plans[2:3]).images_nhwc[0], together[2]) <= MAX_LEVELS_APART
    assert apart(generator.generate(plans[::-1]).images_nhwc[::-1], together) <= MAX_LEVELS_APART
    again = [dataclasses.replace(plan, noise_seed=plan.noise_seed + 1) for plan in plans]
    assert apart(generator.generate(again).images_nhwc, together) > 50


def test_image_is_resized_from_its_generated_size(digits: Recipe, generator: DiffusersGenerator):
    shrinking = DiffusersGenerator(dataclasses.replace(digits, image_size=16), ON_CPU)
    plans = [plan_sample(digits, index) for index in range(4)]
    large, small = generator.generate(plans).images_nhwc, shrinking.generate(plans).images_nhwc
    assert small.shape == (4, 16, 16, 3)
    for image, shrunk in zip(large, small, strict=True):
        by_pillow = np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BICUBIC))
        assert apart(by_pillow, shrunk) <= MAX_LEVELS_APART


def test_range_of_guidance_scales_needs_one_call_per_batch(digits: Recipe, generator: DiffusersGenerator, monkeypatch):
    recipe = dataclasses.replace(digits, guidance_scale=(1.5, 6.0), guidance_draw="between")
    plans = [plan_sample(recipe, index) for index in range(6)]
    sizes = []
    call = generator._call_pipeline
    monkeypatch.setattr(generator, "_call_pipeline", lambda samples: sizes.append(len(samples)) or call(samples))
    together = generator.generate(plans).images_nhwc
    assert sizes == [4, 2]
    for plan, image in zip(plans, together, strict=True):
        assert apart(generator.generate([plan]).images_nhwc[0], image) <= MAX_LEVELS_APART


def test_negative_prompt_has_an_effect_only_with_guidance(digits: Recipe, generator: DiffusersGenerator):
    plain = plan_sample(dataclasses.replace(digits, guidance_scale=(5.0,)), 4)
    away_from_plain = dataclasses.replace(plain, negative_prompt=plain.prompt)
    images = [generator.generate([plan]).images_nhwc[0] for plan in (plain, away_from_plain)]
    assert apart(*images) > 20
    unguided = [dataclasses.replace(plan, guidance_scale=1.0) for plan in (plain, away_from_plain)]
    first, second = (generator.generate([plan]).images_nhwc[0] for plan in unguided)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_cached_prompt_is_encoded_once_and_gives_the_same_image(digits: Recipe, scale: float):
    keeping = DiffusersGenerator(digits, ON_CPU)
    plans = [dataclasses.replace(plan_sample(digits, index), guidance_scale=scale) for index in (0, 1, 0, 1)]
    keeping.prompt_cache._encode.cache_clear()
    first, second = keeping.generate(plans).images_nhwc, keeping.generate(plans).images_nhwc
    assert keeping.prompt_cache._encode.cache_info().misses == 2 + (scale > 1)  # two prompts, and the null prompt once
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(
        first, DiffusersGenerator(digits, dataclasses.replace(ON_CPU, prompt_cache_size=0)).generate(plans).images_nhwc
    )
    stock = keeping.pipeline(
        prompt=[plan.prompt for plan in plans],
        latents=torch.stack([keeping.initial_noise(plan) for plan in plans]),
        guidance_scale=scale,
        num_inference_steps=digits.num_inference_steps,
        height=32,
        width=32,
        output_type="np",
    )
    assert apart(np.round(stock.images * 255).astype(np.uint8), first) <= MAX_LEVELS_APART


def test_image_is_the_same_alone_and_in_a_batch_in_bfloat16(digits: Recipe):
    recipe = dataclasses.replace(digits, precision="bfloat16")
    generator = DiffusersGenerator(recipe, ON_CPU)
    plans = [plan_sample(recipe, index) for index in range(4)]
    together = generator.generate(plans).images_nhwc
    for plan, image in zip(plans, together, strict=True):
        assert apart(generator.generate([plan]).images_nhwc[0], image) <= MAX_LEVELS_APART_IN_BFLOAT16


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("precision", MAX_LEVELS_APART_ON_A_GPU)
def test_gpu_images_match_the_cpu_alone_and_in_a_batch(digits: Recipe, generator: DiffusersGenerator, precision: str):
    plans = [plan_sample(digits, index) for index in range(4)]
    recipe, tolerance = dataclasses.replace(digits, precision=precision), MAX_LEVELS_APART_ON_A_GPU[precision]
    on_gpu = DiffusersGenerator(recipe, dataclasses.replace(ON_CPU, gpus_per_actor=1))
    together = on_gpu.generate(plans).images_nhwc
    assert apart(on_gpu.generate(plans[1:2]).images_nhwc[0], together[1]) <= tolerance
    assert apart(generator.generate(plans).images_nhwc, together) <= tolerance


def test_channels_last_makes_the_same_images(digits: Recipe, generator: DiffusersGenerator):
    plans = [plan_sample(digits, index) for index in range(8)]
    turned = DiffusersGenerator(digits, dataclasses.replace(ON_CPU, channels_last=True))
    assert apart(turned.generate(plans).images_nhwc, generator.generate(plans).images_nhwc) <= MAX_LEVELS_APART


@pytest.mark.nightly
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on the CPU needs g++")
def test_compiled_generator_makes_the_same_images(digits: Recipe):
    recipe = dataclasses.replace(digits, guidance_scale=(1.0, 4.0), image_size=16)
    plain = DiffusersGenerator(recipe, ON_CPU)
    compiled = DiffusersGenerator(recipe, dataclasses.replace(ON_CPU, compile=True))
    for num_plans in (4, 1, 3):
        plans = [plan_sample(recipe, index) for index in range(num_plans)]
        images = compiled.generate(plans).images_nhwc
        assert images.shape == (num_plans, 16, 16, 3)
        assert apart(images, plain.generate(plans).images_nhwc) <= MAX_LEVELS_APART


def test_two_threads_may_generate_at_once(digits: Recipe, generator: DiffusersGenerator):
    halves = [[plan_sample(digits, index) for index in part] for part in (range(8), range(8, 16))]
    alone = [generator.generate(plans).images_nhwc for plans in halves]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(generator.generate, halves * 3))
    for generated, expected in zip(together, alone * 3, strict=True):
        np.testing.assert_array_equal(generated.images_nhwc, expected)


@pytest.mark.parametrize("spoilt", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_model_output_is_flagged_and_does_not_spread(
    digits: Recipe, generator: DiffusersGenerator, monkeypatch, spoilt: float
):
    plans = [plan_sample(digits, index) for index in range(3)]
    whole, decode = generator.generate(plans).images_nhwc, generator.pipeline.vae.decode

    def decode_and_spoil(latents, **settings):
        (images,) = decode(latents, **settings)
        images[1, 0, 5, 5] = spoilt
        return (images,)

    monkeypatch.setattr(generator.pipeline.vae, "decode", decode_and_spoil)
    generated = generator.generate(plans)
    assert generated.finite.tolist() == [True, False, True]
    np.testing.assert_array_equal(generated.images_nhwc[[0, 2]], whole[[0, 2]])


def test_missing_gpu_is_an_error(digits: Recipe):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match=r"gpus_per_actor is 0\.5, but torch finds no GPU here\. Set it to 0"):
        DiffusersGenerator(digits, dataclasses.replace(ON_CPU, gpus_per_actor=0.5))


def test_too_many_steps_for_the_scheduler_are_refused_on_loading(digits: Recipe):
    recipe = dataclasses.replace(digits, scheduler="lcm", num_inference_steps=60)
    with pytest.raises(
        ValueError, match=r"cannot make images .* recipe\.num_inference_steps=60 and recipe\.scheduler=lcm"
    ):
        DiffusersGenerator(recipe, ON_CPU)


def test_torch_cpu_generator_ignores_the_high_bits_of_a_seed():
    low, high = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1 + 2**32)
    assert torch.equal(torch.randn(4, generator=low), torch.randn(4, generator=high))


def test_noise_depends_on_the_high_bits_of_a_seed(digits: Recipe, generator: DiffusersGenerator):
    plan = plan_sample(digits, 0)
    other = dataclasses.replace(plan, noise_seed=plan.noise_seed ^ (1 << 40))
    assert not torch.equal(generator.initial_noise(plan), generator.initial_noise(other))


def test_embedded_model_is_stable_diffusion_of_at_most_4_mb():
    assert json.loads((MODEL / "model_index.json").read_text())["_class_name"] == "StableDiffusionPipeline"
    assert sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file()) <= 4_000_000
