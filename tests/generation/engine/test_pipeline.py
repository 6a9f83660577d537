import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from safetensors.torch import load_file, save_file

from generation.config import GenerationConfig
from generation.engine.actor import GeneratorActor, ImagesRefusedError
from generation.engine.diffusers_generator import DiffusersGenerator
from generation.engine.pipeline import load_pipeline, set_scheduler, speed_up
from generation.recipes.config import RecipeConfig
from generation.recipes.model_files import PROJECT_ROOT
from generation.recipes.plan import SamplePlan, plan_sample
from generation.recipes.recipe import Recipe, build_recipe
from tests.support.images import MAX_LEVELS_APART, apart
from tests.support.settings import ON_CPU
from tests.support.tiny_models import (
    save_random_lora,
    save_tiny_chroma,
    save_tiny_flux,
    save_tiny_lcm,
    save_tiny_pixart,
    save_tiny_sd3,
    save_tiny_sdxl,
    save_tiny_vae,
    save_with_safety_checker,
)

MODEL = PROJECT_ROOT / "generation" / "digits" / "model"


def recipe_of(**settings) -> Recipe:
    return build_recipe(RecipeConfig(image_size=32, num_inference_steps=4, **settings))


def plans_of(recipe: Recipe, number: int = 3) -> list[SamplePlan]:
    return [plan_sample(recipe, index) for index in range(number)]


def by_stock(generator: DiffusersGenerator, pipeline, plans: Sequence[SamplePlan]) -> np.ndarray:
    """Return the pipeline's own images for the plans' prompts and noise."""
    vars(pipeline).pop("get_guidance_scale_embedding", None)
    images = pipeline(
        prompt=[plan.prompt for plan in plans],
        latents=torch.stack([generator.initial_noise(plan) for plan in plans]),
        guidance_scale=plans[0].guidance_scale,
        num_inference_steps=plans[0].num_inference_steps,
        generator=[torch.Generator().manual_seed(plan.noise_seed % 2**63) for plan in plans],
        output_type="np",
        **generator.call_settings,
    ).images
    return np.round(images * 255).astype(np.uint8)


@pytest.mark.parametrize("scale", [1.0, 5.0])
@pytest.mark.parametrize(
    "save", [save_tiny_sdxl, save_tiny_sd3, save_tiny_pixart, save_tiny_flux, save_tiny_chroma, save_tiny_lcm]
)
def test_each_kind_of_model_matches_its_own_pipeline(save: Callable[[Path], None], scale: float, tmp_path: Path):
    save(tmp_path)
    recipe = recipe_of(model=str(tmp_path), guidance_scale=(scale,))
    plans = plans_of(recipe)
    generator = DiffusersGenerator(recipe, ON_CPU)
    images = generator.generate(plans).images_nhwc
    assert apart(by_stock(generator, generator.pipeline, plans), images) <= MAX_LEVELS_APART
    assert apart(generator.generate(plans[1:2]).images_nhwc[0], images[1]) <= MAX_LEVELS_APART
    assert apart(images[0], images[1]) > 20
    forgetting = DiffusersGenerator(recipe, dataclasses.replace(ON_CPU, prompt_cache_size=0))
    assert apart(forgetting.generate(plans).images_nhwc, images) <= MAX_LEVELS_APART


def test_latent_consistency_batch_mixes_guidance_scales(tmp_path: Path):
    save_tiny_lcm(tmp_path)
    recipe = recipe_of(model=str(tmp_path), guidance_scale=(1.5, 12.0), guidance_draw="between")
    generator = DiffusersGenerator(recipe, dataclasses.replace(ON_CPU, batch_size=8))
    plans, sizes, call = plans_of(recipe, 5), [], generator._call_pipeline
    generator._call_pipeline = lambda samples: sizes.append(len(samples)) or call(samples)
    together = generator.generate(plans).images_nhwc
    assert sizes == [5]
    for plan, image in zip(plans, together, strict=True):
        assert apart(generator.generate([plan]).images_nhwc[0], image) <= MAX_LEVELS_APART
        other = dataclasses.replace(plan, guidance_scale=plan.guidance_scale + 5)
        assert apart(generator.generate([other]).images_nhwc[0], image) > MAX_LEVELS_APART


def test_model_with_its_own_guidance_needs_one_call_per_scale(tmp_path: Path):
    save_tiny_chroma(tmp_path)
    recipe = recipe_of(model=str(tmp_path), guidance_scale=(3.0, 5.0))
    plans = plans_of(recipe, 6)
    generator = DiffusersGenerator(recipe, ON_CPU)
    for scale in recipe.guidance_scale:
        alike = [plan for plan in plans if plan.guidance_scale == scale]
        assert len(alike) > 1
        images = generator.generate(plans).images_nhwc[[plan.guidance_scale == scale for plan in plans]]
        assert apart(by_stock(generator, generator.pipeline, alike), images) <= MAX_LEVELS_APART
    within = dataclasses.replace(recipe, guidance_interval=(0.2, 0.8))
    with pytest.raises(
        ValueError, match=r"guidance_interval is \[0\.2, 0\.8\].*does not support intervals.*Use \[0, 1\]"
    ):
        DiffusersGenerator(within, ON_CPU)


