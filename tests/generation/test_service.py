"""When a pool is given up, by what Serve says of it and what its actors said. The pool itself: test_pool.py."""

from collections import Counter
from typing import Any

import pytest
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview, DeploymentStatusOverview

from generation.generator import GenerationFailedError
from generation.service import DEPLOYMENT, GenerationCounts, GenerationService


class SeenPool(GenerationService):
    """A pool of which so much is seen."""

    def __init__(self, running: int, starting: int, num_loads: int, num_errors: int, is_failed: bool = False) -> None:
        super().__init__("seen", None, None)  # pyright: ignore[reportArgumentType]
        errors = [f"no memory on GPU {i}" for i in range(num_errors)]
        seen = GenerationCounts(num_loads=Counter(dict.fromkeys(map(str, range(num_loads)), 1)), load_errors=errors)
        status = ApplicationStatus.DEPLOY_FAILED if is_failed else ApplicationStatus.DEPLOYING
        deployment = DeploymentStatusOverview(
            status="UPDATING",  # pyright: ignore[reportArgumentType]
            status_trigger="UNSPECIFIED",  # pyright: ignore[reportArgumentType]
            replica_states={"RUNNING": running, "STARTING": starting},  # pyright: ignore[reportArgumentType]
            message="it fell over",
        )
        overview = ApplicationStatusOverview(
            status=status, message="", last_deployed_time_s=0.0, deployments={DEPLOYMENT: deployment}
        )
        object.__setattr__(self, "counts", lambda: seen)
        object.__setattr__(self, "_status", lambda: overview)


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        ({"starting": 1, "num_loads": 0, "num_errors": 1}, "no memory on GPU 0"),
        ({"starting": 8, "num_loads": 0, "num_errors": 8}, "no memory on GPU 7"),
        ({"starting": 1, "num_loads": 8, "num_errors": 3}, "no memory on GPU 2"),
        ({"starting": 0, "num_loads": 0, "num_errors": 0, "is_failed": True}, "could start: it fell over"),
    ],
)
def test_a_pool_of_which_no_actor_is_up_nor_can_be_is_given_up_with_the_reason(seen: dict[str, Any], message: str):
    with pytest.raises(GenerationFailedError, match=message):
        SeenPool(running=0, **seen).raise_if_failed()


@pytest.mark.parametrize(
    "seen",
    [
        {"running": 1, "starting": 7, "num_loads": 2, "num_errors": 3, "is_failed": True},  # one of two was preempted
        {"running": 0, "starting": 8, "num_loads": 0, "num_errors": 7},  # the eighth may load its model
        {"running": 0, "starting": 1, "num_loads": 8, "num_errors": 2},  # in mid-run Serve tries on
        {"running": 0, "starting": 0, "num_loads": 8, "num_errors": 0, "is_failed": True},
    ],
)
def test_a_pool_that_may_still_make_images_is_not_given_up(seen: dict[str, Any]):
    SeenPool(**seen).raise_if_failed()
