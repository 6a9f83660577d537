"""When a pool fails, by Serve's status and its actors' errors. The pool itself: test_pool.py."""

from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, OutOfMemoryError
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview, DeploymentStatusOverview

from generation.engine.generator import GenerationFailedError
from generation.pool.keeper import GenerationCounts
from generation.pool.service import DEPLOYMENT, GenerationService


@dataclass(frozen=True)
class FakePool(GenerationService):
    """A pool with a fixed status and counts."""

    app_name: str = "pool"
    handle: Any = None
    keeper: Any = None
    running: int = 0
    starting: int = 0
    num_loading: int = 0
    num_loads: int = 0
    num_errors: int = 0
    is_failed: bool = False

    def counts(self) -> GenerationCounts:
        return GenerationCounts(
            num_loads=Counter({f"a:{i}": 1 for i in range(self.num_loads)}),
            loading={f"b:{i}" for i in range(self.num_loading)},
            load_errors=[f"no memory on GPU {i}" for i in range(self.num_errors)],
        )

    def _status(self) -> ApplicationStatusOverview:
        deployment = DeploymentStatusOverview(
            status="UPDATING",  # pyright: ignore[reportArgumentType]
            status_trigger="UNSPECIFIED",  # pyright: ignore[reportArgumentType]
            replica_states={"RUNNING": self.running, "STARTING": self.starting},  # pyright: ignore[reportArgumentType]
            message="it fell over.",
        )
        return ApplicationStatusOverview(
            status=ApplicationStatus.DEPLOY_FAILED if self.is_failed else ApplicationStatus.DEPLOYING,
            message="",
            last_deployed_time_s=0.0,
            deployments={DEPLOYMENT: deployment},
        )


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (FakePool(starting=1, num_errors=1), "no memory on GPU 0"),
        (FakePool(starting=8, num_errors=3), "no memory on GPU 2"),
        (FakePool(starting=1, num_loads=8, num_errors=3), "no memory on GPU 2"),
        (FakePool(is_failed=True), "could start: it fell over"),
    ],
)
def test_pool_without_any_working_actor_fails_with_the_reason(pool: FakePool, message: str):
    with pytest.raises(GenerationFailedError, match=message):
        pool.raise_if_failed()


@pytest.mark.parametrize(
    "pool",
    [
        FakePool(running=1, starting=7, num_loads=2, num_errors=3, is_failed=True),  # one of two was preempted
        FakePool(starting=8, num_errors=2),
        FakePool(starting=8, num_loading=7, num_errors=30, is_failed=True),  # all from one bad GPU
        FakePool(starting=1, num_loads=8, num_errors=2),  # in mid-run
        FakePool(num_loads=8, is_failed=True),
    ],
)
def test_pool_that_may_still_start_does_not_fail(pool: FakePool):
    pool.raise_if_failed()


def test_serves_message_ends_with_a_single_period():
    with pytest.raises(GenerationFailedError, match=r"was running after 0 s: it fell over\. Check that the cluster"):
        FakePool(starting=1).wait_until_running(1, timeout_seconds=0)


def of_keeper(error: Exception, monkeypatch: pytest.MonkeyPatch) -> GenerationService:
    """Return a pool whose keeper raises an error."""

    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr("generation.pool.service.ray.get", fail)
    keeper: Any = SimpleNamespace(snapshot=SimpleNamespace(remote=lambda: None))
    return GenerationService("pool", cast(Any, None), keeper)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ActorDiedError(), "its process ended"),
        (
            OutOfMemoryError("killed"),
            r"Ray's memory monitor killed it\. The pool ends with it\. Give that node",
        ),
    ],
)
def test_pool_without_its_keeper_fails(error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(GenerationFailedError, match=f"^The keeper of the pool 'pool', .* was lost: {reason}"):
        of_keeper(error, monkeypatch).counts()


def test_pool_with_an_unreachable_keeper_does_not_fail(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ActorUnavailableError):
        of_keeper(ActorUnavailableError("pool", None), monkeypatch).counts()