def test_flux_without_guidance_ignores_scale_and_negative_prompt(tmp_path: Path):
    save_tiny_flux(tmp_path, takes_scale=False)

    def images_with(**settings) -> np.ndarray:
        recipe = recipe_of(model=str(tmp_path), **settings)
        return DiffusersGenerator(recipe, ON_CPU).generate(plans_of(recipe)).images_nhwc

    plain = images_with(guidance_scale=(1.0,))
    np.testing.assert_array_equal(images_with(guidance_scale=(7.5,), negative_prompt="blurred"), plain)
    long = "one " * 300
    read = images_with(templates=(f"{long}{{class_name}}",))
    np.testing.assert_array_equal(images_with(templates=(f"{long}{{class_name}} two",)), read)


def test_flow_matching_model_refuses_other_schedulers(tmp_path: Path):
    save_tiny_flux(tmp_path)
    with pytest.raises(
        ValueError, match=r"recipe\.scheduler is euler, but the model uses flow matching.*Set recipe\.scheduler=model"
    ):
        DiffusersGenerator(recipe_of(model=str(tmp_path), scheduler="euler"), ON_CPU)


def test_missing_safety_checker_is_an_error(digits: Recipe):
    with pytest.raises(ValueError, match=r"recipe\.safety_checker is true, but .* has no safety checker"):
        DiffusersGenerator(dataclasses.replace(digits, safety_checker=True), ON_CPU)


def test_loras_match_diffusers_and_are_part_of_the_recipe(tmp_path: Path):
    save_random_lora(tmp_path / "a", seed=1)
    save_random_lora(tmp_path / "b", seed=2)
    file_of_b = tmp_path / "b" / "pytorch_lora_weights.safetensors"
    plain = recipe_of(guidance_scale=(1.0,))
    recipe = recipe_of(guidance_scale=(1.0,), loras={str(tmp_path / "a"): 2.0, str(file_of_b): 4.0})
    assert recipe.sha256 != plain.sha256
    assert [len(revision) for _, revision, _ in recipe.loras] == [64, 64]

    plans = plans_of(recipe)
    generator = DiffusersGenerator(recipe, ON_CPU)
    images = generator.generate(plans).images_nhwc
    assert apart(DiffusersGenerator(plain, ON_CPU).generate(plans).images_nhwc, images) > 20
    pipeline = load_pipeline(plain, ON_CPU, torch.device("cpu"))
    pipeline.load_lora_weights(tmp_path / "a", adapter_name="a")
    pipeline.load_lora_weights(tmp_path / "b", adapter_name="b")
    pipeline.set_adapters(["a", "b"], [2.0, 4.0])
    assert apart(by_stock(generator, pipeline, plans), images) <= MAX_LEVELS_APART


def test_lora_with_unmatched_weights_is_refused(tmp_path: Path):
    save_random_lora(tmp_path, seed=1)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    weights = load_file(file)

    def images_with(kohya: int) -> np.ndarray:
        """Return images with this many weights named in the style of kohya's trainer."""
        save_file({as_kohya(key) if i < kohya else key: weights[key] for i, key in enumerate(sorted(weights))}, file)
        recipe = recipe_of(guidance_scale=(1.0,), loras={str(file): 2.0})
        return DiffusersGenerator(recipe, ON_CPU).generate(plans_of(recipe)).images_nhwc

    np.testing.assert_array_equal(images_with(kohya=len(weights)), images_with(kohya=0))
    message = r"has 16 of 32 weights that do not fit 'generation/digits/model', such as lora_unet_.*; 16 fit, .* unet"
    with pytest.raises(ValueError, match=message):
        images_with(kohya=16)


def test_file_that_is_not_a_lora_is_refused(tmp_path: Path):
    file = tmp_path / "no_lora.safetensors"
    save_file({"a.weight": torch.zeros(2, 2)}, file)
    with pytest.raises(ValueError, match=r"recipe\.loras '.*no_lora\.safetensors' does not fit .* Use a LoRA"):
        DiffusersGenerator(recipe_of(loras={str(file): 1.0}), ON_CPU)


def as_kohya(key: str) -> str:
    """Return a weight's name in the style of kohya's trainer."""
    module, _, side = key.removeprefix("unet.").removesuffix(".weight").rpartition(".lora_")
    return f"lora_unet_{module.replace('.', '_')}.lora_{'down' if side == 'A' else 'up'}.weight"


def test_tiny_vae_replaces_the_models_own(tmp_path: Path):
    save_tiny_vae(tmp_path)
    recipe = recipe_of(guidance_scale=(1.0,), vae=str(tmp_path))
    generator = DiffusersGenerator(recipe, ON_CPU)
    assert type(generator.pipeline.vae).__name__ == "AutoencoderTiny"
    plans = plans_of(recipe)
    images = generator.generate(plans).images_nhwc
    assert apart(by_stock(generator, generator.pipeline, plans), images) <= MAX_LEVELS_APART
    assert len(recipe.vae_revision) == 64


