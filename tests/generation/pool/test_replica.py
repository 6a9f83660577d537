"""A generator actor whose batch fails, and one that stops reporting while it loads."""

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from generation.config import GenerationConfig
from generation.engine.actor import WorkCounts
from generation.engine.generator import ActorFailedError, GenerationFailedError
from generation.engine.scores import ScoreCounts, ScoredImage
from generation.pool import keeper, replica
from generation.pool.keeper import PoolKeeper
from generation.pool.replica import GeneratorReplica


def failing(error: Exception) -> GeneratorReplica:
    """Return a replica without a model whose device raises this error."""

    def generate(_: object) -> None:
        raise error

    made = GeneratorReplica.__new__(GeneratorReplica)
    made.process, made.num_requests, made.threads = "node:7", 0, ThreadPoolExecutor(1)
    made.actor = cast(Any, SimpleNamespace(generate=generate))
    return made


@pytest.mark.parametrize(
    ("error", "seen", "exits"),
    [
        (RuntimeError("CUDA error: unspecified launch failure"), ActorFailedError, [1]),
        (GenerationFailedError("All 10 attempts were refused"), GenerationFailedError, []),
    ],
)
def test_actor_exits_only_after_an_unexpected_error(
    error: Exception, seen: type[Exception], exits: list[int], monkeypatch: pytest.MonkeyPatch
):
    ended: list[int] = []
    monkeypatch.setattr(replica.os, "_exit", ended.append)
    monkeypatch.setattr(replica, "EXIT_DELAY_SECONDS", 0.0)

    async def send_requests() -> None:
        with pytest.raises(seen, match=str(error)) as raised:
            await failing(error).generate([0])
        assert raised.type is seen
        await asyncio.sleep(0.01)  # it exits after the result

    asyncio.run(send_requests())
    assert ended == exits


def test_images_of_scores_are_not_in_the_snapshot():
    pool_keeper: Any = PoolKeeper.__ray_metadata__.modified_class(GenerationConfig())  # pyright: ignore[reportAttributeAccessIssue]
    shown = {"highest scores": [ScoredImage(0.9, 0, 0, "zero", np.zeros((1, 1, 3), np.uint8))]}
    scores = ScoreCounts(Counter({"all images": 1}), Counter({"all images": 900}), shown)
    pool_keeper.add_work("node:7", 1, 0, WorkCounts(1, scores=scores))
    assert pool_keeper.snapshot().scores == ScoreCounts(scores.num_scored, scores.thousandths)
    assert pool_keeper.scores().shown == shown


def test_process_that_stops_reporting_no_longer_counts_as_loading(monkeypatch: pytest.MonkeyPatch):
    pool_keeper: Any = PoolKeeper.__ray_metadata__.modified_class(GenerationConfig())  # pyright: ignore[reportAttributeAccessIssue]
    pool_keeper.report_loading("node:7")
    assert pool_keeper.snapshot().loading == {"node:7"}
    monkeypatch.setattr(keeper, "LOADING_TIMEOUT_SECONDS", -1.0)
    assert pool_keeper.snapshot().loading == set()
