"""Ray nodes as local processes that can be killed, paused and resumed.

The equivalent of `ray.cluster_utils` for a running cluster.
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
"""Timeout for a node to join the cluster, or for the cluster to notice that it left."""

STORE_BYTES = 500_000_000
"""Size of a node's object store; by default each node would take its share of the whole machine's memory."""


@dataclass(frozen=True)
class NodeSize:
    """A node's resources and labels; GPUs are logical."""

    num_cpus: int
    num_gpus: int
    labels: dict[str, str] = field(default_factory=dict)


def node_params(gcs_address: str, size: NodeSize) -> RayParams:
    """Return Ray's start parameters for a node."""
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
    """A local Ray node beside the one this process runs on."""

    def __init__(self, size: NodeSize) -> None:
        """Start the node, and return once it has joined the cluster."""
        params = node_params(ray.get_runtime_context().gcs_address, size)
        self.node = Node(params, head=False, shutdown_at_exit=False, spawn_reaper=False)
        self._paused: list[psutil.Process] = []
        try:
            self._wait_until(self.is_alive, "join")
        except BaseException:
            self.leave()
            raise

    def _wait_until(self, is_done: Callable[[], bool], action: str) -> None:
        deadline = time.monotonic() + JOIN_SECONDS
        while not is_done():
            if time.monotonic() > deadline:
                raise TimeoutError(f"A local node did not {action} the cluster within {JOIN_SECONDS:g} s.")
            time.sleep(0.2)

    @property
    def name(self) -> str:
        """The node's id in the cluster."""
        return str(self.node.node_id)

    def is_alive(self) -> bool:
        """Return whether the cluster lists the node as alive."""
        return any(node["Alive"] and node["NodeID"] == self.name for node in ray.nodes())

    def processes(self) -> list[psutil.Process]:
        """Return the node's own processes and those of its actors and tasks."""
        own = [psutil.Process(info.process.pid) for infos in self.node.all_processes.values() for info in infos]
        return [each for process in own for each in (process, *process.children(recursive=True))]

    def kill(self) -> None:
        """Kill all of the node's processes."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.node.kill_all_processes(check_alive=False, allow_graceful=False)

    def leave(self) -> None:
        """Shut the node down gracefully, if it is still running; return once the cluster lists it as dead."""
        self.node.kill_all_processes(check_alive=False, allow_graceful=True)
        self._wait_until(lambda: not self.is_alive(), "leave")

    def pause(self) -> None:
        """Suspend all of the node's processes."""
        self._paused = self.processes()
        for process in self._paused:
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def resume(self) -> None:
        """Resume the suspended processes."""
        for process in self._paused:
            with suppress(psutil.NoSuchProcess):
                process.resume()


@contextmanager
def local_nodes(number: int, size: NodeSize) -> Iterator[list[LocalNode]]:
    """Add `number` nodes to the cluster; on exit, shut down every node in the list."""
    nodes: list[LocalNode] = []
    try:
        for _ in range(number):
            nodes.append(LocalNode(size))
        yield nodes
    finally:
        with ExitStack() as leaving:  # shut down all, even if one times out
            for node in nodes:
                leaving.callback(node.leave)
