"""Nodes of a cluster that are processes of this machine, and may be lost or stand still. Knows not what they hold.

As `ray.cluster_utils` does it, for a cluster that is there already.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

import psutil
import ray
from ray._private.node import Node
from ray._private.parameter import RayParams

JOIN_SECONDS = 60.0
"""The longest that a node may take to join, or to be missed."""

STORE_BYTES = 500_000_000
"""A node's object store: by itself each would take a share of the machine's memory as if it had it alone."""


@dataclass(frozen=True)
class NodeSize:
    """What a node offers; its GPUs are only counted."""

    num_cpus: int
    num_gpus: int
    labels: dict[str, str] = field(default_factory=dict)


def node_params(gcs_address: str, size: NodeSize) -> RayParams:
    """Return what Ray starts such a node by."""
    return RayParams(
        gcs_address=gcs_address,
        node_ip_address="127.0.0.1",
        num_cpus=size.num_cpus,
        num_gpus=size.num_gpus,
        labels=size.labels,
        object_store_memory=STORE_BYTES,
        node_manager_port=0,
        include_log_monitor=False,  # pyright: ignore[reportArgumentType]
    )


class LocalNode:
    """One node, beside the one this process is on."""

    def __init__(self, size: NodeSize) -> None:
        """Start it, and return when the cluster has it."""
        params = node_params(ray.get_runtime_context().gcs_address, size)
        self.node = Node(params, head=False, shutdown_at_exit=False, spawn_reaper=False)
        self._paused: list[psutil.Process] = []
        try:
            self._wait_until(self.is_alive, "join")
        except BaseException:
            self.leave()
            raise

    def _wait_until(self, is_done: Callable[[], bool], action: str) -> None:
        give_up_at = time.monotonic() + JOIN_SECONDS
        while not is_done():
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"A local node did not {action} the cluster within {JOIN_SECONDS:g} s.")
            time.sleep(0.2)

    @property
    def name(self) -> str:
        """What the cluster calls it."""
        return str(self.node.node_id)

    def is_alive(self) -> bool:
        """Return whether the cluster has it."""
        return any(node["Alive"] and node["NodeID"] == self.name for node in ray.nodes())

    def processes(self) -> list[psutil.Process]:
        """Return its own processes, and those of the actors and tasks on it."""
        own = [psutil.Process(info.process.pid) for infos in self.node.all_processes.values() for info in infos]
        return [each for process in own for each in (process, *process.children(recursive=True))]

    def kill(self) -> None:
        """End all of it without a word."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.node.kill_all_processes(check_alive=False, allow_graceful=False)

    def leave(self) -> None:
        """End it, if it has not ended, in order; return when the cluster knows, which places nothing on it any more."""
        self.node.kill_all_processes(check_alive=False, allow_graceful=True)
        self._wait_until(lambda: not self.is_alive(), "leave")

    def pause(self) -> None:
        """Let all of it stand still."""
        self._paused = self.processes()
        for process in self._paused:
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def resume(self) -> None:
        """Let it go on."""
        for process in self._paused:
            with suppress(psutil.NoSuchProcess):
                process.resume()


@contextmanager
def local_nodes(number: int, size: NodeSize) -> Iterator[list[LocalNode]]:
    """Have so many nodes in the cluster; whatever is in the list at the end is ended."""
    nodes: list[LocalNode] = []
    try:
        for _ in range(number):
            nodes.append(LocalNode(size))
        yield nodes
    finally:
        with ExitStack() as leaving:  # all of them, though one should not be missed in time
            for node in nodes:
                leaving.callback(node.leave)
