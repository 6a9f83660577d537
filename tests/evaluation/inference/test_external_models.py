"""Classifiers of torchvision, timm and weight files, with random weights in the libraries' caches."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import timm
import timm.data.config
import timm.data.model_config
import timm.data.transforms_factory
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

from evaluation.config import EvaluationConfig
from evaluation.images.decoding import Crop
from evaluation.inference.external_models import is_external, open_external, sha256_of
from evaluation.inference.network import KINDS, Network, Request
from evaluation.inference.reading import crop_for
from evaluation.inference.trained_model import EvaluatedModel
from generation.recipes.labels import LabelSpace, load_label_space
from training.config import TrainingConfig

RESNET18 = "torchvision:resnet18/IMAGENET1K_V1"


def opened(source: str, label_space: LabelSpace | None = None, **training: object) -> EvaluatedModel:
    config = TrainingConfig(architecture="resnet18", **training)  # pyright: ignore[reportArgumentType]
    return open_external(source, config, label_space or load_label_space("digits"), Path("run"))


def random_network(network: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return network.eval()


@pytest.fixture
def torchvisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """torchvision's ResNet18 with weights in torch's cache."""
    network = random_network(torchvision.models.resnet18())
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(network.state_dict(), cache / Path(torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url).name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return network


def photograph(height: int = 300, width: int = 400) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def opened_of_timms(monkeypatch: pytest.MonkeyPatch, name: str, network: str = "test_resnet", **config: object) -> Any:
    """Return a small network instead of the named one, with timm's configuration of that one and `config`."""
    configured = timm.get_pretrained_cfg(name).to_dict() | config  # pyright: ignore[reportOptionalMemberAccess]
    small = random_network(timm.create_model(network, pretrained_cfg=configured))
    monkeypatch.setattr("timm.create_model", lambda name, pretrained: small)
    return opened(f"timm:{name}")


def test_torchvision_model_matches_torchvision(torchvisions: torch.nn.Module):
    model = opened(RESNET18)
    assert model.label_space == load_label_space("imagenet1k")
    assert model.crop == Crop(256, 224, "bilinear")
    pixels = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()(photograph())
    with torch.inference_mode():
        expected = torchvisions(pixels[None])
        logits = model.build()(torch.from_numpy(model.crop(photograph())[None]))
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_actor_returns_guesses_and_features(torchvisions: torch.nn.Module):
    model = opened(RESNET18)
    compute = Network(model.build, EvaluationConfig(), [Request(KINDS)]).load()
    outputs = compute(0, model.crop(photograph())[None])
    assert outputs["prediction"].shape == (1, 5)
    assert outputs["feature"].shape == (1, 512)


def test_hash_depends_on_the_weights(torchvisions: torch.nn.Module):
    model, again = opened(RESNET18), opened(RESNET18)
    assert model.sha256 == again.sha256
    with torch.no_grad():
        next(again.build().parameters())[0, 0, 0, 0] += 1e-3
    assert sha256_of(again.build(), again.crop) != model.sha256


def test_timm_model_uses_timms_preprocessing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    network = random_network(timm.create_model("test_resnet"))
    monkeypatch.setattr("timm.create_model", lambda name, pretrained: network)
    model = opened("timm:test_resnet")
    assert (model.facts["architecture"], model.facts["name"]) == ("timm/test_resnet", "test_resnet")
    data = timm.data.config.resolve_model_data_config(network)
    transform = cast(Any, timm.data.transforms_factory.create_transform(**data))
    with torch.inference_mode():
        expected = network(transform(photograph())[None])
        logits = model.build()(torch.from_numpy(model.crop(photograph())[None]))
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("convnext_tiny.fb_in22k_ft_in1k_384", Crop(384, 384, "bicubic", is_squashed=True)),
        ("dm_nfnet_f0.dm_in1k", Crop(284, 256, "bicubic", is_squashed=True)),  # 256 / 0.9 = 284.4
        ("resnet50.tv_in1k", Crop(256, 224, "bilinear")),
    ],
)
def test_crop_matches_timms(monkeypatch: pytest.MonkeyPatch, name: str, expected: Crop):
    model = opened_of_timms(monkeypatch, name)
    assert model.crop == expected
    assert crop_for(model.crop, EvaluationConfig(), center_crop=True) == expected
    data = timm.data.model_config.resolve_input_data_config(model.build().network, use_test_size=True)
    theirs = cast(Any, timm.data.transforms_factory.create_transform(**data, normalize=False))
    for height, width in ((400, 600), (600, 400), (100, 101), (expected.resize_size, expected.resize_size)):
        image = photograph(height, width)
        np.testing.assert_array_equal(model.crop(image), theirs(image).permute(1, 2, 0).numpy())


def test_settings_override_sizes_but_not_squashing():
    own = Crop(384, 384, "bicubic", is_squashed=True)
    config = EvaluationConfig(resize_size=256, crop_size=224, interpolation="bilinear")
    assert crop_for(own, config, center_crop=True) == Crop(256, 224, "bilinear", is_squashed=True)
    assert crop_for(own, config, center_crop=False) == Crop(224, 224, "bicubic")


def test_timm_model_uses_its_test_size(monkeypatch: pytest.MonkeyPatch):
    model = opened_of_timms(monkeypatch, "resnet50.a1_in1k")  # trained on 224 of 235
    assert model.crop == Crop(288, 288, "bicubic")


def test_model_with_a_fixed_size_uses_it(monkeypatch: pytest.MonkeyPatch):
    name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    model = opened_of_timms(monkeypatch, name, "vit_tiny_patch16_224", test_input_size=(3, 288, 288))
    assert model.crop == Crop(248, 224, "bicubic")  # 224 / 0.9 = 248.9


