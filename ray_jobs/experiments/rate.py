"""The rate of a pool's devices, measured before a run."""

import time

from generation.config import GenerationConfig
from generation.pool.service import GenerationService
from generation.stream.stream import fetch_samples

BATCHES_PER_ACTOR = 4
ARRIVAL_SECONDS = 10.0
"""The longest wait for the actors' reports of their last batches."""


def images_per_device_second(service: GenerationService, config: GenerationConfig) -> float:
    """Return the accepted images per second of work of one device, after a first batch of each actor."""
    num_first = service.num_actors() * service.batch_size()
    fetch_samples(service, config, range(num_first))
    before = _counts(service, num_first)
    num_measured = BATCHES_PER_ACTOR * num_first
    fetch_samples(service, config, range(num_first, num_first + num_measured))
    after = _counts(service, num_first + num_measured)
    num_accepted = after[0] - before[0]
    return num_accepted / ((after[1] - before[1]) * (config.gpus_per_actor or 1.0))


def _counts(service: GenerationService, num_accepted: int) -> tuple[int, float]:
    """Return accepted images and busy seconds, once that many images are reported."""
    give_up_at = time.monotonic() + ARRIVAL_SECONDS
    while True:
        counts = service.counts()
        num_reported = counts.num_accepted
        if num_reported >= num_accepted or time.monotonic() > give_up_at:
            return num_reported, counts.working_seconds
        time.sleep(0.1)
