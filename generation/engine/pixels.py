"""From a decoder's output to bytes on the host: shrunk and looked at on the device, copied beside its next work."""

from collections.abc import Callable

import numpy as np
import torch


def to_pixels(images_nchw: torch.Tensor, size: int) -> dict[str, torch.Tensor]:
    """Return images of 0..1 as values of 0 to 255 at the delivered size, and what the guard has to know of each.

    The model may leave 0..1; what it leaves it for, a NaN or an infinity, is told.
    """
    low, high = torch.aminmax(images_nchw.flatten(start_dim=1).float(), dim=1)  # a NaN is both
    images_nchw = images_nchw.float().nan_to_num(0.0).clamp(0, 1)
    if images_nchw.shape[2] != size:
        images_nchw = torch.nn.functional.interpolate(images_nchw, (size, size), mode="bicubic", antialias=True)
    pixels = (images_nchw.clamp(0, 1) * 255).round().to(torch.uint8)  # a bicubic curve may leave 0..1 a little
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
    """Copy tensors to the host beside what the device does next; return what waits for them."""
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
