"""When a pool is given up, by what Serve says of it and what its actors said. The pool itself: test_pool.py."""

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
class SeenPool(GenerationService):
    """A pool of which so much is seen."""

    app_name: str = "seen"
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
    ("seen", "message"),
    [
        (SeenPool(starting=1, num_errors=1), "no memory on GPU 0"),
        (SeenPool(starting=8, num_errors=3), "no memory on GPU 2"),
        (SeenPool(starting=1, num_loads=8, num_errors=3), "no memory on GPU 2"),
        (SeenPool(is_failed=True), "could start: it fell over"),
    ],
)
def test_a_pool_of_which_no_actor_is_up_nor_comes_to_be_is_given_up_with_the_reason(seen: SeenPool, message: str):
    with pytest.raises(GenerationFailedError, match=message):
        seen.raise_if_failed()


@pytest.mark.parametrize(
    "seen",
    [
        SeenPool(running=1, starting=7, num_loads=2, num_errors=3, is_failed=True),  # one of two was preempted
        SeenPool(starting=8, num_errors=2),
        SeenPool(starting=8, num_loading=7, num_errors=30, is_failed=True),  # of one bad GPU, tried again and again
        SeenPool(starting=1, num_loads=8, num_errors=2),  # in mid-run
        SeenPool(num_loads=8, is_failed=True),
    ],
)
def test_a_pool_that_may_still_make_images_is_not_given_up(seen: SeenPool):
    seen.raise_if_failed()


def test_what_serve_says_of_a_pool_that_is_late_ends_its_sentence_once():
    with pytest.raises(GenerationFailedError, match=r"was running after 0 s: it fell over\. Check that the cluster"):
        SeenPool(starting=1).wait_until_running(1, timeout_seconds=0)


def of_keeper(error: Exception, monkeypatch: pytest.MonkeyPatch) -> GenerationService:
    """Return a pool whose keeper answers with an error."""

    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr("generation.pool.service.ray.get", fail)
    keeper: Any = SimpleNamespace(snapshot=SimpleNamespace(remote=lambda: None))
    return GenerationService("seen", cast(Any, None), keeper)


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
def test_a_pool_whose_keeper_is_gone_has_failed_and_says_where(
    error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(GenerationFailedError, match=f"^The keeper of the pool 'seen', .* is gone: {reason}"):
        of_keeper(error, monkeypatch).counts()


def test_a_pool_whose_keeper_cannot_be_reached_for_a_while_has_not_failed(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ActorUnavailableError):
        of_keeper(ActorUnavailableError("seen", None), monkeypatch).counts()
