"""The autoscaling policy that Ray Serve's controller calls for a pool's size: it polls the pool's keeper.

It also ends a pool whose keeper has ended.

Serve pickles this module by value, since the controller may run older code than the job that starts a pool. It imports
only Ray.
"""

import contextlib
import threading
import time
from concurrent.futures import Future
from typing import Any, cast

import ray
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.config import AutoscalingContext

POLL_SECONDS = 1.0
MAX_FAILED_POLLS = 3
"""A pool is ended once its keeper was not found this many times in a row."""

NUM_KILL_ROUNDS = 10
"""Rounds of killing an ended pool's actors: Serve may replace killed actors until it acts on the deletion."""


class KeeperPolicy:
    """A Serve autoscaling policy that returns the keeper's latest decision without waiting for it."""

    def __init__(self, name: str, namespace: str) -> None:
        self.name = name
        self.namespace = namespace
        self.pending: Future | None = None
        self.polled_at = 0.0
        self.polled_while_empty = False
        self.num_not_found = 0
        self.size: int | None = None

    def __call__(self, pool: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Return the target number of actors; keep Serve's target until the keeper has answered."""
        if self.polled_while_empty and pool.current_num_replicas:
            # Serve itself starts an empty pool's first actor; a decision from before that would remove it again.
            self.pending, self.polled_at, self.polled_while_empty, self.size = None, 0.0, False, None
        if self.pending is not None and self.pending.done():
            if self.pending.exception() is None:  # else the keeper has ended, and so will the pool
                self.size = self.pending.result()
            self.pending = None
        if self.pending is None and time.monotonic() - self.polled_at >= POLL_SECONDS:
            self.polled_at, self.polled_while_empty = time.monotonic(), not pool.current_num_replicas
            self.pending = self._poll(pool)
        return pool.target_num_replicas if self.size is None else self.size, {}

    def _poll(self, pool: AutoscalingContext) -> Future | None:
        try:
            keeper = ray.get_actor(self.name, self.namespace)
        except ValueError:  # also raised when the look-up itself failed, for example while Ray's head restarts
            self.num_not_found += 1
            if self.num_not_found >= MAX_FAILED_POLLS:
                end_pool(str(pool.app_name))
            return None
        self.num_not_found = 0
        return keeper.size.remote(pool.current_num_replicas, pool.total_num_requests).future()


def end_pool(app_name: str) -> None:
    """End a pool whose keeper has ended, for example because the driver was killed. Runs in the controller's process.

    Running actors end the pool too (`GeneratorReplica.check_health`), but while the pool waits for nodes there may be
    none. Actors are killed because Serve would wait for unscheduled actors as long as for running batches.
    """

    def end() -> None:
        controller = ray.get_actor(SERVE_CONTROLLER_NAME, SERVE_NAMESPACE)
        ray.get(controller.delete_apps.remote([app_name]))
        for _ in range(NUM_KILL_ROUNDS):
            kill_actors(app_name)
            time.sleep(POLL_SECONDS)

    threading.Thread(target=end, daemon=True).start()


def kill_actors(app_name: str) -> None:
    """Kill all actors of a pool, including unscheduled actors; they are found by the names that Serve gives them."""
    for actor in cast(list[dict[str, str]], ray.util.list_named_actors(all_namespaces=True)):
        if actor["name"].startswith(f"SERVE_REPLICA::{app_name}#"):
            with contextlib.suppress(ValueError):  # it has ended meanwhile
                ray.kill(ray.get_actor(actor["name"], actor["namespace"]))
