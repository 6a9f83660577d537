"""Painted devices that are only numbers: a pool of hundreds of generator actors in a few processes.

A device makes one batch after another, each in the same time. Its images are black; everything else is real.
"""

import asyncio
import heapq
import threading
import time
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import ray
from ray import serve
from ray.actor import ActorHandle

from generation.config import GenerationConfig
from generation.engine.actor import WorkCounts
from generation.indices import SampleRequest
from generation.pool.keeper import GenerationCounts, PoolKeeper
from generation.pool.service import DEPLOYMENT, QUIET, REQUESTS_PER_ACTOR, GenerationService, _autoscaling, stop_pool
from generation.sample import SampleBatch

START_SECONDS = 120.0
"""Timeout for the start of a virtual pool."""


@dataclass(frozen=True)
class PoolSpec:
    """A pool of virtual devices."""

    num_devices: int
    batch_seconds: float
    """Time that a device takes for a batch; 0 makes the result ready at once."""

    batch_size: int = 8
    image_size: int = 32

    @property
    def config(self) -> GenerationConfig:
        """Settings of a real pool with as many actors."""
        return GenerationConfig(
            min_actors=self.num_devices, max_actors=self.num_devices, gpus_per_actor=0, batch_size=self.batch_size
        )

    @property
    def nominal(self) -> float:
        """Batches per second of all devices."""
        return self.num_devices / self.batch_seconds if self.batch_seconds else float("inf")

    def batch(self, indices: Sequence[int]) -> SampleBatch:
        """Return black images with the columns and types of a generator's batch."""
        shape = (len(indices), self.image_size, self.image_size, 3)
        return {
            "index": np.array(indices, np.int64),
            "label": np.zeros(len(indices), np.int64),
            "image": np.zeros(shape, np.uint8),
            "attempt": np.zeros(len(indices), np.int8),
        }


class Devices:
    """When each device is free. A request goes to the one that is free first, as a perfect router would choose."""

    def __init__(self, num_devices: int, batch_seconds: float) -> None:
        self.batch_seconds = batch_seconds
        self.free_at = [(0.0, device) for device in range(num_devices)]
        """A heap."""

    def finish_at(self, now: float) -> tuple[float, int]:
        """Give the next batch to a device; return when it is made, and which device makes it."""
        free_at, device = self.free_at[0]
        done_at = max(now, free_at) + self.batch_seconds
        heapq.heapreplace(self.free_at, (done_at, device))
        return done_at, device


class LocalPool:
    """Virtual devices within the requester's own process, without Ray Serve."""

    def __init__(self, spec: PoolSpec) -> None:
        self.spec = spec
        self.devices = Devices(spec.num_devices, spec.batch_seconds)
        self.sending = threading.Lock()

    def __reduce__(self) -> Any:
        return LocalPool, (self.spec,)

    def request(self, indices: Sequence[int]) -> "LocalResponse":
        """Request the samples of these indices."""
        with self.sending:
            done_at, _ = self.devices.finish_at(time.monotonic())
        return LocalResponse(self.spec, indices, done_at)

    def registered(self, request: SampleRequest) -> "LocalPool":
        """Return this pool, which no learners share."""
        return self

    def batch_size(self) -> int:
        """Return the number of samples per request."""
        return self.spec.batch_size

    def raise_if_failed(self) -> None:
        """Do nothing: these devices do not fail."""

    def num_actors(self) -> int:
        """Return the number of devices."""
        return self.spec.num_devices


@dataclass(frozen=True)
class LocalResponse:
    """A batch that is made at a known time."""

    spec: PoolSpec
    indices: Sequence[int]
    done_at: float

    def result(self, timeout_s: float) -> SampleBatch:
        """Wait until the batch is made; TimeoutError if that takes longer than `timeout_s`."""
        seconds = self.done_at - time.monotonic()
        time.sleep(min(max(0.0, seconds), timeout_s))
        if seconds > timeout_s:
            raise TimeoutError
        return self.spec.batch(self.indices)


class VirtualReplica:
    """A Serve replica that stands for many generator actors, and reports to the keeper as each of them would."""

    def __init__(self, spec: PoolSpec, keeper: ActorHandle) -> None:
        self.spec = spec
        self.keeper = keeper
        self.devices = Devices(spec.num_devices, spec.batch_seconds)
        self.name = ray.get_runtime_context().get_actor_id()
        names = [self._name_of(device) for device in range(spec.num_devices)]
        ray.get([keeper.add_load.remote(name, spec.batch_size, 0.0) for name in names])

    def _name_of(self, device: int) -> str:
        return f"{self.name}:{device}"

    async def generate(self, indices: Sequence[int]) -> SampleBatch:
        """Return the samples of these indices once their device has made them."""
        now = time.monotonic()
        done_at, device = self.devices.finish_at(now)
        await asyncio.sleep(done_at - now)
        done = WorkCounts(num_images_made=len(indices), working_seconds=self.spec.batch_seconds)
        self.keeper.add_work.remote(self._name_of(device), self.spec.batch_size, REQUESTS_PER_ACTOR, done)
        return self.spec.batch(indices)

    async def check_health(self) -> None:
        """Ask the keeper once per device, as so many actors do."""
        for _ in range(self.spec.num_devices):
            await cast(Awaitable[GenerationCounts], self.keeper.snapshot.remote())


@contextmanager
def virtual_pool(spec: PoolSpec, num_processes: int = 1) -> Iterator[GenerationService]:
    """Start a Serve deployment of `num_processes` replicas that share the devices equally, and yield its client."""
    serve.start(proxy_location="Disabled", logging_config=QUIET)
    app_name, name = f"virtual-{time.time_ns()}", f"keeper-{time.time_ns()}"
    part = PoolSpec(spec.num_devices // num_processes, spec.batch_seconds, spec.batch_size, spec.image_size)
    config = GenerationConfig(min_actors=num_processes, max_actors=num_processes, gpus_per_actor=0)
    keeper = cast(ActorHandle, PoolKeeper.options(name=name).remote(config))
    deployment = serve.deployment(
        name=DEPLOYMENT,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=REQUESTS_PER_ACTOR * part.num_devices,
        health_check_timeout_s=60,
        graceful_shutdown_timeout_s=0,
        autoscaling_config=_autoscaling(config, {"name": name, "namespace": ray.get_runtime_context().namespace}),
    )
    target = serve.RunTarget(
        deployment(VirtualReplica).bind(part, keeper), name=app_name, route_prefix=None, logging_config=QUIET
    )
    try:
        (handle,) = serve.run_many([target], wait_for_applications_running=False)
        service = GenerationService(app_name, handle, keeper)
        service.wait_until_running(num_processes, START_SECONDS)
        yield service
        handle.shutdown()
    finally:
        stop_pool(app_name, keeper)
