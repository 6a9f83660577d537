"""Ray worker processes on any host of the cluster, identified by `host:pid`: whether they run, and how to kill them."""

import os
import socket
from collections.abc import Callable

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

WORKER_PREFIX = "ray::"
"""Start of a Ray worker's command line; the pid of an ended worker may belong to another process by now."""


def this_process() -> str:
    """Return this process as `host:pid`."""
    return f"{socket.gethostname()}:{os.getpid()}"


def is_running(process: str) -> bool:
    """Return whether a worker is still running."""
    return _on_its_host(process, is_ray_worker)


def kill(process: str) -> bool:
    """Kill a worker with SIGKILL; return whether it was running."""
    return _on_its_host(process, kill_if_ray_worker)


def pid_of(process: str) -> int:
    """Return the pid of a `host:pid`."""
    return int(process.rsplit(":", 1)[1])


def is_ray_worker(pid: int) -> bool:
    """Return whether a process of this host is a Ray worker."""
    try:
        return " ".join(psutil.Process(pid).cmdline()).startswith(WORKER_PREFIX)
    except psutil.NoSuchProcess:
        return False


def kill_if_ray_worker(pid: int) -> bool:
    """Kill a process of this host if it is a Ray worker; return whether it was."""
    try:
        process = psutil.Process(pid)  # psutil checks that the pid was not reused
        if not is_ray_worker(pid):
            return False
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return True


def _on_its_host(process: str, do: Callable[[int], bool]) -> bool:
    host = process.rsplit(":", 1)[0]
    if host == socket.gethostname():
        return do(pid_of(process))
    on_host = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeManagerHostname"] == host]
    if not on_host:
        return False
    on_its_node = NodeAffinitySchedulingStrategy(on_host[0], soft=False)
    return ray.get(ray.remote(num_cpus=0)(do).options(scheduling_strategy=on_its_node).remote(pid_of(process)))
