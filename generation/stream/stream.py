"""Labelled images as a Ray Dataset: Ray Data asks, the generation service answers.

Each row is a function of its index, so a unit of work that Ray runs again gives the same rows in the same blocks. The
stream knows sets of indices and neither epochs nor training.
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
from ray.serve.handle import DeploymentResponse

from generation.config import GenerationConfig
from generation.engine.generator import ActorFailedError, GenerationFailedError
from generation.indices import IndexSet, SampleRequest
from generation.pool.serve_controller import ControllerSilentError
from generation.pool.service import REQUESTS_PER_ACTOR, GenerationService, beside_driver
from generation.recipes.recipe import Recipe
from generation.sample import PassBatch, SampleBatch, selected
from generation.stream.ordered import map_ordered
from generation.stream.units import MAX_SOURCE_BLOCKS, bound_memory, in_blocks, work_units

logger = logging.getLogger(__name__)

MIN_REQUESTERS = 2
"""The least number of actors of the asking stage, for each consumer.

One moves about 10 blocks a second, and while it waits for the last batches of a unit the others keep generators busy;
it takes a second or two of a core to start. With 4 generators of 4 batches a second each, 2 askers and 4 delivered
0.996 of the nominal rate (`make bench`).
"""


ANSWER_POLL_SECONDS = 10.0
RETRY_SECONDS = 0.5

DEATH_ERRORS = (ActorDiedError, OutOfMemoryError, WorkerCrashedError)
"""What a request ends with when its actor's process has ended; the second when Ray's memory monitor has ended it."""

LOST_RESULT_ERRORS = (
    *DEATH_ERRORS,
    ActorFailedError,
    ActorUnavailableError,
    ReplicaUnavailableError,
    NodeDiedError,
    ObjectLostError,
)
"""What a request ends with when its actor, or the node that holds its answer, is gone.

Asked again, another actor gives the same samples.
"""

MAX_DEATHS = 5
"""A batch whose actor died this often is taken to kill its actors.

An actor that cannot be reached does not count: until a lost node is noticed, all that its actors are asked for is lost.
"""

MAX_FAILED_ACTORS = 3
"""A batch at which so many actors failed is not asked for again, nor one at which two failed alike."""


Unit = dict[str, np.ndarray]
"""A unit of work: columns of one value each."""


@dataclass(frozen=True)
class StageSpec:
    """What askers, actors of Ray Data's, do with their units of work, and how many there are."""

    work: "Callable[[BatchRequester, Unit], Iterator[Any]]"
    """Yields what becomes of a unit."""

    requesters_per_generator: float = 0.25
    max_requesters: int = 8
    is_spread: bool = False
    """Whether they are spread over nodes; else they are beside who opens the stream, since on a generator's node they
    would keep it from being given back.
    """


def stream_samples(
    service: GenerationService, recipe: Recipe, config: GenerationConfig, wanted: SampleRequest
) -> ray.data.Dataset:
    """Return a lazy dataset with one row (see `SampleBatch`) for each wanted serial, which is its index.

    Rows come in no certain order unless one is wanted.
    """
    batch_size, stage = service.batch_size(), StageSpec(partial(samples_of_unit, wanted.serials))
    num_requesters = num_requesters_of(config, wanted, stage)
    units = work_units(wanted.serials, batch_size, num_requesters, _window(config, wanted, num_requesters))
    dataset = request_units(service, config, batch_size, in_blocks(units, MAX_SOURCE_BLOCKS), stage, wanted)
    bound_memory(dataset, batch_size * recipe.image_bytes, config.max_buffered_bytes, wanted.num_consumers)
    return dataset


def samples_of_unit(wanted: IndexSet, requester: "BatchRequester", unit: Unit) -> Iterator[PassBatch]:
    """Yield what is wanted of one unit of `work_units`, a batch at a time."""
    part = IndexSet.of_ranges([range(int(unit["start"][0]), int(unit["stop"][0]))])
    for batch in requester.request_set(wanted & part):
        yield {"serial": batch["index"], **batch}


