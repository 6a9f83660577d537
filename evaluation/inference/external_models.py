"""Classifiers that Figment did not train: torchvision's and timm's pretrained models, and weights in a file.

Preprocessing follows each model's authors unless the settings override it.
"""

import hashlib
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from evaluation.images.decoding import Crop
from evaluation.inference.trained_model import EvaluatedModel, crop_of
from evaluation.result import ModelFacts
from generation.recipes.labels import LabelSpace, load_label_space
from training.config import TrainingConfig

TORCHVISION, TIMM, FILE = "torchvision:", "timm:", ".safetensors"
IMAGENET = "imagenet1k"

CROP_MODES = ("center", "squash")
"""timm's crop modes that `Crop` supports."""

UNUSED = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
"""Prefixes of torchvision's weights for auxiliary outputs, which only training uses."""

COUNTER = ".num_batches_tracked"
"""Suffix of a batch norm entry that old weights lack and evaluation does not use."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's normalization, assumed for a file of weights."""

DEFAULT_CROP = 224


class ExternalClassifier(torch.nn.Module):
    """A network with its input normalization."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: torch.nn.Module, num_classes: int, mean: Any, std: Any) -> None:
        """Take the network and its normalization of pixel values in 0..1."""
        super().__init__()
        self.network = network
        self.num_classes = num_classes
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, images_nhwc: torch.Tensor) -> torch.Tensor:
        """Return logits [N, num_classes] for uint8 images [N, H, W, 3]."""
        return self.network(self._input(images_nhwc))

    def features_and_logits(self, images_nhwc: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the last layer's inputs, float [N, D], and the logits for uint8 images [N, H, W, 3]."""
        from training.model.network import features_and_logits

        return features_and_logits(self.network, self.num_classes, self._input(images_nhwc))

    def _input(self, images_nhwc: torch.Tensor) -> torch.Tensor:
        return ((images_nhwc.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std).contiguous()


def is_external(checkpoint: str) -> bool:
    """Return whether `checkpoint` names an external model."""
    return checkpoint.startswith((TORCHVISION, TIMM)) or checkpoint.endswith(FILE)


def open_external(source: str, training: TrainingConfig, label_space: LabelSpace, run_dir: Path) -> EvaluatedModel:
    """Return a classifier by name; ValueError with the remedy if it does not exist or has other classes.

    `training` and `label_space` describe a file's weights; torchvision's and timm's models have ImageNet's 1,000
    classes. Its training data are unknown.
    """
    name, space = source.partition(":")[2], load_label_space(IMAGENET)
    if source.startswith(TORCHVISION):
        architecture, (classifier, crop) = name.partition("/")[0], _of_torchvision(source)
    elif source.startswith(TIMM):
        architecture, (classifier, crop) = f"timm/{name}", _of_timm(source)
    else:
        name, space, architecture = Path(source).stem, label_space, training.architecture
        classifier, crop = _of_file(source, training, label_space)
    facts: ModelFacts = {
        "name": name,
        "architecture": architecture,
        "checkpoint": source,
        "label_space": space.name,
        "num_classes": space.num_classes,
        "image_size": crop.crop_size,
        "num_images": 0,
        "num_trained": 0,
        "trained_on": "unknown",
        "recipe_sha256": "",
        "guidance_scale": [],
        "templates": [],
        "augmentation": "unknown",
    }
    return EvaluatedModel(facts, sha256_of(classifier, crop), run_dir, space, crop, classifier.eval)


def sha256_of(classifier: ExternalClassifier, crop: Crop) -> str:
    """Return the hash of the weights and the preprocessing."""
    digest = hashlib.sha256(type(classifier.network).__name__.encode())
    if crop.is_squashed:
        digest.update(b"squashed")
    for name, values in sorted(classifier.state_dict().items()):
        digest.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
        digest.update(values.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _of_torchvision(source: str) -> tuple[ExternalClassifier, Crop]:
    import torchvision

    name = source.removeprefix(TORCHVISION).partition("/")[0]
    weights = _torchvision_weights(source)
    network = _fetch(source, partial(torchvision.models.get_model, name, weights=weights))
    preprocessing = weights.transforms()
    crop = Crop(preprocessing.resize_size[0], preprocessing.crop_size[0], preprocessing.interpolation.value)
    return _of_imagenet(source, network, crop, preprocessing.mean, preprocessing.std), crop


def _torchvision_weights(source: str) -> Any:
    """Return torchvision's entry for the weights without downloading them; ValueError if they cannot be evaluated."""
    import torchvision

    name, _, wanted = source.removeprefix(TORCHVISION).partition("/")
    try:
        known = torchvision.models.get_model_weights(name)
    except ValueError as error:
        raise ValueError(f"checkpoint is '{source}', but torchvision has no model '{name}'.") from error
    if name.lower() not in torchvision.models.list_models(module=torchvision.models):
        raise ValueError(
            f"checkpoint is '{source}', but torchvision's {name} is quantized or not an image classifier. Use another "
            f"model, such as {TORCHVISION}resnet50/IMAGENET1K_V1."
        )
    if wanted not in known.__members__:
        raise ValueError(
            f"checkpoint is '{source}', but torchvision's {name} has the weights "
            f"{', '.join(each.name for each in known)}. Use one of them, such as "
            f"{TORCHVISION}{name}/{next(iter(known.__members__))}."
        )
    if not known[wanted].meta["categories"]:
        raise ValueError(
            f"checkpoint is '{source}', whose weights lack the classification layer. Use others, such as "
            f"{TORCHVISION}{name}/{next(iter(known.__members__))}."
        )
    return known[wanted]


def _of_timm(source: str) -> tuple[ExternalClassifier, Crop]:
    import timm
    from timm.data.model_config import resolve_input_data_config

    name = source.removeprefix(TIMM)
    if name not in timm.list_models(pretrained=True) and name not in timm.list_models():
        raise ValueError(f"checkpoint is '{source}', but timm has no pretrained model '{name}'.")
    mode = getattr(timm.get_pretrained_cfg(name), "crop_mode", "center")
    if mode not in CROP_MODES:
        raise ValueError(
            f"checkpoint is '{source}', whose timm crop mode '{mode}' is not supported. Use a model with crop_mode "
            f"{' or '.join(CROP_MODES)}."
        )
    network = _fetch(source, partial(timm.create_model, name, pretrained=True))
    preprocessing = resolve_input_data_config(network, use_test_size=True)
    size = preprocessing["input_size"][-1]
    crop = Crop(
        int(size / preprocessing["crop_pct"]), size, preprocessing["interpolation"], is_squashed=mode == "squash"
    )
    return _of_imagenet(source, network, crop, preprocessing["mean"], preprocessing["std"]), crop


def _of_file(source: str, training: TrainingConfig, label_space: LabelSpace) -> tuple[ExternalClassifier, Crop]:
    from safetensors.torch import load_file

    from training.model.network import build_network

    try:
        weights = load_file(source)
    except Exception as error:  # safetensors raises its own error type
        raise ValueError(f"checkpoint '{source}' cannot be read: {error}. Use a safetensors file.") from error
    network = build_network(training.architecture, label_space.num_classes, training.head, training.temperature)
    needed = network.state_dict()
    shapes = {name: values.shape for name, values in weights.items()}
    unused = UNUSED.get(training.architecture, ())
    lacking = [name for name in needed if name not in shapes and not name.endswith(COUNTER)]
    reshaped = [name for name in needed if name in shapes and shapes[name] != needed[name].shape]
    wrong = lacking or reshaped or sorted(name for name in set(shapes) - set(needed) if not name.startswith(unused))
    if wrong:
        raise ValueError(
            f"checkpoint '{source}' does not fit {training.architecture} with the {label_space.num_classes} classes of "
            f"{label_space.name}: '{wrong[0]}' is missing, unexpected or has another shape. Set training.architecture "
            "and recipe.label_space to match the file."
        )
    network.load_state_dict(weights, strict=False)
    size = training.crop_size or DEFAULT_CROP
    return ExternalClassifier(network, label_space.num_classes, MEAN, STD), crop_of(size)


def _of_imagenet(source: str, network: torch.nn.Module, crop: Crop, mean: Any, std: Any) -> ExternalClassifier:
    """Return a library's network with its normalization; ValueError unless it has ImageNet's number of classes."""
    num_classes = load_label_space(IMAGENET).num_classes
    with torch.inference_mode():
        num_logits = network.eval()(torch.zeros(1, 3, crop.crop_size, crop.crop_size)).shape[1]
    if num_logits != num_classes:
        raise ValueError(f"checkpoint is '{source}', which has {num_logits} classes, not ImageNet's 1,000.")
    return ExternalClassifier(network, num_classes, mean, std)


def _fetch(source: str, build: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """Return a library's network with its weights, which the library caches."""
    try:
        return build()
    except Exception as error:  # downloads fail in many ways
        reason = re.sub(r"\s+", " ", str(error))[:200]
        raise ValueError(
            f"checkpoint is '{source}', whose weights could not be loaded: {reason}. If this machine has no network "
            "access, download them elsewhere and copy the cache: TORCH_HOME for torchvision, HF_HOME for timm."
        ) from error
