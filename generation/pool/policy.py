"""What Ray Serve's controller asks how many actors a pool is to have: it hands the question to the pool's keeper.

It also ends a pool whose keeper is gone.

Serve pickles this module by value, since the controller may be older than the code of the job that starts a pool: it
imports Ray alone.
"""

import contextlib
import threading
import time
from concurrent.futures import Future
from typing import Any, cast

import ray
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.config import AutoscalingContext

LOOK_SECONDS = 1.0
LOOKS_BEFORE_END = 3
"""A pool is ended when its keeper was not found so many times in a row."""

LOOKS_WHILE_ENDING = 10
"""Looks for actors of a pool that is being ended: Serve may replace those killed before it acts on the deletion."""


class KeeperPolicy:
    """An autoscaling policy of Serve: the keeper's last answer, which is never waited for."""

    def __init__(self, name: str, namespace: str) -> None:
        self.name = name
        self.namespace = namespace
        self.asked: Future | None = None
        self.asked_at = 0.0
        self.asked_of_none = False
        self.num_not_found = 0
        self.size: int | None = None

    def __call__(self, pool: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Return how many actors there are to be; as many as there were to be, until the keeper has answered."""
        if self.asked_of_none and pool.current_num_replicas:
            # Serve itself brings an empty pool's first actor: what was answered before that would take it back.
            self.asked, self.asked_at, self.asked_of_none, self.size = None, 0.0, False, None
        if self.asked is not None and self.asked.done():
            if self.asked.exception() is None:  # else the keeper is gone, and the pool goes with it
                self.size = self.asked.result()
            self.asked = None
        if self.asked is None and time.monotonic() - self.asked_at >= LOOK_SECONDS:
            self.asked_at, self.asked_of_none = time.monotonic(), not pool.current_num_replicas
            self.asked = self._ask(pool)
        return pool.target_num_replicas if self.size is None else self.size, {}

    def _ask(self, pool: AutoscalingContext) -> Future | None:
        try:
            keeper = ray.get_actor(self.name, self.namespace)
        except ValueError:  # Ray also says so of a look-up that failed, such as while its head starts anew
            self.num_not_found += 1
            if self.num_not_found >= LOOKS_BEFORE_END:
                end_pool(str(pool.app_name))
            return None
        self.num_not_found = 0
        return keeper.size.remote(pool.current_num_replicas, pool.total_num_requests).future()


def end_pool(app_name: str) -> None:
    """End a pool whose keeper is gone, as it is when the driver was killed; called in the controller's own process.

    Its actors do the same (`GeneratorReplica.check_health`), but none may be up yet, while nodes are awaited: Serve
    would wait for those that have no place as it does for last batches.
    """

    def end() -> None:
        controller = ray.get_actor(SERVE_CONTROLLER_NAME, SERVE_NAMESPACE)
        ray.get(controller.delete_apps.remote([app_name]))
        for _ in range(LOOKS_WHILE_ENDING):
            kill_actors(app_name)
            time.sleep(LOOK_SECONDS)

    threading.Thread(target=end, daemon=True).start()


def kill_actors(app_name: str) -> None:
    """End all actors of a pool, those included that wait for a place: Serve gives each a name."""
    for actor in cast(list[dict[str, str]], ray.util.list_named_actors(all_namespaces=True)):
        if actor["name"].startswith(f"SERVE_REPLICA::{app_name}#"):
            with contextlib.suppress(ValueError):  # gone meanwhile
                ray.kill(ray.get_actor(actor["name"], actor["namespace"]))
