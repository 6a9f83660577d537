"""Nodes that join the cluster of the session."""

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
from ray._private.parameter import RayParams

from generation.model_files import PROJECT_ROOT


@contextmanager
def joined_node(num_cpus: int, num_gpus: int = 0, labels: dict[str, str] | None = None) -> Iterator[Callable[[], None]]:
    """Join a node to the cluster, as `ray.cluster_utils` does, and yield what kills all its processes."""
    params = node_params(ray.get_runtime_context().gcs_address, num_cpus, num_gpus, labels)
    num_before = num_alive()
    node = Node(params, head=False, shutdown_at_exit=False, spawn_reaper=False)
    try:
        wait_for_nodes(num_before + 1)
        yield lambda: node.kill_all_processes(check_alive=False, allow_graceful=False)
    finally:
        node.kill_all_processes(check_alive=False, allow_graceful=False)


def num_alive() -> int:
    """Return how many nodes the cluster has."""
    return sum(node["Alive"] for node in ray.nodes())


@contextmanager
def leaving_node(labels: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Join a node that a process of its own has started, and yield that process, which is to get signals.

    It does what `ray start --block` does, which refuses a cluster that listens on loopback alone.
    """
    address = ray.get_runtime_context().gcs_address
    num_before = num_alive()
    command = [sys.executable, "-m", "tests.generation.nodes", address, json.dumps(labels)]
    node = subprocess.Popen(command, cwd=PROJECT_ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for_nodes(num_before + 1)
        yield node
    finally:
        if node.poll() is None:
            os.killpg(node.pid, signal.SIGKILL)
            node.wait()


def wait_for_nodes(number: int) -> None:
    """Return when the cluster has so many."""
    give_up_at = time.monotonic() + 60
    while num_alive() < number:
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"The cluster has {num_alive()} nodes, not {number}.")
        time.sleep(0.2)


def node_params(gcs_address: str, num_cpus: int, num_gpus: int, labels: dict[str, str] | None) -> RayParams:
    """Return what a node of this machine is started by."""
    return RayParams(
        gcs_address=gcs_address,
        node_ip_address="127.0.0.1",
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        labels=labels,
        node_manager_port=0,
        include_log_monitor=False,  # pyright: ignore[reportArgumentType]
    )


if __name__ == "__main__":
    Node(node_params(sys.argv[1], 2, 0, json.loads(sys.argv[2])), head=False, shutdown_at_exit=True, spawn_reaper=False)
    while True:
        time.sleep(1)
