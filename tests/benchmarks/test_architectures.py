import pytest
import torch

from benchmarks.architectures import ARCHITECTURES, TINY, write_random_model


def num_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("name", "unet", "text_encoder"),
    [
        ("CompVis/stable-diffusion-v1-4", 859_520_964, 123_060_480),
        ("stabilityai/sd-turbo", 865_910_724, 340_387_840),
    ],
)
def test_random_models_have_the_real_numbers_of_weights(name: str, unet: int, text_encoder: int):
    with torch.device("meta"):
        pipeline = ARCHITECTURES[name]()
    assert num_parameters(pipeline.unet) == unet
    assert num_parameters(pipeline.text_encoder) == text_encoder
    assert num_parameters(pipeline.vae) == 83_653_863
    assert pipeline.vae_scale_factor == 8


def test_taesd_decoder_has_a_thirtieth_of_the_weights():
    with torch.device("meta"):
        assert num_parameters(ARCHITECTURES["madebyollin/taesd"]()) == 2_445_063


def test_tiny_model_is_small():
    with torch.device("meta"):
        pipeline = ARCHITECTURES[TINY]()
    assert sum(num_parameters(pipeline.components[name]) for name in ("unet", "vae", "text_encoder")) < 3_000_000


def test_unknown_architecture_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match=r"no architecture 'x' .*Use CompVis/stable-diffusion-v1-4"):
        write_random_model("x", tmp_path, "float16")
