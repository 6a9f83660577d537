"""Batch normalisation that keeps the statistics of real and of synthetic images apart.

AdvProp's auxiliary batch normalisation (arXiv 1911.09665), but with weight and bias in common: only means and variances
are apart. It knows no labels, no crops and no other workers.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm


class Domains:
    """How many rows of the batch that passes through a network are real: all its layers look here."""

    def __init__(self) -> None:
        self.counts: list[int] | None = None
        """Real rows, which come first, and synthetic ones; None where everything is taken as real."""

    def forward(
        self, network: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, is_real: torch.Tensor
    ) -> torch.Tensor:
        """Return the network's output [N, ...] for x [N, ...], of which `is_real`, bool [N], tells the domains."""
        order = torch.argsort((~is_real).byte(), stable=True)
        num_real = int(is_real.sum())
        self.counts = [num_real, len(is_real) - num_real]
        try:
            return network(x[order.to(x.device)])[torch.argsort(order).to(x.device)]
        finally:
            self.counts = None


class DomainNorm(torch.nn.Module):
    """A batch normalisation for real rows and its copy for synthetic ones, with all parameters in common."""

    def __init__(self, norm: _BatchNorm, domains: Domains) -> None:
        """Take the layer for real rows, and copy all of it but its parameters."""
        super().__init__()
        self.domains = domains
        self.real = norm
        self.synthetic = copy.deepcopy(norm, {id(parameter): parameter for parameter in norm.parameters()})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x [N, C, ...], each domain normalised on its own; one that the batch lacks keeps its statistics."""
        counts = self.domains.counts
        if counts is None:
            return self.real(x)
        if len(x) != sum(counts):
            raise ValueError(
                f"A layer normalises {len(x)} rows of a batch of {sum(counts)}: an architecture that normalises "
                "patches as rows cannot keep domains apart. Take another, or leave training.separate_batch_norm out."
            )
        of_domains = zip((self.real, self.synthetic), x.split(counts), strict=True)
        return torch.cat([norm(rows) for norm, rows in of_domains if len(rows)])

    def __getattr__(self, name: str) -> Any:
        """Return what the layer itself lacks from its real part, such as `num_features` or timm's `act`."""
        modules = self.__dict__.get("_modules", {})
        return super().__getattr__(name) if name in modules or "real" not in modules else getattr(modules["real"], name)


def split_by_domain(network: torch.nn.Module) -> Domains:
    """Replace each batch normalisation in place, before weights are loaded, and return what tells all the domains."""
    modules = network.named_modules(remove_duplicate=False)
    norms = [(place, module) for place, module in modules if isinstance(module, _BatchNorm)]
    if not norms:
        raise ValueError(
            "training.architecture has no batch normalisation, so real and synthetic images have no statistics to keep "
            "apart. Take an architecture that has, such as resnet50, or leave training.separate_batch_norm out."
        )
    domains = Domains()
    layers = {norm: DomainNorm(norm, domains) for _, norm in norms}
    for place, norm in norms:
        network.set_submodule(place, layers[norm])
    return domains
