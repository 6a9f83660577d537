"""Whether processes can ever be placed on nodes: by CPUs, by each GPU, by labels. Knows no running cluster."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ray._raylet import node_labels_match_selector  # pyright: ignore[reportAttributeAccessIssue]

ROUNDING = 1e-6
"""Sums of shares of a GPU or a core are no exacter."""

AUTOSCALING_HINT = "if the cluster autoscales, set generation.wait_for_nodes_seconds"


@dataclass(frozen=True)
class Demand:
    """So many processes, each with these resources, on nodes that have these labels."""

    what: str
    count: int
    resources: dict[str, float]
    """Of `CPU` and `GPU`."""

    remedy: str
    """What else to ask for."""

    label_selector: dict[str, str] = field(default_factory=dict)
    is_late: bool = False
    """Whether some of them may still be awaited when others begin."""

    wait_seconds: float = 0.0
    """How long the cluster may take to bring nodes for it; 0 where it has those that it will ever have."""


@dataclass
class Node:
    """A node of the cluster, and what of it is free."""

    resources: dict[str, float]
    labels: dict[str, str] = field(default_factory=dict)
    cpus: float = field(init=False)
    gpus: list[float] = field(init=False)
    """What is free of each GPU, 0..1: a process's share is a share of one, and whole ones have to be all free."""

    def __post_init__(self) -> None:
        self.cpus = self.resources.get("CPU", 0.0)
        self.gpus = [1.0] * int(self.resources.get("GPU", 0.0))

    def is_meant(self, demand: Demand) -> bool:
        """Return whether its labels are those that are asked for."""
        return node_labels_match_selector(self.labels, demand.label_selector)

    def fits(self, demand: Demand) -> bool:
        """Return whether one more process has room here."""
        cpus, gpus = demand.resources.get("CPU", 0.0), demand.resources.get("GPU", 0.0)
        free = [gpu for gpu in self.gpus if gpu >= min(gpus, 1.0) - ROUNDING]
        return self.is_meant(demand) and self.cpus >= cpus - ROUNDING and len(free) >= math.ceil(gpus)

    def take(self, demand: Demand) -> None:
        """Give a process its room; a share of a GPU is taken where the least that suffices is free, as Ray does."""
        self.cpus -= demand.resources.get("CPU", 0.0)
        left = demand.resources.get("GPU", 0.0)
        while left > ROUNDING:
            share = min(left, 1.0)
            number = min((i for i, gpu in enumerate(self.gpus) if gpu >= share - ROUNDING), key=lambda i: self.gpus[i])
            self.gpus[number] -= share
            left -= share


def place(demands: Sequence[Demand], nodes: Sequence[Node]) -> None:
    """Put all demands on nodes, those for the fewest nodes and the largest first, each where the least is free.

    ValueError for no room.
    """
    for demand in sorted(demands, key=lambda demand: _hardness(demand, nodes), reverse=True):
        for placed in range(demand.count):
            fitting = [node for node in nodes if node.fits(demand)]
            node = min(fitting, key=lambda node: (sum(node.gpus), node.cpus), default=None)
            if node is None:
                raise ValueError(_no_room(demand, placed, nodes))
            node.take(demand)


def _hardness(demand: Demand, nodes: Sequence[Node]) -> tuple[int, float, float]:
    num_meant = sum(node.is_meant(demand) for node in nodes)
    return -num_meant, demand.resources.get("GPU", 0.0), demand.resources.get("CPU", 0.0)


def check_awaited(demands: Sequence[Demand], nodes: Sequence[Node]) -> None:
    """Raise ValueError if processes that are still awaited could take the room of others that start beside them.

    They cannot where all have room already, nor where their labels keep them on different nodes.
    """
    met = next((pair for pair in itertools.permutations(demands, 2) if pair[0].is_late and _may_meet(*pair)), None)
    if met is None:
        return
    try:
        place(demands, nodes)
    except ValueError:
        late, other = met
        raise ValueError(
            f"{in_words(late)} and {in_words(other)} may be placed on the same nodes, where actors that start late "
            "could hold the others' resources for good. Separate them with label_selector, or add nodes for all of "
            f"them. {late.remedy}, or set min_actors to max_actors."
        ) from None


def _may_meet(one: Demand, other: Demand) -> bool:
    """Return whether two kinds of processes may take the same thing of one node."""
    both_take = any(one.resources.get(name) and other.resources.get(name) for name in ("CPU", "GPU"))
    apart = any(_is_apart(key, one, other) or _is_apart(key, other, one) for key in one.label_selector)
    return both_take and not apart


def _is_apart(key: str, one: Demand, other: Demand) -> bool:
    """Return whether no value of a label that suits the one suits the other; only those that it names are known."""
    if key not in one.label_selector or key not in other.label_selector:
        return False
    wanted = one.label_selector[key]
    if wanted.startswith("!"):
        return False
    values = wanted.removeprefix("in(").removesuffix(")").split(",") if wanted.startswith("in(") else [wanted]
    suits = {key: other.label_selector[key]}
    return not any(node_labels_match_selector({key: value.strip()}, suits) for value in values)


def _no_room(demand: Demand, placed: int, nodes: Sequence[Node]) -> str:
    matching = [node for node in nodes if node.is_meant(demand)]
    if not matching:
        return f"The job needs {in_words(demand)}, but {_no_such_node(demand, nodes)}; {AUTOSCALING_HINT}."
    cpus, gpus = (math.fsum(node.resources.get(name, 0.0) for node in matching) for name in ("CPU", "GPU"))
    with_labels = f" with {_labels(demand)}" if demand.label_selector else ""
    return (
        f"The job needs {in_words(demand)}, but only {placed} fit beside its other processes: the cluster has "
        f"{cpus:g} CPU and {gpus:g} GPU on {len(matching)} nodes{with_labels}. {demand.remedy}, or add nodes; "
        f"{AUTOSCALING_HINT}."
    )


def no_room_yet(demand: Demand, waited_seconds: float, nodes: Sequence[Node]) -> str:
    """Return what to say of processes that found no room in this time, on nodes that others may be using."""
    not_placed = f"{in_words(demand)} could not be placed within {waited_seconds:g} s: "
    if not any(node.is_meant(demand) for node in nodes):
        return f"{not_placed}{_no_such_node(demand, nodes)}."
    return (
        f"{not_placed}other jobs hold the cluster's resources, or too few nodes joined. {demand.remedy}, or wait for "
        "the other jobs to end."
    )


def _no_such_node(demand: Demand, nodes: Sequence[Node]) -> str:
    """Say that no node has the labels, and which it has instead."""
    found = {key: sorted({node.labels[key] for node in nodes if key in node.labels}) for key in demand.label_selector}
    labels = "; ".join(f"{key}: {', '.join(values) or 'none'}" for key, values in found.items())
    return (
        f"the cluster has no node with {_labels(demand)} (its {len(nodes)} nodes have {labels}). Add such nodes, or "
        "change label_selector"
    )


def in_words(demand: Demand) -> str:
    """Return in words how many processes of what are asked for."""
    each = " and ".join(f"{amount:g} {name}" for name, amount in demand.resources.items() if amount) or "0 CPU"
    return f"{demand.count} {demand.what} of {each} each"


def _labels(demand: Demand) -> str:
    return ", ".join(f"{key}={value}" for key, value in demand.label_selector.items())
