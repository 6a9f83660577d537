"""Turn decoder output into bytes on the host: resize and measure on the device, copy while it makes the next batch."""

from collections.abc import Callable

import numpy as np
import torch


def to_pixels(images_nchw: torch.Tensor, size: int) -> dict[str, torch.Tensor]:
    """Return images in 0..1 as values in 0..255 at `size` pixels, with the statistics that the guard checks.

    Values outside 0..1 are clamped; an image with a NaN or an infinity has `finite` False.
    """
    low, high = torch.aminmax(images_nchw.flatten(start_dim=1).float(), dim=1)  # with a NaN both are NaN
    images_nchw = images_nchw.float().nan_to_num(0.0).clamp(0, 1)
    if images_nchw.shape[2] != size:
        images_nchw = torch.nn.functional.interpolate(images_nchw, (size, size), mode="bicubic", antialias=True)
    pixels = (images_nchw.clamp(0, 1) * 255).round().to(torch.uint8)  # bicubic interpolation overshoots a little
    darkest, brightest = torch.aminmax(pixels.flatten(start_dim=1), dim=1)
    return {
        "images_nhwc": pixels.permute(0, 2, 3, 1).contiguous(),
        "darkest": darkest,
        "brightest": brightest,
        "finite": low.isfinite() & high.isfinite(),
    }


def start_copying(
    tensors: dict[str, torch.Tensor], stream: torch.cuda.Stream | None
) -> Callable[[], dict[str, np.ndarray]]:
    """Start copying tensors to the host on `stream`; return a function that waits for the copies and returns them."""
    if stream is None:
        return lambda: {name: tensor.numpy() for name, tensor in tensors.items()}
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        copies = {name: tensor.to("cpu", non_blocking=True) for name, tensor in tensors.items()}
        done = stream.record_event()
    for tensor in tensors.values():
        if tensor.is_cuda:
            tensor.record_stream(stream)

    def wait() -> dict[str, np.ndarray]:
        done.synchronize()
        return {name: copy.numpy() for name, copy in copies.items()}

    return wait
