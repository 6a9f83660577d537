"""A generator actor as Ray Serve runs it: requests in, samples out, and what it does told to the pool's keeper."""

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
from generation.engine.actor import GeneratorActor
from generation.engine.generator import ActorFailedError, GenerationFailedError
from generation.pool.keeper import GenerationCounts
from generation.recipes.recipe import Recipe
from generation.sample import SampleBatch

REQUESTS_AT_WORK = 2
"""Requests of an actor on their way through its device: one there, the next one waiting beside it."""

ACCELERATOR_TYPE = "ray.io/accelerator-type"
"""Ray's label for what a node has."""

TELL_SECONDS = 1.0
"""An actor at work tells at least so often what it has done."""

ANSWER_BEFORE_END_SECONDS = 1.0
"""An actor that ends after an error first has this time for its last answers."""

LOOPBACK = {"127.0.0.1": "127.0.0.1", "::1": "[::1]"}
"""Addresses of a node that this machine alone can reach, as gRPC takes them."""


class GeneratorReplica:
    """Serve's end of a `GeneratorActor`: one request on the device, the others waiting beside it."""

    def __init__(self, recipe: Recipe, config: GenerationConfig, keeper: ActorHandle) -> None:
        listen_on_loopback()
        log_to_stderr()
        self.keeper = keeper
        self.process = f"{socket.gethostname()}:{os.getpid()}"
        loading_since = time.monotonic()
        self.actor = self._load(recipe, config)
        load_seconds = time.monotonic() - loading_since
        # A request waits in its thread for the device: it starts there while the last one's images are copied and
        # looked at, without a turn of the event loop.
        self.threads = ThreadPoolExecutor(max_workers=REQUESTS_AT_WORK)
        self.num_requests = 0
        ray.get(keeper.add_load.remote(self.process, self.actor.batch_size, load_seconds))
        Thread(target=self._tell_while_at_work, daemon=True).start()

    def _load(self, recipe: Recipe, config: GenerationConfig) -> GeneratorActor:
        ray.get(self.keeper.note_loading.remote(self.process))
        is_over = Event()
        Thread(target=self._tell_while_loading, args=(is_over,), daemon=True).start()
        try:
            labels = cast(dict[str, str], ray.get_runtime_context().get_node_labels())
            batch_size = config.batch_sizes.get(labels.get(ACCELERATOR_TYPE, ""), config.batch_size)
            return GeneratorActor(recipe, dataclasses.replace(config, batch_size=batch_size))
        except Exception as error:
            is_over.set()
            ray.get(self.keeper.add_load_error.remote(self.process, f"{error}"))
            raise
        finally:
            is_over.set()

    def _tell_while_loading(self, is_over: Event) -> None:
        while not is_over.wait(TELL_SECONDS):
            self.keeper.note_loading.remote(self.process)

    async def generate(self, indices: Sequence[int]) -> SampleBatch:
        """Return the samples of these indices; health checks are answered meanwhile.

        After an error this process ends, and Serve starts another actor: Serve takes an actor for healthy whose device
        fails at each call.
        """
        self.num_requests += 1
        try:
            batch = await asyncio.get_running_loop().run_in_executor(self.threads, self.actor.generate, indices)
        except GenerationFailedError:
            raise
        except Exception as error:  # torch raises it at each later call too if the device is broken
            asyncio.get_running_loop().call_later(ANSWER_BEFORE_END_SECONDS, os._exit, 1)
            raise ActorFailedError(self.process, f"{type(error).__name__}: {error}") from error
        finally:
            self.num_requests -= 1
        self._tell()
        return batch

    def _tell(self) -> None:
        done = self.actor.take_counts()
        self.keeper.add_work.remote(self.process, self.actor.batch_size, self.num_requests, done)

    def _tell_while_at_work(self) -> None:
        """Tell of long batches while they are made: an actor that is at one is not idle."""
        while True:
            time.sleep(TELL_SECONDS)
            if self.num_requests:
                self._tell()

    async def check_health(self) -> None:
        """Stop the pool if its driver is gone without a word: the keeper of counts ends with the driver's job."""
        try:
            await cast(Awaitable[GenerationCounts], self.keeper.snapshot.remote())
        except ActorDiedError:
            serve.delete(serve.get_replica_context().app_name, _blocking=False)


def listen_on_loopback() -> None:
    """Let Serve's gRPC server in this process listen on loopback where its node does.

    Serve 2.60 starts it in every replica, without a setting, on all interfaces, and it unpickles what it receives.
    """
    if (host := ray.util.get_node_ip_address()) not in LOOPBACK:
        return
    replica: Any = importlib.import_module("ray.serve._private.replica")
    add_port = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: add_port(server, address.replace("[::]", LOOPBACK[host]))


def log_to_stderr() -> None:
    """Let this process's log, which Ray keeps, have what the generator says of itself, such as its batch size."""
    logger = logging.getLogger("generation")
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.StreamHandler())
