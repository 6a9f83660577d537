"""Batch normalization over the batches of all workers, which makes a step independent of their number."""

from types import MethodType

import torch
import torch.distributed
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm


def synchronized(network: torch.nn.Module, on_gpu: bool) -> torch.nn.Module:
    """Return the network with batch normalization over all workers: torch's on GPUs, this module's on CPUs.

    Raises ValueError for batch norms with a custom `forward`, except timm's. After `split_by_domain`, every worker's
    batch must have equally many rows of each domain: if one lacks a domain, all workers hang.
    """
    from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm

    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        if type(norm).forward not in (_BatchNorm.forward, BatchNormAct2d.forward):
            raise ValueError(
                f"training.architecture has a {type(norm).__name__} layer, which cannot be synchronized between "
                "workers. Use training.num_workers=1 or another architecture."
            )
    if on_gpu:
        return convert_sync_batchnorm(network)
    for norm in norms:
        norm.forward = MethodType(_shared_forward, norm)
    return network


def _shared_forward(norm: _BatchNorm, input: torch.Tensor) -> torch.Tensor:
    """Return the layer's output for input [N, C, ...], with mean and variance over all workers' batches."""
    if not norm.training:
        return type(norm).forward(norm, input)
    output = _normalized(norm, input.float()).to(input.dtype)
    return norm.act(norm.drop(output)) if hasattr(norm, "act") else output  # pyright: ignore[reportCallIssue]


def _normalized(norm: _BatchNorm, input: torch.Tensor) -> torch.Tensor:
    dims = [dim for dim in range(input.ndim) if dim != 1]
    count = torch.tensor(float(input.numel() // input.shape[1]))
    torch.distributed.all_reduce(count)
    shape = [1, -1] + [1] * (input.ndim - 2)
    mean = all_reduce(input.sum(dims)) / count
    centered = input - mean.view(shape)
    variance = all_reduce((centered**2).sum(dims)) / count
    _update_running_statistics(norm, mean.detach(), variance.detach() * count / (count - 1))
    output = centered * (variance + norm.eps).rsqrt().view(shape)
    return output * norm.weight.view(shape) + norm.bias.view(shape) if norm.affine else output


def _update_running_statistics(norm: _BatchNorm, mean: torch.Tensor, variance: torch.Tensor) -> None:
    """Update the running statistics, which evaluation uses."""
    if norm.running_mean is None or norm.running_var is None:
        return
    with torch.no_grad():
        norm.num_batches_tracked += 1  # pyright: ignore[reportOptionalOperand, reportOperatorIssue]
        share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum  # pyright: ignore
        norm.running_mean.lerp_(mean, share)
        norm.running_var.lerp_(variance, share)
