"""What goes wrong on a schedule while a pool is at work: processes that are killed, nodes that are lost or stand still.

The schedule is a function of the settings; only whom it hits depends on who is there.
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

LOOK_SECONDS = 0.05
"""How often it is looked whether the trainer has its first batch."""


@dataclass(frozen=True, order=True)
class Fault:
    """Something that is to go wrong."""

    at_seconds: float
    """Since the trainer's first batch."""

    kind: FaultKind
    place: float
    """0..1: whom it hits, among those who are there in their order."""


def schedule(config: FaultsConfig) -> list[Fault]:
    """Return what goes wrong, in the order of time: each kind at equal distances, its first after half of one."""
    draw = random.Random(config.seed)
    faults = []
    for kind, rate in config.per_minute.items():
        number = round(config.seconds * rate / 60)
        faults += [Fault((i + 0.5) * 60 / rate, kind, draw.random()) for i in range(number)]
    return sorted(faults)


@dataclass(frozen=True)
class Struck:
    """Something that went wrong."""

    kind: FaultKind
    began_at: float
    """In seconds of `time.time()`."""

    victim: str
    num_actors: int = 0
    """Generator actors that were hit."""

    ended_at: float | None = None
    """When it was over, where that was up to who did it."""

    def since(self, at: float) -> "Struck":
        """Return it with its moments counted from another one."""
        ended_at = None if self.ended_at is None else self.ended_at - at
        return dataclasses.replace(self, began_at=self.began_at - at, ended_at=ended_at)


Victim = TypeVar("Victim")


def chosen(victims: Sequence[Victim], place: float) -> Victim | None:
    """Return the victim at a place, None if there is none."""
    return victims[min(int(place * len(victims)), len(victims) - 1)] if victims else None


@dataclass
class FaultInjector:
    """What is to go wrong, whom it may hit, and what went wrong so far."""

    config: FaultsConfig
    generators: Callable[[], list[str]]
    """Returns the processes of generators as `host:pid`, dead ones perhaps included."""

    trainer: Callable[[], str]
    """Returns the trainer's."""

    first_batch_at: Callable[[], float | None]
    """Returns when the trainer had its first batch, in seconds of `time.time()`; None before."""

    nodes: list[LocalNode]
    """Those that the job started; one that comes in a lost one's place joins the list."""

    node_size: NodeSize
    struck: list[Struck] = field(default_factory=list)
    _paused: list[LocalNode] = field(default_factory=list)
    """Nodes that stand still."""

    _beside: Background = field(default_factory=Background)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Let go wrong meanwhile what is scheduled; at the body's end all that stood still is at work again."""
        with self._beside:
            self._beside.start(self._run)
            yield

    def _run(self) -> None:
        """Wait for the first batch, then for each fault's time."""
        if not (faults := schedule(self.config)):
            return
        while (began_at := self.first_batch_at()) is None:
            if self._beside.is_over.wait(LOOK_SECONDS):
                return
        for fault in faults:
            if self._beside.is_over.wait(max(0.0, began_at + fault.at_seconds - time.time())):
                return
            self._strike(fault)

    def _strike(self, fault: Fault) -> None:
        if fault.kind == "actor_kill":
            self._kill(fault.kind, chosen(self._actors(), fault.place), num_actors=1)
        elif fault.kind == "trainer_kill":
            self._kill(fault.kind, self.trainer(), num_actors=0)
        elif node := chosen([node for node in self.nodes if node not in self._paused], fault.place):
            struck = Struck(fault.kind, time.time(), node.name, self._num_actors_on(node))
            (self._drop if fault.kind == "node_drop" else self._delay)(node, struck)

    def _actors(self) -> list[str]:
        """Return the processes of generators that are there."""
        return sorted(process for process in self.generators() if is_running(process))

    def _num_actors_on(self, node: LocalNode) -> int:
        there = {process.pid for process in node.processes()}
        return sum(pid_of(process) in there for process in self._actors())

    def _kill(self, kind: FaultKind, process: str | None, num_actors: int) -> None:
        at = time.time()
        if process is not None and kill(process):
            self.struck.append(Struck(kind, at, process, num_actors))

    def _drop(self, node: LocalNode, struck: Struck) -> None:
        self.struck.append(struck)
        self.nodes.remove(node)
        node.kill()
        self._beside.start(self._bring)

    def _bring(self) -> None:
        """Start a node after a while; others have their time meanwhile."""
        if not self._beside.is_over.wait(self.config.node_return_seconds):
            self.nodes.append(LocalNode(self.node_size))

    def _delay(self, node: LocalNode, struck: Struck) -> None:
        node.pause()
        self._paused.append(node)
        self._beside.start(partial(self._resume, node, struck))

    def _resume(self, node: LocalNode, struck: Struck) -> None:
        """Let a node go on after a while."""
        self._beside.is_over.wait(self.config.delay_seconds)
        node.resume()
        self._paused.remove(node)
        self.struck.append(dataclasses.replace(struck, ended_at=time.time()))
