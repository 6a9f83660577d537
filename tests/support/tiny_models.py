"""Common architectures with a few thousand random weights."""

import importlib
from pathlib import Path
from typing import Any

import torch

from generation.recipes.config import RecipeConfig
from generation.recipes.model_files import PROJECT_ROOT
from generation.recipes.plan import plan_sample
from generation.recipes.recipe import build_recipe

diffusers: Any = importlib.import_module("diffusers")
transformers: Any = importlib.import_module("transformers")

DIGITS = PROJECT_ROOT / "generation" / "digits" / "model"
TOKENIZER = DIGITS / "tokenizer"


FLUX_LIKE: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "axes_dims_rope": (4, 4, 8),
}
"""Settings shared by the transformers of Flux and Chroma."""


def tiny_decoder(**settings: Any) -> Any:
    """Return an AutoencoderKL whose images are twice the size of its latents."""
    return diffusers.AutoencoderKL(
        **settings,
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    )


def tiny_tokenizer() -> Any:
    """Return the digits model's tokenizer."""
    return transformers.CLIPTokenizer.from_pretrained(TOKENIZER)


def tiny_clip(tokenizer: Any) -> Any:
    """Return the configuration of a CLIP text encoder with 32 dimensions."""
    return transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=32,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def save_tiny_clip(folder: Path) -> Any:
    """Write a CLIPModel for images of 16 px with its tokenizer, and return the model."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    vision = transformers.CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=16,
        patch_size=8,
        projection_dim=32,
    )
    text = tiny_clip(tokenizer)
    config = transformers.CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=32)
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def tiny_t5(tokenizer: Any) -> Any:
    """Return a T5 text encoder with 32 dimensions."""
    return transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=len(tokenizer), d_model=32, d_ff=37, d_kv=8, num_heads=4, num_layers=2, is_encoder_decoder=False
        )
    )


def save_tiny_pixart(folder: Path) -> None:
    """Write a PixArtAlphaPipeline: a transformer instead of a UNet, T5 instead of CLIP."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    pipeline = diffusers.PixArtAlphaPipeline(
        tokenizer=tokenizer,
        text_encoder=tiny_t5(tokenizer),
        vae=tiny_decoder(),
        transformer=diffusers.PixArtTransformer2DModel(
            sample_size=16,
            num_layers=2,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=3,
            caption_channels=32,
            cross_attention_dim=24,
            in_channels=4,
            out_channels=8,
        ),
        scheduler=diffusers.DDIMScheduler(),
    )
    torch.nn.init.normal_(
        pipeline.transformer.proj_out.weight, std=0.5
    )  # zeros by default, which would ignore the prompt
    pipeline.save_pretrained(folder)


def save_tiny_flux(folder: Path, takes_scale: bool = True) -> None:
    """Write a FluxPipeline: flow matching, latents in patches of two by two, guidance as an input, or none."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    pipeline = diffusers.FluxPipeline(
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        text_encoder=transformers.CLIPTextModel(tiny_clip(tokenizer)),
        text_encoder_2=tiny_t5(tokenizer),
        vae=tiny_decoder(shift_factor=0.1),
        transformer=diffusers.FluxTransformer2DModel(
            **FLUX_LIKE,
            pooled_projection_dim=32,
            guidance_embeds=takes_scale,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )
    pipeline.save_pretrained(folder)


def save_tiny_vae(folder: Path) -> None:
    """Write an AutoencoderTiny for the digits model: its images are four times the size of its latents."""
    torch.manual_seed(0)
    sizes = (8, 8, 8)
    diffusers.AutoencoderTiny(
        encoder_block_out_channels=sizes,
        decoder_block_out_channels=sizes,
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
    ).save_pretrained(folder)


def save_random_lora(folder: Path, seed: int) -> None:
    """Write LoRA weights for the attention of the digits model's UNet, as training scripts do."""
    torch.manual_seed(seed)
    peft: Any = importlib.import_module("peft")
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(DIGITS, safety_checker=None)
    pipeline.unet.add_adapter(peft.LoraConfig(r=4, init_lora_weights=False, target_modules=["to_q", "to_v"]))
    weights = peft.get_peft_model_state_dict(pipeline.unet)
    diffusers.StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=weights)