def test_safety_checker_refuses_images_and_is_not_loaded_when_off(tmp_path: Path):
    save_with_safety_checker(tmp_path / "strict", flagged_share=1.0)
    save_with_safety_checker(tmp_path / "mild", flagged_share=0.0)
    strict = recipe_of(model=str(tmp_path / "strict"), safety_checker=True)
    with pytest.raises(ImagesRefusedError, match="refused, the last as flagged"):
        GeneratorActor(strict, ON_CPU).generate([0])
    mild = GeneratorActor(recipe_of(model=str(tmp_path / "mild"), safety_checker=True), ON_CPU)
    unchecked = GeneratorActor(recipe_of(model=str(tmp_path / "strict")), ON_CPU)
    np.testing.assert_array_equal(mild.generate([0, 1])["image"], unchecked.generate([0, 1])["image"])
    assert isinstance(unchecked.generator, DiffusersGenerator)
    assert unchecked.generator.pipeline.safety_checker is None


def test_fused_qkv_makes_the_same_images():
    recipe = recipe_of()
    fused = DiffusersGenerator(recipe, dataclasses.replace(ON_CPU, fuse_qkv=True))
    assert any("to_qkv" in name for name, _ in fused.denoiser.named_modules())
    images = DiffusersGenerator(recipe, ON_CPU).generate(plans_of(recipe)).images_nhwc
    assert apart(fused.generate(plans_of(recipe)).images_nhwc, images) <= MAX_LEVELS_APART


@pytest.mark.parametrize(
    ("name", "setting", "value"), [("ddim", "clip_sample", False), ("pndm", "skip_prk_steps", True)]
)
def test_scheduler_defaults_are_for_latents(name: str, setting: str, value: bool):
    for given in ({}, {setting: not value}):
        own = SimpleNamespace(config={"num_train_timesteps": 1000, **given})
        pipeline = SimpleNamespace(scheduler=own)
        set_scheduler(pipeline, name)
        assert pipeline.scheduler.config[setting] == given.get(setting, value)


def test_default_of_the_models_scheduler_does_not_carry_over():
    own = cast(LCMScheduler, LCMScheduler.from_config({"num_train_timesteps": 1000}))
    assert own.config["clip_sample"] is False
    pipeline = SimpleNamespace(scheduler=own)
    set_scheduler(pipeline, "ddim")
    assert pipeline.scheduler.config["clip_sample"] is False


def test_xformers_is_refused_for_incompatible_attention():
    class SanaLinearAttnProcessor2_0:  # noqa: N801
        """A class with the name of diffusers' own."""

    denoiser = SimpleNamespace(attn_processors={"attn1": SanaLinearAttnProcessor2_0()})
    pipeline = SimpleNamespace(components={"unet": denoiser}, unet=denoiser)
    config = GenerationConfig(attention="xformers")
    with pytest.raises(ValueError, match=r"would change the images .* is SanaLinearAttnProcessor2_0\. Set generation"):
        speed_up(pipeline, config)


def test_xformers_without_a_gpu_is_refused():
    with pytest.raises(
        ValueError, match=r"attention is xformers, which needs gpus_per_actor.*Set generation\.attention=sdpa"
    ):
        GenerationConfig(attention="xformers", gpus_per_actor=0)


def test_unknown_pipeline_class_is_refused(digits: Recipe):
    with pytest.raises(ValueError, match=r"recipe\.pipeline is 'StableDifusion', which diffusers does not have"):
        DiffusersGenerator(dataclasses.replace(digits, pipeline="StableDifusion"), ON_CPU)
    named = DiffusersGenerator(dataclasses.replace(digits, pipeline="StableDiffusionPipeline"), ON_CPU)
    assert type(named.pipeline).__name__ == "StableDiffusionPipeline"


def test_unsupported_size_is_refused_on_loading(tmp_path: Path):
    save_tiny_flux(tmp_path)
    recipe = recipe_of(model=str(tmp_path))
    odd = dataclasses.replace(recipe, generated_size=34)
    with pytest.raises(
        ValueError, match=r"cannot make images with recipe\.generated_size=34,.*Try a multiple of 64"
    ) as error:
        DiffusersGenerator(odd, ON_CPU)
    assert "\n" not in str(error.value)


def test_damaged_model_is_refused_in_one_line(tmp_path: Path, digits: Recipe):
    shutil.copytree(MODEL, tmp_path / "model")
    (tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"cut short")
    with pytest.raises(ValueError, match=r"cannot be loaded on cpu.*Check") as caught:
        DiffusersGenerator(dataclasses.replace(digits, model=str(tmp_path / "model")), ON_CPU)
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_refused(tmp_path: Path, digits: Recipe):
    shutil.copytree(MODEL, tmp_path / "model")
    weights = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(ValueError, match=r"cannot be loaded.*no file named diffusion_pytorch_model\.safetensors"):
        DiffusersGenerator(dataclasses.replace(digits, model=str(tmp_path / "model")), ON_CPU)
