"""Labelled images as a Ray Dataset: Ray Data actors request batches from the generation service.

Each row is a function of its index, so a unit of work that Ray reruns gives the same rows in the same blocks. The
stream handles sets of indices; it is independent of epochs and training.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import ray.data
from ray.data import ActorPoolStrategy
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayError,
    WorkerCrashedError,
)
from ray.serve.exceptions import RayServeException, ReplicaUnavailableError

from generation.config import GenerationConfig
from generation.engine.generator import ActorFailedError, GenerationFailedError
from generation.indices import IndexSet, SampleRequest
from generation.pool.serve_controller import ControllerSilentError
from generation.pool.service import REQUESTS_PER_ACTOR, GenerationService, Response, quiet_serve_logs
from generation.recipes.recipe import Recipe
from generation.sample import PassBatch, SampleBatch, select_samples
from generation.stream.ordered import map_ordered
from generation.stream.units import MAX_SOURCE_BLOCKS, bound_memory, in_blocks, work_units

logger = logging.getLogger(__name__)

NODE_ID = "ray.io/node-id"
"""Label of a node that Ray sets itself; selecting it places an actor on that node."""

MIN_REQUESTERS = 2
"""The minimum number of request actors per consumer.

One moves about 10 blocks/s. While it waits for the last batches of a unit, the others keep generators busy. Starting
one takes 1-2 s of a core. With 4 generators at 4 batches/s each, both 2 and 4 requesters delivered 0.996 of the nominal
rate (`make bench`).
"""


POOL_CHECK_SECONDS = 10.0
"""While results are pending, the pool's state is checked this often."""

RETRY_SECONDS = 0.5

DEATH_ERRORS = (ActorDiedError, OutOfMemoryError, WorkerCrashedError)
"""Errors of a request whose actor's process ended; OutOfMemoryError if Ray's memory monitor killed it."""

LOST_RESULT_ERRORS = (
    *DEATH_ERRORS,
    ActorFailedError,
    ActorUnavailableError,
    ReplicaUnavailableError,
    NodeDiedError,
    ObjectLostError,
)
"""Errors that mean the actor, or the node with its result, was lost.

The request is retried; another actor makes the same samples.
"""

MAX_DEATHS = 5
"""After this many actor deaths on one batch, blame the batch.

An unreachable actor does not count: until Ray notices a lost node, every request to its actors fails.
"""

MAX_FAILED_ACTORS = 3
"""A batch is not retried once this many actors failed on it, or two failed with the same error."""


Unit = dict[str, np.ndarray]
"""A unit of work: columns of one value each."""


@dataclass(frozen=True)
class StageSpec:
    """What the request actors (Ray Data actors) do with a unit of work, and how many actors there are."""

    work: "Callable[[BatchRequester, Unit], Iterator[Any]]"
    """Yields the output of one unit."""

    requesters_per_generator: float = 0.25
    max_requesters: int = 8
    is_spread: bool = False
    """Whether actors are spread over nodes. By default they run on the node that opens the stream; on a generator's
    node they would block its scale-down.
    """


def stream_samples(
    service: GenerationService, recipe: Recipe, config: GenerationConfig, request: SampleRequest
) -> ray.data.Dataset:
    """Return a lazy dataset with one row (see `SampleBatch`) per requested serial, which equals the index.

    Rows are ordered only if `request.in_order` is set.
    """
    service, batch_size = service.registered(request), service.batch_size()
    stage = StageSpec(partial(samples_of_unit, request.serials))
    num_requesters = num_requesters_of(config, request, stage)
    units = work_units(request.serials, batch_size, num_requesters, _window(config, request, num_requesters))
    dataset = request_units(service, config, batch_size, in_blocks(units, MAX_SOURCE_BLOCKS), stage, request)
    bound_memory(dataset, batch_size * recipe.image_bytes, config.max_buffered_bytes, request.num_consumers)
    return dataset


def samples_of_unit(wanted: IndexSet, requester: "BatchRequester", unit: Unit) -> Iterator[PassBatch]:
    """Yield the requested samples of one unit of `work_units`, batch by batch."""
    in_unit = IndexSet.of_ranges([range(int(unit["start"][0]), int(unit["stop"][0]))])
    for batch in requester.request_set(wanted & in_unit):
        yield {"serial": batch["index"], **batch}


