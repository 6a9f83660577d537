"""Learners that share a pool on a real local cluster. The rule itself: test_sharing.py."""

import asyncio
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import ray
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError
from ray.serve.exceptions import ReplicaUnavailableError

from generation.config import GenerationConfig, SharingConfig
from generation.engine.generator import GenerationFailedError
from generation.indices import IndexSet, SampleRequest
from generation.pool.service import GenerationService
from generation.pool.shared_batches import SharedBatches, SharedPool, SharedService, errors_of_sharing, shared
from generation.pool.sharing import EXPECTED, Consumer
from generation.recipes.recipe import Recipe
from generation.sample import SampleBatch
from generation.stream.stream import BatchRequester, fetch_samples, stream_samples
from tests.support.settings import TWO_ACTORS, TWO_ACTORS_OF_8
from tests.support.waits import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

BATCH_BYTES = 16 * 16 * 16 * 3
"""Bytes of the images of a batch of the session's painted pool."""


def learners_of(pool: SharedPool, *names: str) -> list[SharedService]:
    """Return the clients of learners whose streams of ten batches are open."""
    request = SampleRequest(IndexSet.of_ranges([range(160)]), rank=0)
    clients = [pool.learner(name, range(160)) for name in names]
    return [client.registered(request) for client in clients]


def take(client: SharedService, number: int, seconds: float = 30.0) -> list[int]:
    """Return the indices of a batch that a learner takes."""
    return client.request(range(number * 16, (number + 1) * 16)).result(timeout_s=seconds)["index"].tolist()


def rows_of(client: SharedService, config: GenerationConfig, num_samples: int) -> Iterator[SampleBatch]:
    """Yield a learner's samples in order, without a Ray dataset."""
    requester = BatchRequester(client, config, client.batch_size(), window=4)
    return requester.request_set(IndexSet.of_ranges([range(num_samples)]))


def test_learners_get_the_images_of_an_unshared_stream_and_each_is_made_once(
    painted: Recipe, painted_pool: GenerationService
):
    made_before = painted_pool.counts().num_images_made
    with shared(painted_pool, painted, SharingConfig()) as pool:
        clients = [pool.learner(name, range(320), range(4000, 4032)) for name in "ab"]

        def rows(client: SharedService) -> list[np.ndarray]:
            first = fetch_samples(client, TWO_ACTORS, range(16))
            held_out = stream_samples(client, painted, TWO_ACTORS, SampleRequest.all_of(range(4000, 4032)))
            training = SampleRequest(IndexSet.of_ranges([range(320)]), in_order=True, rank=0)
            streams = [stream_samples(client, painted, TWO_ACTORS, training), held_out]
            batches = [batch for stream in streams for batch in stream.iter_batches(batch_size=16)]
            indices = np.concatenate([batch["index"] for batch in batches])
            order = np.argsort(indices)
            return [first["image"], indices[order], np.concatenate([batch["image"] for batch in batches])[order]]

        with ThreadPoolExecutor(2) as threads:
            (first, indices, images), others = threads.map(rows, clients)
        assert pool.counts().num_distinct == pool.counts().num_made == 22  # batches, 2 of them held out
        wait_until(lambda: painted_pool.counts().num_images_made - made_before == 22 * 16)
        assert pool.counts().num_taken == {"a": 23, "b": 23}  # 1 + 20 + 2
        assert clients[0].counts().num_images_made == 22 * 16  # no more than all
    assert indices.tolist() == [*range(320), *range(4000, 4032)]
    for mine, other in zip((first, indices, images), others, strict=True):
        np.testing.assert_array_equal(mine, other)
    np.testing.assert_array_equal(images[:320], fetch_samples(painted_pool, TWO_ACTORS, range(320))["image"])
    np.testing.assert_array_equal(images[:16], first)


def test_fast_learner_waits_for_room_and_gets_its_batch_when_a_slow_one_takes_one(
    painted: Recipe, painted_pool: GenerationService
):
    with shared(painted_pool, painted, SharingConfig(2 * BATCH_BYTES, max_waiting_fraction=0.999)) as pool:
        fast, slow = learners_of(pool, "fast", "slow")
        assert [take(fast, number)[0] for number in range(2)] == [0, 16]
        third = fast.request(range(32, 48))
        with pytest.raises(TimeoutError):
            third.result(timeout_s=0.3)
        assert take(slow, 0)[0] == 0
        assert third.result(timeout_s=30)["index"].tolist() == list(range(32, 48))
        fourth = fast.request(range(48, 64))
        with pytest.raises(TimeoutError):
            fourth.result(timeout_s=0.1)
        slow.stop()
        assert fourth.result(timeout_s=30)["index"].tolist() == list(range(48, 64))
        counts = pool.counts()
        assert (counts.num_distinct, counts.num_made, counts.num_shared) == (4, 4, 1)
        assert counts.waiting_seconds["fast"] > 0.3
        assert counts.waiting_seconds["slow"] == 0.0


