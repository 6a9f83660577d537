"""Ray Serve's own request router over hundreds of fake replicas, in one process and in simulated time.

The routers of several requesters share the replicas, as in a stream. Each keeps its window of batches pending, as if
results were taken at once. Simulated time makes the outcome independent of this machine's speed; the CPU time is real.
"""

import asyncio
import logging
import selectors
import time
from dataclasses import dataclass
from typing import Any

from ray.serve._private.common import DeploymentHandleSource, DeploymentID, ReplicaID, RequestMetadata
from ray.serve._private.request_router.common import PendingRequest
from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter

from generation.pool.service import REQUESTS_PER_ACTOR

LATENCY_SECONDS = 0.001
"""Time of a message between a requester and a replica, each way."""

DEPLOYMENT_ID = DeploymentID("GeneratorActor", "virtual")


@dataclass(frozen=True)
class Routing:
    """What the routers achieved."""

    busy_fraction: float
    """Fraction of the devices' time spent on batches, after a warm-up of two batches."""

    num_batches: int
    """Batches requested until the end of the simulation."""

    num_tries: int
    """Requests sent to a replica, including those that it rejected."""

    num_probes: int
    """Requests for the queue lengths of replicas."""

    longest_routing_seconds: float
    """The longest time until a replica accepted a batch."""

    cpu_seconds: float
    """Real CPU time of the whole simulation."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__(JumpingSelector(self))
        self.now = 0.0

    def time(self) -> float:
        """Return the simulated time."""
        return self.now


class JumpingSelector(selectors.SelectSelector):
    """Advances its loop's clock by the time that it would wait."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self.loop = loop

    def select(self, timeout: float | None = None) -> Any:
        """Return what is ready now."""
        self.loop.now += max(0.0, timeout or 0.0)
        return super().select(0)


class FakeReplica:
    """A replica with one device: makes batches in order of arrival, and rejects requests beyond its limit."""

    max_ongoing_requests = REQUESTS_PER_ACTOR
    node_id = availability_zone = None
    multiplexed_model_ids = frozenset[str]()

    def __init__(self, number: int, simulation: "Simulation") -> None:
        self.replica_id = ReplicaID(f"{number}", DEPLOYMENT_ID)
        self.simulation = simulation
        self.num_requests = 0
        self.free_at = 0.0

    async def get_queue_len(self, *, deadline_s: float) -> int:
        """Return the number of pending requests."""
        self.simulation.num_probes += 1
        await asyncio.sleep(LATENCY_SECONDS)
        num_requests = self.num_requests
        await asyncio.sleep(LATENCY_SECONDS)
        return num_requests

    def accept(self, now: float) -> float | None:
        """Return when a new request's batch is made, or None to reject it."""
        if self.num_requests >= self.max_ongoing_requests:
            return None
        self.num_requests += 1
        self.free_at = self.simulation.work(max(now, self.free_at))
        return self.free_at


class Simulation:
    """Requesters, their routers and the replicas."""

    def __init__(self, num_replicas: int, num_requesters: int, batch_seconds: float, num_batches_each: int) -> None:
        """Simulate until each replica could have made `num_batches_each` batches."""
        self.loop = asyncio.get_running_loop()
        self.batch_seconds = batch_seconds
        self.warm_at, self.ends_at = 2 * batch_seconds, num_batches_each * batch_seconds
        self.busy_seconds = self.longest_routing_seconds = 0.0
        self.num_batches = self.num_tries = self.num_probes = 0
        self.replicas = [FakeReplica(number, self) for number in range(num_replicas)]
        self.window = -(-REQUESTS_PER_ACTOR * num_replicas // num_requesters)
        self.routers = [self._router() for _ in range(num_requesters)]

    def _router(self) -> PowerOfTwoChoicesRequestRouter:
        router = PowerOfTwoChoicesRequestRouter(
            deployment_id=DEPLOYMENT_ID,
            handle_source=DeploymentHandleSource.REPLICA,
            use_replica_queue_len_cache=True,
            get_curr_time_s=self.loop.time,
        )
        replicas: Any = self.replicas
        router.update_replicas(replicas)
        return router

    def work(self, start: float) -> float:
        """Count a batch that a device starts; return when it is made."""
        stop = start + self.batch_seconds
        self.busy_seconds += max(0.0, min(stop, self.ends_at) - max(start, self.warm_at))
        return stop

    async def run(self) -> None:
        """Keep each requester's window filled until the end."""
        await asyncio.gather(*(self._requests(router) for router in self.routers for _ in range(self.window)))

    async def _requests(self, router: PowerOfTwoChoicesRequestRouter) -> None:
        """Request one batch after another: one place in a window."""
        while self.loop.time() < self.ends_at:
            self.num_batches += 1
            name = f"{self.num_batches}"
            await self._request(router, PendingRequest([], {}, RequestMetadata(name, name)))

    async def _request(self, router: PowerOfTwoChoicesRequestRouter, request: PendingRequest) -> None:
        """Send a request until a replica accepts it, as Serve's router does, and wait for its batch."""
        asked_at, is_retry = self.loop.time(), False
        while True:
            self.num_tries += 1
            chosen: Any = await router._choose_replica_for_request(request, is_retry=is_retry)
            router.on_send_request(chosen.replica_id)
            await asyncio.sleep(LATENCY_SECONDS)
            done_at, num_requests = chosen.accept(self.loop.time()), chosen.num_requests
            await asyncio.sleep(LATENCY_SECONDS)
            router.on_new_queue_len_info(chosen.replica_id, num_requests)
            if done_at is not None:
                break
            is_retry = True
        self.longest_routing_seconds = max(self.longest_routing_seconds, self.loop.time() - asked_at)
        await asyncio.sleep(done_at - self.loop.time())
        chosen.num_requests -= 1
        await asyncio.sleep(LATENCY_SECONDS)
        router.decrement_queue_len_cache(chosen.replica_id)


def simulate(num_replicas: int, num_requesters: int, batch_seconds: float, num_batches_each: int = 12) -> Routing:
    """Route batches of `batch_seconds` from several requesters to fake replicas for so many batches each."""
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # Serve warns of requests that wait for a replica
    began_at = time.process_time()
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        simulation = runner.run(_simulated(num_replicas, num_requesters, batch_seconds, num_batches_each))
    return Routing(
        busy_fraction=simulation.busy_seconds / (num_replicas * (simulation.ends_at - simulation.warm_at)),
        num_batches=simulation.num_batches,
        num_tries=simulation.num_tries,
        num_probes=simulation.num_probes,
        longest_routing_seconds=simulation.longest_routing_seconds,
        cpu_seconds=time.process_time() - began_at,
    )


async def _simulated(*arguments: Any) -> Simulation:
    simulation = Simulation(*arguments)
    await simulation.run()
    return simulation
