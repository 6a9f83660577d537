"""What goes wrong on a schedule while a pool is at work: processes that are killed, nodes that are lost or stand still.

The schedule is a function of the settings; only whom it hits depends on who is there.
"""

import dataclasses
import heapq
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar

from ray_jobs.cluster.local_nodes import LocalNode, NodeSize
from ray_jobs.cluster.processes import is_there, kill, pid_of
from ray_jobs.scaling.config import FaultsConfig

Kind = Literal["actor_kill", "trainer_kill", "node_drop", "node_delay"]

LOOK_SECONDS = 0.05
"""How often it is looked whether there is something to do."""


@dataclass(frozen=True, order=True)
class Fault:
    """Something that is to go wrong."""

    at_seconds: float
    """Since the trainer's first batch."""

    kind: Kind
    place: float
    """0..1: whom it hits, among those who are there in their order."""


def schedule(config: FaultsConfig) -> list[Fault]:
    """Return what goes wrong, in the order of time: each kind at equal distances, its first after half of one."""
    draw = random.Random(config.seed)
    per_minute: dict[Kind, float] = {
        "actor_kill": config.num_actors * config.actor_kills_per_minute,
        "trainer_kill": config.trainer_kills_per_minute,
        "node_drop": config.node_drops_per_minute,
        "node_delay": config.node_delays_per_minute,
    }
    faults = []
    for kind, rate in per_minute.items():
        number = round(config.seconds * rate / 60)
        faults += [Fault((i + 0.5) * 60 / rate, kind, draw.random()) for i in range(number)]
    return sorted(faults)


@dataclass(frozen=True)
class Struck:
    """Something that went wrong."""

    kind: Kind
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


@dataclass(frozen=True)
class Surroundings:
    """What faults may hit."""

    generators: Callable[[], list[str]]
    """Returns the processes of generators as `host:pid`, dead ones perhaps included."""

    trainer: Callable[[], str]
    """Returns the trainer's."""

    nodes: list[LocalNode]
    """Those that the job started; one that comes in a lost one's place joins the list."""

    node_size: NodeSize

    def actors(self) -> list[str]:
        """Return the processes of generators that are there."""
        return sorted(process for process in self.generators() if is_there(process))

    def num_actors_on(self, node: LocalNode) -> int:
        """Return how many generators a node holds."""
        there = {process.pid for process in node.processes()}
        return sum(pid_of(process) in there for process in self.actors())


class FaultInjector:
    """A context: while it is open, a thread lets go wrong what is scheduled, from the trainer's first batch on."""

    def __init__(self, config: FaultsConfig, around: Surroundings, first_batch_at: Callable[[], float | None]) -> None:
        """Take what is to go wrong, whom it may hit, and what tells when the first batch came."""
        self.config = config
        self.around = around
        self.struck: list[Struck] = []
        self._first_batch_at = first_batch_at
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._num_planned = 0
        self._paused: list[tuple[LocalNode, float, int]] = []
        """Nodes that stand still, since when, and how many actors each holds."""

        self._bringing: list[threading.Thread] = []
        self._closing = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._told, args=(self._run,), daemon=True)

    def __enter__(self) -> "FaultInjector":
        """Start."""
        self._thread.start()
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        """Stop, with all that stood still at work again; raises what the thread ended with."""
        self._closing.set()
        for thread in (self._thread, *self._bringing):
            thread.join()
        for node, began_at, num_actors in list(self._paused):
            self._resume(node, began_at, num_actors)
        if self._error is not None and error_type is None:
            raise self._error

    def _told(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self._error = error

    def _run(self) -> None:
        faults = schedule(self.config)
        began_at = self._first_batch_at() if faults else 0.0
        while began_at is None:
            if self._closing.wait(LOOK_SECONDS):
                return
            began_at = self._first_batch_at()
        for fault in faults:
            self._plan(began_at + fault.at_seconds, partial(self._strike, fault))
        while self._due and not self._closing.wait(LOOK_SECONDS):
            while self._due and self._due[0][0] <= time.time():
                heapq.heappop(self._due)[2]()

    def _plan(self, at: float, do: Callable[[], None]) -> None:
        self._num_planned += 1
        heapq.heappush(self._due, (at, self._num_planned, do))

    def _strike(self, fault: Fault) -> None:
        if fault.kind == "actor_kill":
            self._kill(fault.kind, chosen(self.around.actors(), fault.place), num_actors=1)
        elif fault.kind == "trainer_kill":
            self._kill(fault.kind, self.around.trainer(), num_actors=0)
        elif node := chosen(self._nodes_at_work(), fault.place):
            (self._drop if fault.kind == "node_drop" else self._delay)(node)

    def _nodes_at_work(self) -> list[LocalNode]:
        paused = [node for node, _, _ in self._paused]
        return [node for node in self.around.nodes if node not in paused]

    def _kill(self, kind: Kind, process: str | None, num_actors: int) -> None:
        at = time.time()
        if process is not None and kill(process):
            self.struck.append(Struck(kind, at, process, num_actors))

    def _drop(self, node: LocalNode) -> None:
        self.struck.append(Struck("node_drop", time.time(), node.name, self.around.num_actors_on(node)))
        self.around.nodes.remove(node)
        node.kill()
        self._plan(time.time() + self.config.node_return_seconds, self._bring)

    def _bring(self) -> None:
        """Start a node in a thread of its own: others have their time meanwhile."""
        self._bringing.append(threading.Thread(target=self._told, args=(self._join_node,)))
        self._bringing[-1].start()

    def _join_node(self) -> None:
        self.around.nodes.append(LocalNode(self.around.node_size))

    def _delay(self, node: LocalNode) -> None:
        began_at, num_actors = time.time(), self.around.num_actors_on(node)
        node.pause()
        self._paused.append((node, began_at, num_actors))
        self._plan(began_at + self.config.delay_seconds, partial(self._resume, node, began_at, num_actors))

    def _resume(self, node: LocalNode, began_at: float, num_actors: int) -> None:
        node.resume()
        self._paused.remove((node, began_at, num_actors))
        self.struck.append(Struck("node_delay", began_at, node.name, num_actors, time.time()))