def request_units(
    service: GenerationService,
    config: GenerationConfig,
    batch_size: int,
    blocks: Sequence[dict[str, list[int]]],
    stage: StageSpec,
    request: SampleRequest,
) -> ray.data.Dataset:
    """Return the output of a stage for all units of work.

    Each block of `in_blocks` goes to one actor; blocks start in order.
    """
    num_requesters = min(num_requesters_of(config, request, stage), len(blocks))
    window = _window(config, request, num_requesters)
    source = ray.data.from_items(list(blocks), override_num_blocks=len(blocks))
    source.context.execution_no_progress_timeout_s = -1  # a shard of a large model's images may take an hour
    source.context.execution_options.preserve_order = request.in_order
    return source.map_batches(
        cast(Any, StreamStage),
        fn_constructor_args=[stage.work, service, config, batch_size, window],
        batch_size=1,
        # With more tasks in flight, some actors would hold two while others idle.
        compute=ActorPoolStrategy(size=num_requesters, max_tasks_in_flight_per_actor=1),
        num_cpus=0,
        label_selector={} if stage.is_spread else {NODE_ID: ray.get_runtime_context().get_node_id()},
    )


def num_requesters_of(config: GenerationConfig, request: SampleRequest, stage: StageSpec) -> int:
    """Return the number of request actors per consumer."""
    if request.in_order:
        return 1
    num_requesters = min(config.max_actors * stage.requesters_per_generator, stage.max_requesters)
    return max(MIN_REQUESTERS, math.ceil(num_requesters / request.num_consumers))


def _window(config: GenerationConfig, request: SampleRequest, num_requesters: int) -> int:
    """Return the number of pending batches per request actor; together they fill all generator actors."""
    return math.ceil(REQUESTS_PER_ACTOR * config.max_actors / (num_requesters * request.num_consumers))


def request_samples(
    service: GenerationService, config: GenerationConfig, indices: Sequence[int]
) -> Iterator[SampleBatch]:
    """Yield a few samples in the order of `indices`, batch by batch, without a Ray dataset."""
    requester = BatchRequester(service, config, service.batch_size(), window=REQUESTS_PER_ACTOR * config.max_actors)
    return requester.request(indices)


def fetch_samples(service: GenerationService, config: GenerationConfig, indices: Sequence[int]) -> SampleBatch:
    """Return a few samples as one batch, in the order of `indices`."""
    batches = list(request_samples(service, config, indices))
    columns = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    return cast(SampleBatch, columns)


class BatchFailures:
    """The failures of one batch: actors that died while holding it, or failed on it."""

    def __init__(self, indices: Sequence[int]) -> None:
        self.indices = indices
        self._deaths: dict[str, Exception] = {}
        """By actor where Ray names it: Serve may retry on an actor that the memory monitor killed."""

        self._failures: dict[str, str] = {}
        """The error of each actor's process."""

    def add(self, error: Exception) -> None:
        """Record a lost result; raise if a retry is pointless."""
        if isinstance(error, ActorFailedError):
            failed = getattr(error, "cause", error)  # Ray raises its own subclass, which holds the original
            others = [text for process, text in self._failures.items() if process != failed.process]
            self._failures[failed.process] = failed.description
            if failed.description in others or len(self._failures) >= MAX_FAILED_ACTORS:
                raise error
        elif isinstance(error, DEATH_ERRORS):
            self._deaths[str(error) if isinstance(error, OutOfMemoryError) else f"{len(self._deaths)}"] = error
            if len(self._deaths) >= MAX_DEATHS:
                raise GenerationFailedError(self._deaths_message()) from error

    def _deaths_message(self) -> str:
        num_by_monitor = sum(isinstance(each, OutOfMemoryError) for each in self._deaths.values())
        remedy = (
            f"Ray's memory monitor killed {num_by_monitor} of them because their node ran out of memory. Use nodes "
            "with more memory, or fewer actors per node (raise generation.cpus_per_actor or gpus_per_actor)."
            if num_by_monitor
            else "The batch may not fit into their memory: set a smaller generation.batch_size."
        )
        return (
            f"{len(self._deaths)} actors died while making the batch of samples {self.indices[0]} to "
            f"{self.indices[-1]}. {remedy}"
        )


