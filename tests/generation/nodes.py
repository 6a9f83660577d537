"""Nodes that join the cluster of the session."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray

from ray_jobs.local_nodes import NodeSize, local_nodes


@contextmanager
def joined_node(num_cpus: int, num_gpus: int = 0, labels: dict[str, str] | None = None) -> Iterator[Callable[[], None]]:
    """Join a node to the cluster, and yield what kills all its processes."""
    with local_nodes(1, NodeSize(num_cpus, num_gpus, labels or {})) as (node,):
        yield node.kill


def num_alive() -> int:
    """Return how many nodes the cluster has."""
    return sum(node["Alive"] for node in ray.nodes())


@contextmanager
def blocking_node(labels: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Join a node as clusters do, by `ray start --block`, and yield that process, which is to get signals."""
    shown = ",".join(f"{name}={value}" for name, value in labels.items())
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=2", "--num-gpus=0"),
        f"--address={ray.get_runtime_context().gcs_address}",
        *("--node-ip-address=127.0.0.1", "--disable-usage-stats", f"--labels={shown}"),
    ]
    num_before = num_alive()
    node = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        give_up_at = time.monotonic() + 60
        while num_alive() <= num_before and time.monotonic() < give_up_at:
            time.sleep(0.2)
        yield node
    finally:
        if node.poll() is None:
            os.killpg(node.pid, signal.SIGKILL)
            node.wait()