def request_units(
    service: GenerationService,
    config: GenerationConfig,
    batch_size: int,
    blocks: Sequence[dict[str, list[int]]],
    stage: StageSpec,
    wanted: SampleRequest,
) -> ray.data.Dataset:
    """Return what a stage makes of units of work.

    One requester has all units of a block of `in_blocks`, and blocks are begun in their order.
    """
    num_requesters = min(num_requesters_of(config, wanted, stage), len(blocks))
    window = _window(config, wanted, num_requesters)
    source = ray.data.from_items(list(blocks), override_num_blocks=len(blocks))
    source.context.execution_no_progress_timeout_s = -1  # a shard of a large model's images may take an hour
    source.context.execution_options.preserve_order = wanted.in_order
    return source.map_batches(
        cast(Any, StreamStage),
        fn_constructor_args=[stage.work, service, config, batch_size, window],
        batch_size=1,
        compute=ActorPoolStrategy(
            size=num_requesters, max_tasks_in_flight_per_actor=1
        ),  # else some have two, others none
        num_cpus=0,
        scheduling_strategy=source.context.scheduling_strategy if stage.is_spread else beside_driver(),
    )


def num_requesters_of(config: GenerationConfig, wanted: SampleRequest, stage: StageSpec) -> int:
    """Return how many askers each consumer's execution has."""
    if wanted.in_order:
        return 1
    num_requesters = min(config.max_actors * stage.requesters_per_generator, stage.max_requesters)
    return max(MIN_REQUESTERS, math.ceil(num_requesters / wanted.num_consumers))


def _window(config: GenerationConfig, wanted: SampleRequest, num_requesters: int) -> int:
    """Return how many batches each of so many askers has under way: together as many as all actors take on."""
    return math.ceil(REQUESTS_PER_ACTOR * config.max_actors / (num_requesters * wanted.num_consumers))


def request_samples(
    service: GenerationService, config: GenerationConfig, indices: Sequence[int]
) -> Iterator[SampleBatch]:
    """Yield a few samples in their order, asked for as the stream asks, without a dataset."""
    return BatchRequester(service, config, service.batch_size(), window=REQUESTS_PER_ACTOR * config.max_actors).request(
        indices
    )


def fetch_samples(service: GenerationService, config: GenerationConfig, indices: Sequence[int]) -> SampleBatch:
    """Return a few samples at once, in their order."""
    batches = list(request_samples(service, config, indices))
    columns = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    return cast(SampleBatch, columns)


class BatchFailures:
    """What one batch has met with: actors that died while they had it, or failed at it."""

    def __init__(self, indices: Sequence[int]) -> None:
        self.indices = indices
        self._deaths: dict[str, Exception] = {}
        """By actor where Ray names it: Serve may ask an actor again that the memory monitor has ended."""

        self._failures: dict[str, str] = {}
        """How each actor's process failed."""

    def add(self, error: Exception) -> None:
        """Note a lost answer; raises if asking again would lead nowhere."""
        if isinstance(error, ActorFailedError):
            failed = getattr(error, "cause", error)  # Ray hands on its own error, of this class too
            others = [text for process, text in self._failures.items() if process != failed.process]
            self._failures[failed.process] = failed.description
            if failed.description in others or len(self._failures) >= MAX_FAILED_ACTORS:
                raise error
        elif isinstance(error, DEATH_ERRORS):
            self._deaths[str(error) if isinstance(error, OutOfMemoryError) else f"{len(self._deaths)}"] = error
            if len(self._deaths) >= MAX_DEATHS:
                raise GenerationFailedError(self._of_deaths()) from error

    def _of_deaths(self) -> str:
        num_by_monitor = sum(isinstance(each, OutOfMemoryError) for each in self._deaths.values())
        remedy = (
            f"Ray's memory monitor ended {num_by_monitor} of them, as the memory of their node ran out. Use nodes with "
            "more memory, or fewer actors a node (generation.cpus_per_actor, gpus_per_actor)."
            if num_by_monitor
            else "Is generation.batch_size too large for their memory?"
        )
        return (
            f"{len(self._deaths)} actors died that had the batch of samples {self.indices[0]} to {self.indices[-1]}: "
            f"it seems to kill them. {remedy}"
        )


def keep_serve_quiet() -> None:
    """Log Serve's warnings and errors, in the driver errors alone: of a lost actor it warns for each request."""
    serve_log = logging.getLogger("ray.serve")
    serve_log.setLevel(max(serve_log.level, logging.WARNING))
    logging.getLogger("asyncio").addFilter(is_not_of_serve)


def is_not_of_serve(record: logging.LogRecord) -> bool:
    """Leave out traces of questions of Serve's to a lost actor, for whose answers it does not wait."""
    return "/ray/serve/" not in record.getMessage()


