"""TensorFloat-32 on and off: a GPU's float32 products in 10 bits of mantissa, or in all 23."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

LARGEST_ERROR = 5e-5
"""Relative, of products and convolutions in float32; that of TF32 is a few 1e-4."""

SIZE = 512
"""Rows and columns of the test matrices."""


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Switch TF32 on or off for matrix products and convolutions, and restore the setting at the end.

    RuntimeError if TF32 should be off and products are less precise than float32.
    """
    before = bool(torch.backends.cuda.matmul.allow_tf32), bool(torch.backends.cudnn.allow_tf32)
    _set(allowed, allowed)
    try:
        if not allowed:
            check_precise()
        yield
        if not allowed:
            check_precise()
    finally:
        _set(*before)


def _set(products: bool, convolutions: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = products
    torch.backends.cudnn.allow_tf32 = convolutions


def check_precise() -> None:
    """Raise RuntimeError if float32 is less precise here than `LARGEST_ERROR`."""
    error = float32_error(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if error > LARGEST_ERROR:
        raise RuntimeError(f"float32 products are off by {error:.1e}, as with TF32, which should be off.")


def float32_error(device: torch.device) -> float:
    """Return the largest error of a product and of a convolution in float32, over the largest value of each."""
    random = torch.Generator().manual_seed(0)
    a = torch.randn(SIZE, SIZE, generator=random).to(device)
    images = torch.randn(4, 64, 32, 32, generator=random).to(device)
    weights = torch.randn(64, 64, 3, 3, generator=random).to(device)
    errors = (
        relative_error(a @ a, a.double() @ a.double()),
        relative_error(
            torch.nn.functional.conv2d(images, weights),
            torch.nn.functional.conv2d(images.double(), weights.double()),
        ),
    )
    return max(errors)


def relative_error(value: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the largest difference over the largest exact value."""
    return float((value.double() - exact).abs().max() / exact.abs().max())
