"""Inject faults on a schedule while a pool generates: kill processes, kill nodes, pause nodes.

The schedule depends on the settings only. The victims also depend on the processes and nodes that exist when a fault is
injected.
"""

import dataclasses
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from ray_jobs.cli.scale_config import FaultKind, FaultsConfig
from ray_jobs.cluster.local_nodes import LocalNode, NodeSize
from ray_jobs.cluster.processes import is_running, kill, pid_of
from ray_jobs.scaling.background import Background

POLL_SECONDS = 0.05
"""Polling interval while waiting for the trainer's first batch."""


@dataclass(frozen=True, order=True)
class Fault:
    """A fault to inject."""

    at_seconds: float
    """Time since the trainer's first batch."""

    kind: FaultKind
    position: float
    """Relative position of the victim in the list of possible victims, 0..1."""


def schedule(config: FaultsConfig) -> list[Fault]:
    """Return all faults in time order. Faults of one kind are evenly spaced; the first comes after half an interval."""
    draw = random.Random(config.seed)
    faults = []
    for kind, rate in config.per_minute.items():
        number = round(config.seconds * rate / 60)
        faults += [Fault((i + 0.5) * 60 / rate, kind, draw.random()) for i in range(number)]
    return sorted(faults)


@dataclass(frozen=True)
class FaultEvent:
    """An injected fault."""

    kind: FaultKind
    began_at: float
    """Unix time of the injection, in seconds."""

    victim: str
    num_actors: int = 0
    """Number of generator actors affected."""

    ended_at: float | None = None
    """Unix time of the end of a pause, in seconds; None for kills and lost nodes."""

    def since(self, at: float) -> "FaultEvent":
        """Return the event with its times in seconds since the Unix time `at`."""
        ended_at = None if self.ended_at is None else self.ended_at - at
        return dataclasses.replace(self, began_at=self.began_at - at, ended_at=ended_at)


Victim = TypeVar("Victim")


def pick_victim(victims: Sequence[Victim], position: float) -> Victim | None:
    """Return the victim at a relative position, 0..1; None if the list is empty."""
    return victims[min(int(position * len(victims)), len(victims) - 1)] if victims else None


@dataclass
class FaultInjector:
    """Injects the scheduled faults and records them."""

    config: FaultsConfig
    generators: Callable[[], list[str]]
    """Returns the processes of generator actors as `host:pid`, possibly including dead processes."""

    trainer: Callable[[], str]
    """Returns the trainer's process as `host:pid`."""

    first_batch_at: Callable[[], float | None]
    """Returns the Unix time of the trainer's first batch, in seconds; None before that batch."""

    nodes: list[LocalNode]
    """Nodes that the job started. Lost nodes are removed, and their replacements are appended."""

    node_size: NodeSize
    events: list[FaultEvent] = field(default_factory=list)
    _paused: list[LocalNode] = field(default_factory=list)

    _background: Background = field(default_factory=Background)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Inject the scheduled faults while the body runs; when the body ends, paused nodes are resumed."""
        with self._background:
            self._background.start(self._run)
            yield

    def _run(self) -> None:
        """Wait for the first batch, then inject each fault at its time."""
        if not (faults := schedule(self.config)):
            return
        while (began_at := self.first_batch_at()) is None:
            if self._background.stopped.wait(POLL_SECONDS):
                return
        for fault in faults:
            if self._background.stopped.wait(max(0.0, began_at + fault.at_seconds - time.time())):
                return
            self._inject(fault)

    def _inject(self, fault: Fault) -> None:
        if fault.kind == "actor_kill":
            self._kill(fault.kind, pick_victim(self._actors(), fault.position), num_actors=1)
        elif fault.kind == "trainer_kill":
            self._kill(fault.kind, self.trainer(), num_actors=0)
        elif node := pick_victim([node for node in self.nodes if node not in self._paused], fault.position):
            event = FaultEvent(fault.kind, time.time(), node.name, self._num_actors_on(node))
            (self._drop if fault.kind == "node_drop" else self._delay)(node, event)

    def _actors(self) -> list[str]:
        """Return the running processes of generator actors as `host:pid`."""
        return sorted(process for process in self.generators() if is_running(process))

    def _num_actors_on(self, node: LocalNode) -> int:
        pids = {process.pid for process in node.processes()}
        return sum(pid_of(process) in pids for process in self._actors())

    def _kill(self, kind: FaultKind, process: str | None, num_actors: int) -> None:
        at = time.time()
        if process is not None and kill(process):
            self.events.append(FaultEvent(kind, at, process, num_actors))

    def _drop(self, node: LocalNode, event: FaultEvent) -> None:
        self.events.append(event)
        self.nodes.remove(node)
        node.kill()
        self._background.start(self._add_node)

    def _add_node(self) -> None:
        """Start a replacement node after `node_return_seconds`; runs in its own thread, and does not delay faults."""
        if not self._background.stopped.wait(self.config.node_return_seconds):
            self.nodes.append(LocalNode(self.node_size))

    def _delay(self, node: LocalNode, event: FaultEvent) -> None:
        node.pause()
        self._paused.append(node)
        self._background.start(partial(self._resume, node, event))

    def _resume(self, node: LocalNode, event: FaultEvent) -> None:
        """Resume a node after `delay_seconds`, or at once when the run ends."""
        self._background.stopped.wait(self.config.delay_seconds)
        node.resume()
        self._paused.remove(node)
        self.events.append(dataclasses.replace(event, ended_at=time.time()))