class StreamStage:
    """A stage as a Ray Data actor: a `BatchRequester` and the work done with it."""

    def __init__(self, work: "Callable[[BatchRequester, Unit], Iterator[Any]]", *requester_arguments: Any) -> None:
        """Take the stage's work and the arguments of `BatchRequester`."""
        self.work = work
        self.requester = BatchRequester(*requester_arguments)

    def __call__(self, block: dict[str, np.ndarray]) -> Iterator[Any]:
        """Process the units of a block of `in_blocks` one after another."""
        columns = {name: np.asarray(values[0]) for name, values in block.items()}
        for i in range(len(next(iter(columns.values())))):
            yield from self.work(self.requester, {name: column[i : i + 1] for name, column in columns.items()})


class BatchRequester:
    """Requests batches from the pool, several at a time, and yields them in order; retries lost batches."""

    def __init__(self, service: GenerationService, config: GenerationConfig, batch_size: int, window: int) -> None:
        """Request `window` batches at a time; `batch_size` must not change while a dataset runs."""
        quiet_serve_logs()
        self.service = service
        self.batch_size = batch_size
        self.longest_wait_seconds = config.start_limit_seconds
        self.window = window
        self._check_lock = threading.Lock()
        self._checked_at = self._any_actor_seen_at = time.monotonic()
        self._failure: GenerationFailedError | None = None

    def request_set(self, indices: IndexSet) -> Iterator[SampleBatch]:
        """Yield the samples of a set in ascending order, batch by batch.

        Batches start at multiples of their size. An image is therefore always made in the same batch and identical to
        the bit; samples of the batch that are not in the set are generated and dropped.
        """
        size = self.batch_size
        numbers = indices.blocks(size)
        starts = (numbers.at(np.arange(len(numbers))) * size).tolist()
        for batch in self._map([range(start, start + size) for start in starts]):
            yield select_samples(batch, indices.contains(batch["index"]))

    def request(self, indices: Sequence[int]) -> Iterator[SampleBatch]:
        """Yield the samples of these indices in their order, batch by batch."""
        starts = range(0, len(indices), self.batch_size)
        return self._map([indices[start : start + self.batch_size] for start in starts])

    def _map(self, batches: Sequence[Sequence[int]]) -> Iterator[SampleBatch]:
        return map_ordered(self._send, self._receive, batches, self.window)

    def _send(self, indices: Sequence[int]) -> tuple[Sequence[int], Response]:
        return indices, self.service.request(indices)

    def _receive(self, request: tuple[Sequence[int], Response]) -> SampleBatch:
        """Wait for a batch; retry it if its result was lost. GenerationFailedError if a retry is pointless."""
        indices, response = request
        failures, requested_at = BatchFailures(indices), time.monotonic()
        while True:
            try:
                return response.result(timeout_s=POOL_CHECK_SECONDS)
            except TimeoutError:
                self._check_pool(requested_at)
            except LOST_RESULT_ERRORS as error:
                self._check_pool(requested_at)
                failures.add(error)
                if not isinstance(error, ActorDiedError):  # Serve itself avoids a dead actor and waits for another
                    time.sleep(RETRY_SECONDS)
                response = self.service.request(indices)

    def _check_pool(self, requested_at: float) -> None:
        """Raise GenerationFailedError if the last check found the pool failed; start the next check when due.

        All waiting threads share one check per `POOL_CHECK_SECONDS`. It runs in the background, since the result may
        arrive first.
        """
        if self._failure is not None:
            raise self._failure
        with self._check_lock:
            is_due = time.monotonic() - self._checked_at >= POOL_CHECK_SECONDS
            if is_due:
                self._checked_at = time.monotonic()
        if is_due:
            threading.Thread(target=self._update_failure, args=(requested_at,), daemon=True).start()

    def _update_failure(self, requested_at: float) -> None:
        self._failure = self._find_failure(requested_at)

    def _find_failure(self, requested_at: float) -> GenerationFailedError | None:
        try:
            self.service.raise_if_failed()
            if self.service.num_actors():
                self._any_actor_seen_at = time.monotonic()
        except GenerationFailedError as error:
            return error
        except ControllerSilentError as error:
            logger.warning("%s The stream continues.", error)
        except (RayError, RayServeException) as error:  # Serve's controller is restarting
            logger.warning("The pool's state cannot be read (%s). The stream continues.", type(error).__name__)
        if time.monotonic() - max(requested_at, self._any_actor_seen_at) <= self.longest_wait_seconds:
            return None
        return GenerationFailedError(
            f"No generator actor was running for {self.longest_wait_seconds:g} s. Check that the cluster still has "
            "nodes for them."
        )
