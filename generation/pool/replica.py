"""Ray Serve replica that runs a generator actor, answers requests for samples and reports to the pool's keeper."""

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
from generation.recipes.recipe import Recipe
from generation.sample import SampleBatch

REQUESTS_AT_WORK = 2
"""Requests that an actor processes at once. One runs on the device; the next waits for the device in its own thread."""

ACCELERATOR_TYPE = "ray.io/accelerator-type"
"""Ray's node label for the type of GPU."""

REPORT_SECONDS = 1.0
"""Interval of an actor's reports to the keeper while the actor loads its model or processes requests."""

EXIT_DELAY_SECONDS = 1.0
"""Delay between an error and the exit of the actor, which leaves time to send the last results."""

LOOPBACK = {"127.0.0.1": "127.0.0.1", "::1": "[::1]"}
"""Loopback addresses of a node, each with its spelling in gRPC."""


class GeneratorReplica:
    """Serve replica that runs a `GeneratorActor`. One request at a time is on the device; the others wait."""

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
        # The next request waits for the device in a second thread. Its work on the device starts without going through
        # the event loop, while the images of the previous request are copied and checked.
        self.threads = ThreadPoolExecutor(max_workers=REQUESTS_AT_WORK)
        self.num_requests = 0
        ray.get(keeper.add_load.remote(self.process, self.actor.batch_size, load_seconds))
        Thread(target=self._report_while_working, daemon=True).start()

    def _load(self, recipe: Recipe, config: GenerationConfig, build_scorer: ScorerBuilder | None) -> GeneratorActor:
        ray.get(self.keeper.report_loading.remote(self.process))
        loading_ended = Event()
        Thread(target=self._report_while_loading, args=(loading_ended,), daemon=True).start()
        try:
            labels = cast(dict[str, str], ray.get_runtime_context().get_node_labels())
            batch_size = config.batch_sizes.get(labels.get(ACCELERATOR_TYPE, ""), config.batch_size)
            return GeneratorActor(recipe, dataclasses.replace(config, batch_size=batch_size), build_scorer)
        except Exception as error:
            loading_ended.set()
            ray.get(self.keeper.add_load_error.remote(self.process, f"{error}"))
            raise
        finally:
            loading_ended.set()

    def _report_while_loading(self, loading_ended: Event) -> None:
        while not loading_ended.wait(REPORT_SECONDS):
            self.keeper.report_loading.remote(self.process)

    async def generate(self, indices: Sequence[int]) -> SampleBatch:
        """Return the samples of these indices; works in a thread, so that health checks are answered meanwhile.

        After an unexpected error this process exits, and Serve starts another actor. Health checks would not detect a
        device that fails at every call.
        """
        self.num_requests += 1
        try:
            batch = await asyncio.get_running_loop().run_in_executor(self.threads, self.actor.generate, indices)
        except GenerationFailedError:
            raise
        except Exception as error:  # the device may be broken, and then every later call fails too
            asyncio.get_running_loop().call_later(EXIT_DELAY_SECONDS, os._exit, 1)
            raise ActorFailedError(self.process, f"{type(error).__name__}: {error}") from error
        finally:
            self.num_requests -= 1
        self._report()
        return batch

    def _report(self) -> None:
        counts = self.actor.take_counts()
        self.keeper.add_work.remote(self.process, self.actor.batch_size, self.num_requests, counts)

    def _report_while_working(self) -> None:
        """Report during long batches, so that the keeper sees the pending requests."""
        while True:
            time.sleep(REPORT_SECONDS)
            if self.num_requests:
                self._report()

    async def check_health(self) -> None:
        """Stop the pool if its driver has died. The keeper ends with the driver's job, so its death shows this."""
        try:
            await cast(Awaitable[bool], self.keeper.__ray_ready__.remote())
        except ActorDiedError:
            serve.delete(serve.get_replica_context().app_name, _blocking=False)


def listen_on_loopback() -> None:
    """Bind Serve's gRPC server in this process to loopback if Ray's node address is loopback.

    Ray Serve 2.60 starts this server in every replica on all interfaces and has no setting for the address. The server
    unpickles its input, so other machines must not reach it.
    """
    if (host := ray.util.get_node_ip_address()) not in LOOPBACK:
        return
    replica: Any = importlib.import_module("ray.serve._private.replica")
    add_port = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: add_port(server, address.replace("[::]", LOOPBACK[host]))


def log_to_stderr() -> None:
    """Write log messages of `generation`, such as the batch size, to this process's stderr; Ray stores it in a file."""
    logger = logging.getLogger("generation")
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.StreamHandler())