def test_fast_learner_waits_no_longer_than_its_share(painted: Recipe, painted_pool: GenerationService):
    with shared(painted_pool, painted, SharingConfig(2 * BATCH_BYTES, max_waiting_fraction=0.1)) as pool:
        fast, slow = learners_of(pool, "fast", "slow")
        assert [take(fast, number)[0] for number in range(10)] == list(range(0, 160, 16))
        assert [take(slow, number)[0] for number in range(10)] == list(range(0, 160, 16))
        counts = pool.counts()
        assert (counts.num_distinct, counts.num_made, counts.num_shared) == (10, 18, 2)  # 0 and 1 were kept


def test_learner_that_ends_while_it_waits_is_refused(painted: Recipe, painted_pool: GenerationService):
    with shared(painted_pool, painted, SharingConfig(BATCH_BYTES, max_waiting_fraction=0.999)) as pool:
        ended, _ = learners_of(pool, "a", "b")
        take(ended, 0)
        pending = ended.request(range(16, 32))
        with pytest.raises(TimeoutError):
            pending.result(timeout_s=0.1)
        ended.stop()
        for refused in (pending, ended.request(range(32, 48))):
            with pytest.raises(GenerationFailedError, match="'a' has ended"):
                refused.result(timeout_s=30)
        assert pool.counts().num_made == 1


def test_killed_actor_and_a_learner_that_ends_change_no_sample_of_another(
    guarded_digits: Recipe, digits_pool: GenerationService
):
    undisturbed = fetch_samples(digits_pool, TWO_ACTORS_OF_8, range(160))
    loaded = [int(process.rsplit(":", 1)[1]) for process in digits_pool.counts().num_loads]
    victim = [process for process in loaded if psutil.pid_exists(process)][-1]
    with shared(digits_pool, guarded_digits, SharingConfig()) as pool, ThreadPoolExecutor(2) as threads:
        learners = learners_of(pool, "a", "b", "c")
        rows = [rows_of(client, TWO_ACTORS_OF_8, 160) for client in learners]
        next(rows[2])
        os.kill(victim, signal.SIGKILL)
        learners[2].stop()
        complete = list(threads.map(list, rows[:2]))
        rows[2].close()  # pyright: ignore[reportAttributeAccessIssue]
    for batches in complete:
        for name in ("index", "label", "attempt", "image"):
            np.testing.assert_array_equal(np.concatenate([batch[name] for batch in batches]), undisturbed[name])


def test_learners_end_with_one_line_if_the_sharing_process_is_lost(painted: Recipe, painted_pool: GenerationService):
    with shared(painted_pool, painted, SharingConfig()) as pool:
        (client,) = learners_of(pool, "a")
        take(client, 0)
        ray.kill(pool.shared)
        with pytest.raises(GenerationFailedError, match=r"shares images between learners, .* was lost\. Start"):
            take(client, 1)
        client.stop()


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (OutOfMemoryError("killed"), GenerationFailedError),
        (ActorDiedError(), GenerationFailedError),
        (RayTaskError("take", "", ActorDiedError()).as_instanceof_cause(), ActorDiedError),  # a generator actor
    ],
)
def test_loss_of_the_sharing_process_is_told_from_that_of_a_generator(raised: Exception, expected: type[Exception]):
    with pytest.raises(expected) as found, errors_of_sharing():
        raise raised
    assert not isinstance(found.value, RayTaskError)


class FailingHandle:
    """A handle of a pool whose requests fail until it is mended."""

    def __init__(self) -> None:
        self.generate = self
        self.is_mended = False

    def remote(self, indices: range) -> Any:
        """Return a response that has failed, or the indices in the place of a reference."""

        async def made() -> range:
            if not self.is_mended:
                raise ReplicaUnavailableError("no route")
            return indices

        return SimpleNamespace(_to_object_ref=made)


def test_request_that_reaches_no_actor_is_made_again():
    handle = FailingHandle()
    actor: Any = SharedBatches.__ray_metadata__.modified_class(handle, SharingConfig(), 16, 768)  # pyright: ignore[reportAttributeAccessIssue]

    async def requests() -> list[range]:
        await actor.register(Consumer("b", EXPECTED), IndexSet.of_ranges([range(10)]))
        with pytest.raises(ReplicaUnavailableError):
            await actor.take(Consumer("a", 0), 1)
        handle.is_mended = True
        return [(await actor.take(Consumer(name, 0), 1))[0] for name in "ab"]

    assert asyncio.run(requests()) == [range(16, 32)] * 2
    assert (actor.buffer.counts().num_made, actor.buffer.counts().num_shared) == (2, 1)