def save_with_safety_checker(folder: Path, flagged_share: float) -> None:
    """Write the digits model with Stable Diffusion's type of safety checker, which flags that share of its images."""
    torch.manual_seed(0)
    checkers: Any = importlib.import_module("diffusers.pipelines.stable_diffusion.safety_checker")
    clip = transformers.CLIPConfig(
        text_config={"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8},
        vision_config={
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 8,
            "image_size": 32,
            "patch_size": 16,
        },
        projection_dim=8,
    )
    checker = checkers.StableDiffusionSafetyChecker(clip).eval()
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(DIGITS, safety_checker=None)
    checker.concept_embeds.data[:] = torch.randn(8)
    checker.concept_embeds_weights.data.fill_(threshold_of(checker, flagged_share))
    checker.special_care_embeds_weights.data.fill_(2.0)
    pipeline.register_modules(
        safety_checker=checker,
        feature_extractor=preprocessor(),
    )
    pipeline.register_to_config(requires_safety_checker=True)
    pipeline.save_pretrained(folder)


def threshold_of(checker: Any, flagged_share: float) -> float:
    """Return the cosine similarity to the checker's concept that this share of the model's images exceeds."""
    if flagged_share in (0.0, 1.0):
        return 2.0 - 4.0 * flagged_share
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(DIGITS, safety_checker=None, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    recipe = build_recipe(RecipeConfig(image_size=32, num_inference_steps=4, guidance_scale=(1.0,)))
    prompts = [plan_sample(recipe, index).prompt for index in range(100)]
    images = pipeline(prompts, num_inference_steps=4, guidance_scale=1.0, output_type="pt").images
    pixels = preprocessor()(images, do_rescale=False, return_tensors="pt").pixel_values
    embeds = checker.visual_projection(checker.vision_model(pixels)[1])
    cosines = torch.nn.functional.cosine_similarity(embeds, checker.concept_embeds[:1])
    return float(cosines.quantile(1 - flagged_share))


def preprocessor() -> Any:
    """Return the image preprocessor of the safety checker."""
    return transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)


def save_tiny_sdxl(folder: Path) -> None:
    """Write a StableDiffusionXLPipeline with latents half the size of its images and the digits model's tokenizer."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    text = tiny_clip(tokenizer)
    pipeline = diffusers.StableDiffusionXLPipeline(
        vae=tiny_decoder(),
        text_encoder=transformers.CLIPTextModel(text),
        text_encoder_2=transformers.CLIPTextModelWithProjection(text),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=diffusers.UNet2DConditionModel(
            block_out_channels=(8, 16),
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            transformer_layers_per_block=(1, 2),
            projection_class_embeddings_input_dim=80,  # six sizes with 8 dimensions, and the pooled text
            cross_attention_dim=64,
        ),
        scheduler=diffusers.EulerDiscreteScheduler(),
    )
    pipeline.save_pretrained(folder)


def save_tiny_sd3(folder: Path) -> None:
    """Write a StableDiffusion3Pipeline: flow matching with batched guidance and three text encoders."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    pipeline = diffusers.StableDiffusion3Pipeline(
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        tokenizer_3=tokenizer,
        text_encoder=transformers.CLIPTextModelWithProjection(tiny_clip(tokenizer)),
        text_encoder_2=transformers.CLIPTextModelWithProjection(tiny_clip(tokenizer)),
        text_encoder_3=tiny_t5(tokenizer),
        vae=tiny_decoder(shift_factor=0.1),
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=16,
            patch_size=1,
            in_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=32,
            caption_projection_dim=32,
            pooled_projection_dim=64,
            out_channels=4,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )
    pipeline.save_pretrained(folder)


def save_tiny_chroma(folder: Path) -> None:
    """Write a ChromaPipeline: guidance with two denoiser calls per step."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    pipeline = diffusers.ChromaPipeline(
        tokenizer=tokenizer,
        text_encoder=tiny_t5(tokenizer),
        vae=tiny_decoder(shift_factor=0.1),
        transformer=diffusers.ChromaTransformer2DModel(
            **FLUX_LIKE,
            approximator_num_channels=8,
            approximator_hidden_dim=32,
            approximator_layers=1,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )
    pipeline.save_pretrained(folder)


def save_tiny_lcm(folder: Path) -> None:
    """Write the digits model as a LatentConsistencyModelPipeline with a random embedding of the guidance scale."""
    torch.manual_seed(0)
    digits = diffusers.StableDiffusionPipeline.from_pretrained(DIGITS, safety_checker=None)
    unet = diffusers.UNet2DConditionModel.from_config(digits.unet.config, time_cond_proj_dim=16)
    unet.load_state_dict(digits.unet.state_dict(), strict=False)
    pipeline = diffusers.LatentConsistencyModelPipeline(
        vae=digits.vae,
        text_encoder=digits.text_encoder,
        tokenizer=digits.tokenizer,
        unet=unet,
        scheduler=diffusers.LCMScheduler.from_config(digits.scheduler.config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
