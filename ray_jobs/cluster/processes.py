"""Processes of Ray's on any host of the cluster, by `host:pid`: whether they are there, and their end."""

import os
import socket
from collections.abc import Callable

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

RAYS = "ray::"
"""What the names of Ray's workers begin with: a number that was a worker's may be another process's by now."""


def this_process() -> str:
    """Return this process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def is_there(process: str) -> bool:
    """Return whether a process has not ended."""
    return _on_its_host(process, is_rays)


def kill(process: str) -> bool:
    """End a process without a word; return whether it was there."""
    return _on_its_host(process, kill_if_rays)


def pid_of(process: str) -> int:
    """Return its number on its host."""
    return int(process.rsplit(":", 1)[1])


def is_rays(pid: int) -> bool:
    """Return whether a process of this host is a worker of Ray's."""
    try:
        return " ".join(psutil.Process(pid).cmdline()).startswith(RAYS)
    except psutil.NoSuchProcess:
        return False


def kill_if_rays(pid: int) -> bool:
    """End a process of this host if it is a worker of Ray's."""
    try:
        process = psutil.Process(pid)  # which psutil does not take for another one that has its number by now
        if not is_rays(pid):
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
    there = NodeAffinitySchedulingStrategy(on_host[0], soft=False)
    return ray.get(ray.remote(num_cpus=0)(do).options(scheduling_strategy=there).remote(pid_of(process)))
