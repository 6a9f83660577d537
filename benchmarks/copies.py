"""Overlap of a batch's copy to the host with the computation of the next, as `generation.engine.pixels` intends."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from benchmarks.timer import seconds_of
from generation.engine.diffusers_generator import DiffusersGenerator
from generation.engine.pixels import start_copying
from generation.recipes.plan import SamplePlan

COMPUTE_OVER_COPY = 1.5
"""Computing time of a batch over the time of its copy; above 1 an overlapping copy is hidden."""


class MatrixBatches:
    """Batches of random pixels; each waits for matrix products that take longer than its copy to the host."""

    def __init__(self, num_images: int, image_size: int, matrix_size: int, device: torch.device) -> None:
        """Time a copy and a product, and choose the number of products per batch."""
        shape = (num_images, image_size, image_size, 3)
        self.num_images = num_images
        self.pixels = torch.randint(256, shape, dtype=torch.uint8, device=device)
        self.matrix = torch.randn(matrix_size, matrix_size, device=device).half()
        self.stream = torch.cuda.Stream() if device.type == "cuda" else None
        self.num_products = 1
        self.wait_for_each(2)  # pins host memory, which later copies reuse
        self.num_products = num_products(seconds_of(self.copy_and_wait), seconds_of(self.compute))

    def compute(self) -> torch.Tensor:
        """Start a batch on the device; return its pixels."""
        products = [self.matrix @ self.matrix for _ in range(self.num_products)]
        return self.pixels + products[-1][0, 0].isnan()  # new memory, ready when the products are

    def copy_and_wait(self) -> None:
        """Copy pixels to the host and wait for the copy."""
        start_copying({"pixels": self.pixels}, self.stream)()

    def only_compute(self, num_batches: int) -> None:
        """Compute batches without copying them."""
        for _ in range(num_batches):
            self.compute()

    def wait_for_each(self, num_batches: int) -> None:
        """Wait for each copy before the next batch is started."""
        for _ in range(num_batches):
            start_copying({"pixels": self.compute()}, self.stream)()

    def copy_beside_the_next(self, num_batches: int) -> None:
        """Start the next batch before waiting for a copy."""
        under_way: list[Callable[[], object]] = []
        for _ in range(num_batches):
            under_way.append(start_copying({"pixels": self.compute()}, self.stream))
            if len(under_way) == 2:
                under_way.pop(0)()
        under_way.pop()()


def num_products(copy_seconds: float, product_seconds: float) -> int:
    """Return the number of products that take `COMPUTE_OVER_COPY` times as long as a copy."""
    return max(1, round(COMPUTE_OVER_COPY * copy_seconds / product_seconds))


def hidden_fraction(only_compute: float, wait_for_each: float, beside_the_next: float) -> float:
    """Return the fraction of copying time hidden behind computation, from the times of the three ways."""
    return (wait_for_each - beside_the_next) / (wait_for_each - only_compute)


def generate_in_threads(
    generator: DiffusersGenerator, plans: Sequence[SamplePlan], num_batches: int, num_threads: int
) -> None:
    """Generate the plans' images `num_batches` times in several threads, as an actor's requests do."""
    with ThreadPoolExecutor(num_threads) as threads:
        list(threads.map(generator.generate, [plans] * num_batches))
