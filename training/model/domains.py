"""Batch normalization with separate statistics for real and synthetic images.

AdvProp's auxiliary batch normalization (arXiv 1911.09665), but with shared weight and bias: only means and variances
are separate. Statistics are not shared between workers.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm


class Domains:
    """Number of real and synthetic rows in the current batch, shared by all layers of a network."""

    def __init__(self) -> None:
        self.counts: list[int] | None = None
        """Number of real rows, which come first, and of synthetic rows; None treats all rows as real."""

    def forward(
        self, network: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, is_real: torch.Tensor
    ) -> torch.Tensor:
        """Return the network's output [N, ...] for x [N, ...], with the domain of each row in `is_real`, bool [N]."""
        order = torch.argsort((~is_real).byte(), stable=True)
        num_real = int(is_real.sum())
        self.counts = [num_real, len(is_real) - num_real]
        try:
            return network(x[order.to(x.device)])[torch.argsort(order).to(x.device)]
        finally:
            self.counts = None


class DomainNorm(torch.nn.Module):
    """A batch normalization for real rows and its copy for synthetic rows, with shared parameters."""

    def __init__(self, norm: _BatchNorm, domains: Domains) -> None:
        """Use `norm` for real rows, and copy all of it except its parameters for synthetic rows."""
        super().__init__()
        self.domains = domains
        self.real = norm
        self.synthetic = copy.deepcopy(norm, {id(parameter): parameter for parameter in norm.parameters()})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x [N, C, ...], normalized per domain; a domain without rows keeps its statistics."""
        counts = self.domains.counts
        if counts is None:
            return self.real(x)
        if len(x) != sum(counts):
            raise ValueError(
                f"A batch normalization got {len(x)} rows for a batch of {sum(counts)}: training.separate_batch_norm "
                "cannot be used if an architecture normalizes patches as rows. Use another one, or turn it off."
            )
        of_domains = zip((self.real, self.synthetic), x.split(counts), strict=True)
        return torch.cat([norm(rows) for norm, rows in of_domains if len(rows)])

    def __getattr__(self, name: str) -> Any:
        """Fall back to attributes of the layer for real rows, such as `num_features` or timm's `act`."""
        modules = self.__dict__.get("_modules", {})
        return super().__getattr__(name) if name in modules or "real" not in modules else getattr(modules["real"], name)


def split_by_domain(network: torch.nn.Module) -> Domains:
    """Replace each batch normalization in place, before weights are loaded; return the shared `Domains`."""
    modules = network.named_modules(remove_duplicate=False)
    norms = [(path, module) for path, module in modules if isinstance(module, _BatchNorm)]
    if not norms:
        raise ValueError(
            "training.architecture has no batch normalization, so training.separate_batch_norm has no effect. Use an "
            "architecture that has it, such as resnet50, or turn training.separate_batch_norm off."
        )
    domains = Domains()
    layers = {norm: DomainNorm(norm, domains) for _, norm in norms}
    for path, norm in norms:
        network.set_submodule(path, layers[norm])
    return domains
