"""Classifiers by name, from torchvision and timm, and their last layer. Knows no images and no optimisation."""

import difflib
from collections.abc import Iterable

import torch
from torch.nn import functional

TIMM = "timm/"
"""What a name begins with that is timm's though torchvision has it too."""

COMMON = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
"""Known without a look at the libraries, which take seconds to import."""


WITH_AUXILIARIES = ("googlenet", "inception_v3")
"""torchvision's that have further outputs while they train."""

DISTILLED = "head_dist"
"""What timm calls a second last layer, which learnt from a teacher: logits are the mean of both."""


def check_architecture(name: str) -> None:
    """Raise ValueError with the nearest names if neither library has the architecture."""
    if name in COMMON or name in known_architectures():
        return
    near = difflib.get_close_matches(name, known_architectures(), n=3) or COMMON
    raise ValueError(
        f"training.architecture is '{name}', which neither torchvision nor timm has. Near: {', '.join(near)}."
    )


def check_sizes(name: str, sizes: Iterable[int]) -> None:
    """Raise ValueError if a network of this name does not take images of each of these heights and widths."""
    for size in sorted(sizes) if name not in COMMON else ():
        try:
            with torch.device("meta"):
                build_network(name, 7, "linear", 1.0)(torch.zeros(2, 3, size, size))
        except Exception as error:  # each network has its own
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"training.architecture '{name}' takes no images of {size} px: {reason}. Give another "
                "one, or other sizes: training.crop_size, local_crop_size or recipe.image_size."
            ) from error


def known_architectures() -> list[str]:
    """Return torchvision's classifiers and timm's."""
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

        # trained on their main output: weights of the auxiliary ones would have no gradient
        main_alone = {"aux_logits": False, "init_weights": True} if name in WITH_AUXILIARIES else {}
        network = torchvision.models.get_model(name, num_classes=num_classes, **main_alone)
    else:
        import timm

        network = timm.create_model(name.removeprefix(TIMM), pretrained=False, num_classes=num_classes)
    if head == "cosine":
        place, linear = _last_layers(network, num_classes)[-1]
        if DISTILLED in place:
            raise ValueError(
                f"'{name}' averages two linear layers, of which a cosine head would replace one. Take another "
                "architecture, or training.head=linear."
            )
        parent, _, attribute = place.rpartition(".")
        setattr(network.get_submodule(parent), attribute, CosineHead(linear.in_features, num_classes, temperature))
    return network


def _last_layers(network: torch.nn.Module, num_classes: int) -> list[tuple[str, torch.nn.Linear]]:
    """Return the linear layers that give the logits, two in timm's distilled networks, and their places.

    ValueError if there is none.
    """
    linear = {
        place: module
        for place, module in network.named_modules()
        if isinstance(module, torch.nn.Linear) and module.out_features == num_classes
    }
    if not linear:
        raise ValueError(
            f"{type(network).__name__} does not end in a linear layer, which a cosine head replaces and which is given "
            "a network's features. Take another architecture, and training.head=linear to train this one."
        )
    last = list(linear)[-1]
    places = [last.replace(DISTILLED, "head"), last] if DISTILLED in last else [last]
    return [(place, linear[place]) for place in places]


class CosineHead(torch.nn.Module):
    """Cosine similarity of features and classes, over a temperature: no lengths and no bias (arXiv 2206.15369)."""

    def __init__(self, num_features: int, num_classes: int, temperature: float) -> None:
        """Draw vectors for the classes as torch.nn.Linear does, of length 0.58: longer ones would turn more slowly."""
        super().__init__()
        self.weight = torch.nn.Parameter(torch.nn.Linear(num_features, num_classes, bias=False).weight.detach())
        self.temperature = temperature

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return [N, num_classes] in -1/temperature..1/temperature for [N, num_features]."""
        directions = functional.normalize(self.weight, dim=1)
        return functional.linear(functional.normalize(features, dim=1), directions) / self.temperature


def check_features(name: str) -> None:
    """Raise ValueError if a network of this name has no linear layer at its end, which is given its features."""
    if name not in COMMON:
        with torch.device("meta"):
            _last_layers(build_network(name, 7, "linear", 1.0), 7)


def features_and_logits(
    network: torch.nn.Module, num_classes: int, images: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a network's last layer is given, float [N, D], and its logits, for `images` float [N, 3, H, W].

    Of two last layers it is the mean of what they are given, as timm has it.
    """
    kept: list[torch.Tensor] = []
    cosine = [module for module in network.modules() if isinstance(module, CosineHead)]
    heads = cosine[-1:] or [module for _, module in _last_layers(network, num_classes)]
    hooks = [head.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0])) for head in heads]
    try:
        logits = network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(kept).mean(0).flatten(1), logits


def parameter_groups(network: torch.nn.Module, weight_decay: float) -> list[dict]:
    """Return an optimiser's groups: weights decay, biases and the parameters of normalisation do not."""
    weights = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    return [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