class StreamStage:
    """An requester with its work, as Ray Data makes it."""

    def __init__(self, work: "Callable[[BatchRequester, Unit], Iterator[Any]]", *asking: Any) -> None:
        """Take a stage's work, and an requester's arguments."""
        self.work = work
        self.requester = BatchRequester(*asking)

    def __call__(self, block: dict[str, np.ndarray]) -> Iterator[Any]:
        """Do the units of a block of `in_blocks`, one after the other."""
        columns = {name: np.asarray(values[0]) for name, values in block.items()}
        for i in range(len(next(iter(columns.values())))):
            yield from self.work(self.requester, {name: column[i : i + 1] for name, column in columns.items()})


class BatchRequester:
    """Keeps requests under way and yields each batch in its order."""

    def __init__(self, service: GenerationService, config: GenerationConfig, batch_size: int, window: int) -> None:
        """Ask in batches of this size, which must not change while a dataset runs, `window` of them at once."""
        keep_serve_quiet()
        self.service = service
        self.batch_size = batch_size
        self.longest_wait_seconds = config.longest_start_seconds
        self.window = window
        self._looking = threading.Lock()
        self._looked_at = self._any_actor_seen_at = time.monotonic()
        self._failure: GenerationFailedError | None = None

    def request_set(self, indices: IndexSet) -> Iterator[SampleBatch]:
        """Yield the samples of a set in ascending order, a batch at a time.

        Batches begin at multiples of their size, so that an image comes among the same others whoever asks for it, and
        is the same to the bit; samples of a batch that nobody asked for are made and left out.
        """
        size = self.batch_size
        numbers = indices.blocks(size)
        starts = (numbers.at(np.arange(len(numbers))) * size).tolist()
        for batch in self._map([range(start, start + size) for start in starts]):
            yield selected(batch, indices.contains(batch["index"]))

    def request(self, indices: Sequence[int]) -> Iterator[SampleBatch]:
        """Yield the samples of these indices in their order, a batch at a time."""
        starts = range(0, len(indices), self.batch_size)
        return self._map([indices[start : start + self.batch_size] for start in starts])

    def _map(self, batches: Sequence[Sequence[int]]) -> Iterator[SampleBatch]:
        return map_ordered(self._send, self._receive, batches, self.window)

    def _send(self, indices: Sequence[int]) -> tuple[Sequence[int], DeploymentResponse]:
        return indices, self.service.request(indices)

    def _receive(self, request: tuple[Sequence[int], DeploymentResponse]) -> SampleBatch:
        """Wait for a batch; where its answer was lost, ask again. GenerationFailedError if that leads nowhere."""
        indices, response = request
        setbacks, asked_at = BatchFailures(indices), time.monotonic()
        while True:
            try:
                return response.result(timeout_s=ANSWER_POLL_SECONDS)
            except TimeoutError:
                self._look(asked_at)
            except LOST_RESULT_ERRORS as error:
                self._look(asked_at)
                setbacks.add(error)
                if not isinstance(error, ActorDiedError):  # else Serve does not ask it again, and waits for another
                    time.sleep(RETRY_SECONDS)
                response = self.service.request(indices)

    def _look(self, asked_at: float) -> None:
        """Raise GenerationFailedError if the last look at the pool found that no answer is to be expected.

        However many wait, one look begins every `ANSWER_POLL_SECONDS`; none waits for it, as an answer may come first.
        """
        if self._failure is not None:
            raise self._failure
        with self._looking:
            is_due = time.monotonic() - self._looked_at >= ANSWER_POLL_SECONDS
            if is_due:
                self._looked_at = time.monotonic()
        if is_due:
            threading.Thread(target=self._look_at_pool, args=(asked_at,), daemon=True).start()

    def _look_at_pool(self, asked_at: float) -> None:
        self._failure = self._failure_now(asked_at)

    def _failure_now(self, asked_at: float) -> GenerationFailedError | None:
        try:
            self.service.raise_if_failed()
            if self.service.num_actors():
                self._any_actor_seen_at = time.monotonic()
        except GenerationFailedError as error:
            return error
        except ControllerSilentError as error:
            logger.warning("%s The stream goes on.", error)
        except (RayError, RayServeException) as error:  # Serve's controller is starting anew
            logger.warning("The pool cannot be looked at, and the stream goes on: %s", type(error).__name__)
        if time.monotonic() - max(asked_at, self._any_actor_seen_at) <= self.longest_wait_seconds:
            return None
        return GenerationFailedError(
            f"No actor was up for {self.longest_wait_seconds:g} s. Did the cluster lose its nodes?"
        )
