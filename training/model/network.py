"""Classifiers by name, from torchvision and timm, and their last layer."""

import difflib
from collections.abc import Iterable

import torch
from torch.nn import functional

TIMM = "timm/"
"""Prefix that selects timm even if torchvision has the same name."""

COMMON = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
"""Architectures accepted without importing the libraries, which takes seconds."""


WITH_AUXILIARIES = ("googlenet", "inception_v3")
"""torchvision's architectures with auxiliary outputs during training."""

DISTILLED = "head_dist"
"""timm's name for the second head of distilled networks, whose logits are the mean of both heads."""


def check_architecture(name: str) -> None:
    """Raise ValueError with similar names if neither library has the architecture."""
    if name in COMMON or name in known_architectures():
        return
    near = difflib.get_close_matches(name, known_architectures(), n=3) or COMMON
    raise ValueError(
        f"training.architecture is '{name}', which neither torchvision nor timm has. Similar: {', '.join(near)}."
    )


def check_sizes(name: str, sizes: Iterable[int]) -> None:
    """Raise ValueError if the architecture does not accept square images of each of these sizes in pixels."""
    for size in sorted(sizes) if name not in COMMON else ():
        try:
            with torch.device("meta"):
                build_network(name, 7, "linear", 1.0)(torch.zeros(2, 3, size, size))
        except Exception as error:  # networks raise different types
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"training.architecture '{name}' does not accept images of {size} px: {reason}. Use another one, or "
                "change training.crop_size, training.local_crop_size or recipe.image_size."
            ) from error


def known_architectures() -> list[str]:
    """Return the names of torchvision's and timm's classifiers."""
    import timm

    names = timm.list_models()
    return [*_torchvisions_names(), *names, *(TIMM + name for name in names)]


def _torchvisions_names() -> list[str]:
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


def build_network(name: str, num_classes: int, head: str, temperature: float) -> torch.nn.Module:
    """Return the architecture with random weights, from float [N, 3, H, W] to logits [N, num_classes]."""
    if name in _torchvisions_names():
        import torchvision

        # train the main output only: weights of auxiliary outputs would have no gradient
        main_only = {"aux_logits": False, "init_weights": True} if name in WITH_AUXILIARIES else {}
        network = torchvision.models.get_model(name, num_classes=num_classes, **main_only)
    else:
        import timm

        network = timm.create_model(name.removeprefix(TIMM), pretrained=False, num_classes=num_classes)
    if head == "cosine":
        path, linear = _last_layers(network, num_classes)[-1]
        if DISTILLED in path:
            raise ValueError(
                f"training.architecture '{name}' averages two linear layers, of which a cosine head would replace only "
                "one. Use another architecture, or training.head=linear."
            )
        parent, _, attribute = path.rpartition(".")
        setattr(network.get_submodule(parent), attribute, CosineHead(linear.in_features, num_classes, temperature))
    return network


def _last_layers(network: torch.nn.Module, num_classes: int) -> list[tuple[str, torch.nn.Linear]]:
    """Return the linear layers that compute the logits, two in timm's distilled networks, with their paths.

    Raises ValueError if there is none.
    """
    linear = {
        path: module
        for path, module in network.named_modules()
        if isinstance(module, torch.nn.Linear) and module.out_features == num_classes
    }
    if not linear:
        raise ValueError(
            f"{type(network).__name__} does not end in a linear layer, whose input Figment uses as features and which "
            "a cosine head replaces. Use another architecture; training.head=linear can still train this one."
        )
    last = list(linear)[-1]
    paths = [last.replace(DISTILLED, "head"), last] if DISTILLED in last else [last]
    return [(path, linear[path]) for path in paths]


class CosineHead(torch.nn.Module):
    """Cosine similarity of features and class weights, divided by a temperature, without bias (arXiv 2206.15369)."""

    def __init__(self, num_features: int, num_classes: int, temperature: float) -> None:
        """Initialize class vectors as torch.nn.Linear does, of length 0.58: longer vectors would rotate more slowly."""
        super().__init__()
        self.weight = torch.nn.Parameter(torch.nn.Linear(num_features, num_classes, bias=False).weight.detach())
        self.temperature = temperature

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return [N, num_classes] in -1/temperature..1/temperature for [N, num_features]."""
        directions = functional.normalize(self.weight, dim=1)
        return functional.linear(functional.normalize(features, dim=1), directions) / self.temperature


def check_features(name: str) -> None:
    """Raise ValueError if the architecture does not end in a linear layer, whose input is used as features."""
    if name not in COMMON:
        with torch.device("meta"):
            _last_layers(build_network(name, 7, "linear", 1.0), 7)


def features_and_logits(
    network: torch.nn.Module, num_classes: int, images: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the input of the network's last layer, float [N, D], and its logits, for `images` float [N, 3, H, W].

    For two last layers, the features are the mean of their inputs, as in timm.
    """
    inputs_seen: list[torch.Tensor] = []
    cosine = [module for module in network.modules() if isinstance(module, CosineHead)]
    heads = cosine[-1:] or [module for _, module in _last_layers(network, num_classes)]
    hooks = [head.register_forward_pre_hook(lambda _, inputs: inputs_seen.append(inputs[0])) for head in heads]
    try:
        logits = network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(inputs_seen).mean(0).flatten(1), logits


def parameter_groups(network: torch.nn.Module, weight_decay: float) -> list[dict]:
    """Return optimizer groups: weights with decay, biases and normalization parameters without."""
    weights = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    return [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
