"""Nodes that join the session's cluster."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray
from ray._private.node import Node

from generation.recipes.model_files import PROJECT_ROOT
from ray_jobs.cluster.local_nodes import NodeSize, local_nodes, node_params


@contextmanager
def joined_node(num_cpus: int, num_gpus: int = 0, labels: dict[str, str] | None = None) -> Iterator[Callable[[], None]]:
    """Add a node to the cluster; yield a function that kills all its processes."""
    with local_nodes(1, NodeSize(num_cpus, num_gpus, labels or {})) as (node,):
        yield node.kill


def num_alive() -> int:
    """Return the number of live nodes in the cluster."""
    return sum(node["Alive"] for node in ray.nodes())


@contextmanager
def leaving_node(labels: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Add a node started by a separate process; yield that process, to which tests send signals.

    It works like `ray start --block`, which refuses clusters that listen on loopback only.
    """
    address = ray.get_runtime_context().gcs_address
    num_before, give_up_at = num_alive(), time.monotonic() + 60
    command = [sys.executable, "-m", "tests.support.nodes", address, json.dumps(labels)]
    node = subprocess.Popen(command, cwd=PROJECT_ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        while num_alive() <= num_before:
            assert time.monotonic() < give_up_at
            time.sleep(0.2)
        yield node
    finally:
        if node.poll() is None:
            os.killpg(node.pid, signal.SIGKILL)
            node.wait()


if __name__ == "__main__":
    params = node_params(sys.argv[1], NodeSize(2, 0, json.loads(sys.argv[2])))
    Node(params, head=False, shutdown_at_exit=True, spawn_reaper=False)
    while True:
        time.sleep(1)
