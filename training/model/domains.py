"""Batch normalisation that keeps the statistics of real and of synthetic images apart.

AdvProp's auxiliary batch normalisation (arXiv 1911.09665), but with weight and bias in common: only means and variances
are apart. It knows no labels, no crops and no other workers.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class Parts:
    """How the rows of a batch come apart."""

    is_real: torch.Tensor
    """Bool [N]."""

    counts: list[int]
    """How many rows are real, and how many synthetic."""

    order: torch.Tensor | None
    """Which rows are real, then which are synthetic, int [N]; None if they come so already."""

    places: torch.Tensor | None
    """Where each row is in that order, int [N]."""


def parts_of(is_real: torch.Tensor) -> Parts:
    """Return the parts; waits for a mask on a GPU."""
    num_real = int(is_real.sum())
    counts = [num_real, len(is_real) - num_real]
    if is_real[:num_real].all():
        return Parts(is_real, counts, None, None)
    order = torch.argsort((~is_real).byte(), stable=True)
    return Parts(is_real, counts, order, torch.argsort(order))


class Domains:
    """Which rows of the batch that passes through a network are real: all its layers look here."""

    def __init__(self) -> None:
        """Take everything as real until told otherwise."""
        self.parts: Parts | None = None

    @property
    def is_real(self) -> torch.Tensor | None:
        """Bool [N], or None where everything is taken as real."""
        return self.parts.is_real if self.parts else None

    @contextmanager
    def of(self, is_real: torch.Tensor) -> Iterator[None]:
        """Tell which rows are real, bool [N], while this lasts; a batch with its real rows first is copied least."""
        self.parts = parts_of(is_real)
        try:
            yield
        finally:
            self.parts = None


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
        parts = self.domains.parts
        if parts is None:
            return self.real(x)
        if len(x) != len(parts.is_real):
            raise ValueError(
                f"A layer normalises {len(x)} rows, but the domains of {len(parts.is_real)} are known. Give "
                "Domains.of() each row of the batch, is_real.repeat(num_crops) for stacked crops; an architecture "
                "that normalises patches as rows cannot keep domains apart."
            )
        if parts.order is None or parts.places is None:
            return self._normalise(x, parts.counts)
        output = self._normalise(_Rows.apply(x, parts.order, parts.places), parts.counts)
        return _Rows.apply(output, parts.places, parts.order)

    def _normalise(self, x: torch.Tensor, counts: list[int]) -> torch.Tensor:
        """Return the same for rows that come with the real ones first."""
        of_domains = zip((self.real, self.synthetic), x.split(counts), strict=True)
        return torch.cat([norm(rows) for norm, rows in of_domains if len(rows)])

    def __getattr__(self, name: str) -> Any:
        """Return what the layer itself lacks from its real part, such as `num_features` or timm's `act`."""
        modules = self.__dict__.get("_modules", {})
        return super().__getattr__(name) if name in modules or "real" not in modules else getattr(modules["real"], name)


class _Rows(torch.autograd.Function):
    """Rows in another order; unlike indexing, its gradient adds nothing up and keeps the memory format."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, order: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Return x[order]; places is the way back."""
        ctx.save_for_backward(places)
        return x[order]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Return the gradient for x."""
        (places,) = ctx.saved_tensors
        return gradients[0][places], None, None


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
