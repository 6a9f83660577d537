"""Classifiers of torchvision, timm and weight files, with random weights where the libraries' caches have theirs."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import timm
import timm.data.config
import timm.data.transforms_factory
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

from evaluation.config import EvaluationConfig
from evaluation.decoding import Crop
from evaluation.external_models import ExternalModel, is_external, open_external
from evaluation.inference import KINDS, Network, Question
from generation.labels import LabelSpace, load_label_space
from training.config import TrainingConfig

RESNET18 = "torchvision:resnet18/IMAGENET1K_V1"


def opened(source: str, label_space: LabelSpace | None = None, **training: object) -> ExternalModel:
    config = TrainingConfig(architecture="resnet18", **training)  # pyright: ignore[reportArgumentType]
    return open_external(source, config, label_space or load_label_space("digits"), Path("run"))


def random_network(network: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return network.eval()


@pytest.fixture
def torchvisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """torchvision's ResNet18, with weights in torch's cache."""
    network = random_network(torchvision.models.resnet18())
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(network.state_dict(), cache / Path(torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url).name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return network


def photograph() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8))


def test_a_network_of_torchvisions_says_of_an_image_what_torchvision_does(torchvisions: torch.nn.Module):
    model = opened(RESNET18)
    assert model.label_space == load_label_space("imagenet1k")
    assert model.crop == Crop(256, 224, "bilinear")
    pixels = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()(photograph())
    with torch.inference_mode():
        expected = torchvisions(pixels[None])
        logits = model.build()(torch.from_numpy(model.crop(photograph())[None]))
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_an_actor_gives_its_guesses_and_its_features(torchvisions: torch.nn.Module):
    model = opened(RESNET18)
    answer = Network(model.build, EvaluationConfig(), [Question(KINDS)]).load()
    said = answer(0, model.crop(photograph())[None])
    assert said["prediction"].shape == (1, 5)
    assert said["feature"].shape == (1, 512)


def test_weights_decide_whose_outputs_are_whose(torchvisions: torch.nn.Module):
    model, again = opened(RESNET18), opened(RESNET18)
    assert model.sha256 == again.sha256
    with torch.no_grad():
        next(again.classifier.parameters())[0, 0, 0, 0] += 1e-3
    assert model.sha256 != again.sha256


def test_a_network_of_timms_is_shown_images_as_timm_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    network = random_network(timm.create_model("test_resnet"))
    monkeypatch.setattr("timm.create_model", lambda name, pretrained: network)
    model = opened("timm:test_resnet")
    assert (model.architecture, model.name) == ("timm/test_resnet", "test_resnet")
    data = timm.data.config.resolve_model_data_config(network)
    transform = cast(Any, timm.data.transforms_factory.create_transform(**data))
    with torch.inference_mode():
        expected = network(transform(photograph())[None])
        logits = model.build()(torch.from_numpy(model.crop(photograph())[None]))
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-3)


def test_a_file_of_weights_is_of_the_architecture_and_classes_that_the_settings_name(tmp_path: Path):
    network = random_network(torchvision.models.resnet18(num_classes=10))
    save_file(network.state_dict(), tmp_path / "mine.safetensors")
    model = opened(str(tmp_path / "mine.safetensors"), crop_size=32)
    assert (model.name, model.crop, model.num_classes) == ("mine", Crop(37, 32, "bilinear"), 10)
    images = torch.randint(0, 255, (2, 32, 32, 3), dtype=torch.uint8)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        expected = network((images.permute(0, 3, 1, 2) / 255 - mean) / std)
        torch.testing.assert_close(model.build()(images), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"for the 1000 classes of imagenet1k: 'fc\.weight' is missing, or of another"):
        opened(str(tmp_path / "mine.safetensors"), load_label_space("imagenet1k"))


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("torchvision:resnet51/IMAGENET1K_V1", r"torchvision has no model 'resnet51'"),
        (
            "torchvision:resnet18",
            r"resnet18 has the weights IMAGENET1K_V1\. Give one, as torchvision:resnet18/IMAGENET",
        ),
        ("timm:resnet51x", r"timm has no model 'resnet51x'"),
        ("none.safetensors", r"'none\.safetensors' cannot be read"),
    ],
)
def test_what_is_not_there_is_one_line(source: str, told: str):
    assert is_external(source)
    with pytest.raises(ValueError, match=told):
        opened(source)


def test_weights_that_cannot_be_fetched_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("torchvision.models.get_model", fail)
    with pytest.raises(ValueError, match=r"whose weights cannot be had: Network is unreachable\. Fetch them"):
        opened(RESNET18)


def test_weights_for_other_classes_than_imagenets_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torchvision.models.get_model", lambda *_, **__: torchvision.models.resnet18(num_classes=21841))
    with pytest.raises(ValueError, match="which tells 21841 classes apart, not ImageNet's 1,000"):
        opened(RESNET18)
