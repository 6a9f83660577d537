"""The actor between a pool and the learners that share it, and their clients. The rule is in `sharing.py`."""

import asyncio
import dataclasses
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import cast

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayError, RayTaskError
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from generation.config import SharingConfig
from generation.engine.generator import GenerationFailedError
from generation.engine.scores import ScoreCounts
from generation.indices import IndexSet, SampleRequest
from generation.pool.keeper import GenerationCounts
from generation.pool.service import GenerationService, Response, beside_driver, quiet_serve_logs
from generation.pool.sharing import EXPECTED, Consumer, SharedBuffer, SharingCounts
from generation.pool.sizing import TrainerTimes
from generation.recipes.recipe import Recipe
from generation.sample import SampleBatch

MAX_REQUESTS = 100_000
"""Requests that the actor holds at once: all windows of all learners."""


@ray.remote(num_cpus=0)
class SharedBatches:
    """Requests each batch from the pool once; keeps references, as the images stay in Ray's object store."""

    def __init__(self, handle: DeploymentHandle, config: SharingConfig, batch_size: int, image_bytes: int) -> None:
        quiet_serve_logs()
        self.handle = handle
        self.batch_size = batch_size
        self.buffer = SharedBuffer[asyncio.Task[ObjectRef]](config, batch_size * image_bytes)
        self.changed = asyncio.Event()
        self.turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """The waiting requests of a learner proceed one after the other."""

    async def take(self, consumer: Consumer, number: int) -> list[ObjectRef]:
        """Return a reference to a batch, which may still be in the making."""
        if self.buffer.must_wait(consumer, number):
            with self.buffer.waiting(consumer.learner):
                async with self.turns[consumer.learner]:
                    await self._wait_for_room(consumer, number)
        made = self.buffer.take(consumer, number, lambda: asyncio.create_task(self._make(number)))
        self._wake_waiting()
        try:
            return [await asyncio.shield(made)]
        except Exception:
            if self.buffer.held.get(number) is made:
                self.buffer.forget(number)
            raise

    async def _wait_for_room(self, consumer: Consumer, number: int) -> None:
        while self.buffer.must_wait(consumer, number):
            with suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait(), self.buffer.patience_seconds(consumer.learner))

    async def _make(self, number: int) -> ObjectRef:
        indices = range(number * self.batch_size, (number + 1) * self.batch_size)
        response = cast(DeploymentResponse, self.handle.generate.remote(indices))
        return await response._to_object_ref()

    def _wake_waiting(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def forget(self, number: int, lost: list[ObjectRef]) -> None:
        """Drop a batch whose result was lost, unless it is being made again already."""
        made = self.buffer.held.get(number)
        if made is not None and made.done() and [made.result()] == lost:
            self.buffer.forget(number)

    async def register(self, consumer: Consumer, numbers: IndexSet, num_ranks: int = 0) -> None:
        """Record which batches a stream will request."""
        self.buffer.register(consumer, numbers, num_ranks)
        self._wake_waiting()

    async def leave(self, learner: str) -> None:
        """Forget what a learner wants."""
        self.buffer.leave(learner)
        self._wake_waiting()

    async def counts(self) -> SharingCounts:
        """Return the counts so far."""
        return self.buffer.counts()


@dataclass(frozen=True)
class SharedPool:
    """A running pool that several learners share, usable from any process of the cluster."""

    service: GenerationService
    shared: ActorHandle
    samples_per_batch: int
    before: GenerationCounts
    """The pool's counts when sharing began."""

    def learner(self, name: str, *expected: range) -> "SharedService":
        """Return a learner's client. `expected` are the samples that it will want, kept until it requests them."""
        numbers = IndexSet.of_ranges(expected).blocks(self.samples_per_batch)
        ray.get(self.shared.register.remote(Consumer(name, EXPECTED), numbers))
        pool = self.service
        parts = pool.app_name, pool.handle, pool.keeper
        return SharedService(*parts, self.shared, name, self.samples_per_batch, self.before)

    def counts(self) -> SharingCounts:
        """Return the counts so far, in batches."""
        return cast(SharingCounts, ray.get(self.shared.counts.remote()))


@contextmanager
def shared(service: GenerationService, recipe: Recipe, config: SharingConfig) -> Iterator[SharedPool]:
    """Share a running pool between learners while the body runs."""
    batch_size = service.batch_size()
    options = SharedBatches.options(scheduling_strategy=beside_driver(), max_concurrency=MAX_REQUESTS)
    actor = cast(ActorHandle, options.remote(service.handle, config, batch_size, recipe.image_bytes))
    try:
        yield SharedPool(service, actor, batch_size, service.counts())
    finally:
        ray.kill(actor)


@dataclass(frozen=True)
class SharedService(GenerationService):
    """A learner's client of a pool that it shares. Stopping it ends the learner's share, and not the pool."""

    shared: ActorHandle
    learner: str
    samples_per_batch: int
    before: GenerationCounts
    rank: int | None = None

    def batch_size(self) -> int:
        """Return the number of samples per request, which is the same for all learners."""
        return self.samples_per_batch

    def counts(self) -> GenerationCounts:
        """Return the pool's counts with this learner's work: that of the batches it requested, each made once.

        It grows as the learner's requests do: others' batches in the making do not lower it.
        """
        counts = super().counts()
        return counts.share(self.before, self._factor(counts))

    def scores(self) -> ScoreCounts:
        """Return this learner's share of the pool's scores, with the pool's images."""
        return super().scores().share(self.before.scores, self._factor(super().counts()))

    def _factor(self, counts: GenerationCounts) -> float:
        """Return the samples that this learner requested, as a fraction 0..1 of those that the pool has finished."""
        with errors_of_sharing():
            shared_counts = cast(SharingCounts, ray.get(self.shared.counts.remote()))
        num_requested = shared_counts.num_taken[self.learner] * self.samples_per_batch
        num_finished = num_samples_finished(counts) - num_samples_finished(self.before)
        return min(1.0, num_requested / max(1, num_finished))

    def registered(self, request: SampleRequest) -> "SharedService":
        """Return the client of a consumer that will request these samples, each once."""
        numbers = request.serials.blocks(self.samples_per_batch)
        consumer = Consumer(self.learner, request.rank)
        with errors_of_sharing():
            ray.get(self.shared.register.remote(consumer, numbers, request.num_consumers))
        return dataclasses.replace(self, rank=request.rank)

    def request(self, indices: Sequence[int]) -> Response:
        """Request a batch through the shared buffer; other samples than a whole batch, from the pool."""
        number = indices[0] // self.samples_per_batch
        if indices != range(number * self.samples_per_batch, (number + 1) * self.samples_per_batch):
            return super().request(indices)
        return SharedResponse(self.shared, number, self.shared.take.remote(Consumer(self.learner, self.rank), number))

    def report_trainer(self, trainer: TrainerTimes) -> None:
        """Report the times of this learner's trainer; the sum over all learners decides the pool's size."""
        self.keeper.report_trainer.remote(trainer, self.learner)

    def stop(self) -> None:
        """Leave the shared pool, which no longer keeps images for this learner."""
        with suppress(RayError):  # the pool has ended
            ray.get(self.shared.leave.remote(self.learner))


def num_samples_finished(counts: GenerationCounts) -> int:
    """Return how many samples are through: delivered, or left out."""
    return counts.num_accepted + counts.num_left_out.total()


@contextmanager
def errors_of_sharing() -> Iterator[None]:
    """Raise errors in the sharing actor as they are, and GenerationFailedError if it was lost."""
    try:
        yield
    except RayTaskError as error:  # first: it is also of its cause's class, which may be a lost generator actor
        raise error.cause from None
    except (ActorDiedError, OutOfMemoryError) as error:
        raise GenerationFailedError(
            "The process that shares images between learners, on the driver's node, was lost. Start the command "
            "again with resume=true."
        ) from error


@dataclass(frozen=True)
class SharedResponse:
    """A pending request of a shared batch."""

    shared: ActorHandle
    number: int
    reply: ObjectRef

    def result(self, timeout_s: float) -> SampleBatch:
        """Wait for the samples. A failed batch is forgotten, so that the next request has it made again."""
        give_up_at = time.monotonic() + timeout_s
        with errors_of_sharing():
            (made,) = ray.get(self.reply, timeout=timeout_s)
        try:
            return ray.get(made, timeout=max(0.0, give_up_at - time.monotonic()))
        except TimeoutError:
            raise
        except Exception:
            self.shared.forget.remote(self.number, [made])
            raise
