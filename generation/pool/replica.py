"""A generator actor as a Ray Serve replica: it serves requests for samples and reports to the pool's keeper."""

import asyncio
import dataclasses
import importlib
import logging
import os
import socket
import time
from collections.abc import Awaitable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread
from typing import Any, cast

import ray
from ray import serve
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError

from generation.config import GenerationConfig
from generation.engine.actor import GeneratorActor, ScorerBuilder
from generation.engine.generator import ActorFailedError, GenerationFailedError
from generation.pool.keeper import GenerationCounts
from generation.recipes.recipe import Recipe
from generation.sample import SampleBatch

REQUESTS_AT_WORK = 2
"""Requests that an actor processes at once: one on the device, and the next one ready in its thread."""

ACCELERATOR_TYPE = "ray.io/accelerator-type"
"""Ray's node label for the type of GPU."""

REPORT_SECONDS = 1.0
"""Interval of an actor's reports to the keeper while it is loading or working."""

EXIT_DELAY_SECONDS = 1.0
"""Delay before an actor exits after an error, so that its last results are still sent."""

LOOPBACK = {"127.0.0.1": "127.0.0.1", "::1": "[::1]"}
"""A node's loopback addresses, in gRPC's notation."""


class GeneratorReplica:
    """A `GeneratorActor` as a Serve replica: one request on the device, the others queued."""

    def __init__(
        self, recipe: Recipe, config: GenerationConfig, build_scorer: ScorerBuilder | None, keeper: ActorHandle
    ) -> None:
        listen_on_loopback()
        log_to_stderr()
        self.keeper = keeper
        self.process = f"{socket.gethostname()}:{os.getpid()}"
        loading_since = time.monotonic()
        self.actor = self._load(recipe, config, build_scorer)
        load_seconds = time.monotonic() - loading_since
        # The next request waits in its own thread for the device. It starts while the previous one's images are
        # copied and checked, without going through the event loop.
        self.threads = ThreadPoolExecutor(max_workers=REQUESTS_AT_WORK)
        self.num_requests = 0
        ray.get(keeper.add_load.remote(self.process, self.actor.batch_size, load_seconds))
        Thread(target=self._report_while_working, daemon=True).start()

    def _load(self, recipe: Recipe, config: GenerationConfig, build_scorer: ScorerBuilder | None) -> GeneratorActor:
        ray.get(self.keeper.report_loading.remote(self.process))
        is_over = Event()
        Thread(target=self._report_while_loading, args=(is_over,), daemon=True).start()
        try:
            labels = cast(dict[str, str], ray.get_runtime_context().get_node_labels())
            batch_size = config.batch_sizes.get(labels.get(ACCELERATOR_TYPE, ""), config.batch_size)
            return GeneratorActor(recipe, dataclasses.replace(config, batch_size=batch_size), build_scorer)
        except Exception as error:
            is_over.set()
            ray.get(self.keeper.add_load_error.remote(self.process, f"{error}"))
            raise
        finally:
            is_over.set()

    def _report_while_loading(self, is_over: Event) -> None:
        while not is_over.wait(REPORT_SECONDS):
            self.keeper.report_loading.remote(self.process)

    async def generate(self, indices: Sequence[int]) -> SampleBatch:
        """Return the samples of these indices, without blocking health checks.

        After an unexpected error this process exits and Serve starts another actor: to Serve, an actor whose device
        fails at each call looks healthy.
        """
        self.num_requests += 1
        try:
            batch = await asyncio.get_running_loop().run_in_executor(self.threads, self.actor.generate, indices)
        except GenerationFailedError:
            raise
        except Exception as error:  # if the device is broken, every later call fails too
            asyncio.get_running_loop().call_later(EXIT_DELAY_SECONDS, os._exit, 1)
            raise ActorFailedError(self.process, f"{type(error).__name__}: {error}") from error
        finally:
            self.num_requests -= 1
        self._report()
        return batch

    def _report(self) -> None:
        done = self.actor.take_counts()
        self.keeper.add_work.remote(self.process, self.actor.batch_size, self.num_requests, done)

    def _report_while_working(self) -> None:
        """Report during long batches, so that a working actor is not taken for idle."""
        while True:
            time.sleep(REPORT_SECONDS)
            if self.num_requests:
                self._report()

    async def check_health(self) -> None:
        """Stop the pool if its driver died: the keeper ends with the driver's job."""
        try:
            await cast(Awaitable[GenerationCounts], self.keeper.snapshot.remote())
        except ActorDiedError:
            serve.delete(serve.get_replica_context().app_name, _blocking=False)


def listen_on_loopback() -> None:
    """Bind Serve's gRPC server in this process to loopback if Ray's node address is loopback.

    Serve 2.60 starts this server in every replica on all interfaces, without a setting, and it unpickles its input.
    """
    if (host := ray.util.get_node_ip_address()) not in LOOPBACK:
        return
    replica: Any = importlib.import_module("ray.serve._private.replica")
    add_port = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: add_port(server, address.replace("[::]", LOOPBACK[host]))


def log_to_stderr() -> None:
    """Write the generator's log messages, such as its batch size, to this process's stderr, which Ray stores."""
    logger = logging.getLogger("generation")
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.StreamHandler())