def test_squashing_changes_outputs(torchvisions: torch.nn.Module):
    model = opened(RESNET18)
    assert sha256_of(model.build(), replace(model.crop, is_squashed=True)) != model.sha256


def test_unsupported_crop_mode_is_refused_before_download(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("timm.create_model", None)
    with pytest.raises(ValueError, match=r"timm crop mode 'border' is not supported\. Use a model with"):
        opened("timm:deepseek_vit_412m.deepseek_v4_1_flash")


def test_weights_file_must_match_architecture_and_classes(tmp_path: Path):
    network = random_network(torchvision.models.resnet18(num_classes=10))
    save_file(network.state_dict(), tmp_path / "mine.safetensors")
    model = opened(str(tmp_path / "mine.safetensors"), crop_size=32)
    assert (model.facts["name"], model.crop, model.facts["num_classes"]) == ("mine", Crop(37, 32, "bilinear"), 10)
    images = torch.randint(0, 255, (2, 32, 32, 3), dtype=torch.uint8)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        expected = network((images.permute(0, 3, 1, 2) / 255 - mean) / std)
        torch.testing.assert_close(model.build()(images), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(
        ValueError, match=r"the 1000 classes of imagenet1k: 'fc\.weight' is missing, unexpected or has another"
    ):
        opened(str(tmp_path / "mine.safetensors"), load_label_space("imagenet1k"))


def test_weights_without_counters_are_accepted(tmp_path: Path):
    network = random_network(torchvision.models.resnet18(num_classes=10))
    weights = {name: each for name, each in network.state_dict().items() if "num_batches_tracked" not in name}
    assert len(weights) == 122 - 20  # a counter for each of 20 batch norms
    save_file(weights, tmp_path / "old.safetensors")
    images = torch.randint(0, 255, (2, 32, 32, 3), dtype=torch.uint8)
    model = opened(str(tmp_path / "old.safetensors"), crop_size=32)
    torch.testing.assert_close(model.build().network.state_dict(), network.state_dict())
    assert model.build()(images).shape == (2, 10)
    save_file({name: each for name, each in weights.items() if name != "bn1.running_var"}, tmp_path / "old.safetensors")
    with pytest.raises(ValueError, match=r"'bn1\.running_var' is missing"):
        opened(str(tmp_path / "old.safetensors"))


@pytest.mark.parametrize(("name", "auxiliary"), [("googlenet", "aux1.fc2.bias"), ("inception_v3", "AuxLogits.fc.bias")])
def test_weights_of_auxiliary_outputs_are_ignored(tmp_path: Path, name: str, auxiliary: str):
    network = torchvision.models.get_model(name, num_classes=10, init_weights=False)
    weights = network.state_dict()
    assert auxiliary in weights
    save_file(weights, tmp_path / "all.safetensors")
    config = TrainingConfig(architecture=name)
    model = open_external(str(tmp_path / "all.safetensors"), config, load_label_space("digits"), Path("run"))
    kept = model.build().network.state_dict()
    assert auxiliary not in kept
    torch.testing.assert_close(kept, {each: weights[each] for each in kept})
    save_file(weights | {"other.bias": torch.zeros(1)}, tmp_path / "all.safetensors")
    with pytest.raises(ValueError, match=r"'other\.bias' is missing, unexpected or has another shape"):
        open_external(str(tmp_path / "all.safetensors"), config, load_label_space("digits"), Path("run"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("fcn_resnet50/COCO_WITH_VOC_LABELS_V1", r"fcn_resnet50 is quantized or not an image classifier\. Use"),
        ("raft_small/C_T_V1", "raft_small is quantized or not an image classifier"),
        ("r3d_18/KINETICS400_V1", "r3d_18 is quantized or not an image classifier"),
        (
            "quantized_resnet18/IMAGENET1K_FBGEMM_V1",
            r"quantized_resnet18 is quantized .*, such as torchvision:resnet50/IMAGENET1K",
        ),
        (
            "vgg16/IMAGENET1K_FEATURES",
            r"weights lack the classification layer\. Use others, such as torchvision:vgg16/IMAGENET1K_V1",
        ),
    ],
)
def test_unsupported_model_is_refused_before_download(monkeypatch: pytest.MonkeyPatch, source: str, message: str):
    monkeypatch.setattr("torchvision.models.get_model", None)
    with pytest.raises(ValueError, match=message):
        opened(f"torchvision:{source}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("torchvision:resnet51/IMAGENET1K_V1", r"torchvision has no model 'resnet51'"),
        (
            "torchvision:resnet18",
            r"resnet18 has the weights IMAGENET1K_V1\. Use one of them, such as torchvision:resnet18/IMAGENET",
        ),
        ("timm:resnet51x", r"timm has no pretrained model 'resnet51x'"),
        ("none.safetensors", r"'none\.safetensors' cannot be read"),
    ],
)
def test_missing_model_is_one_line(source: str, message: str):
    assert is_external(source)
    with pytest.raises(ValueError, match=message):
        opened(source)


def test_failed_download_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("torchvision.models.get_model", fail)
    with pytest.raises(ValueError, match=r"whose weights could not be loaded: Network is unreachable\. If this"):
        opened(RESNET18)


def test_weights_for_other_classes_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torchvision.models.get_model", lambda *_, **__: torchvision.models.resnet18(num_classes=21841))
    with pytest.raises(ValueError, match="which has 21841 classes, not ImageNet's 1,000"):
        opened(RESNET18)
