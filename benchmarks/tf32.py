"""Switch TensorFloat-32 on or off: float32 products on a GPU with 10 bits of mantissa, or with all 23."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

LARGEST_ERROR = 5e-5
"""Largest relative error accepted for products and convolutions in float32; TF32 has a few 1e-4."""

SIZE = 512
"""Rows and columns of the test matrices."""


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Switch TF32 on or off for matrix products and convolutions while the body runs, then restore it.

    RuntimeError if TF32 should be off but results are less precise than float32.
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
    """Raise RuntimeError if the error of float32 exceeds `LARGEST_ERROR` on this device."""
    error = float32_error(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if error > LARGEST_ERROR:
        raise RuntimeError(f"float32 has a relative error of {error:.1e}, as with TF32, which should be off.")


def float32_error(device: torch.device) -> float:
    """Return the largest relative error of a matrix product and a convolution in float32."""
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
    """Return the largest absolute difference over the largest absolute exact value."""
    return float((value.double() - exact).abs().max() / exact.abs().max())
