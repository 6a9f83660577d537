"""Whether processes fit on nodes, by CPUs, by individual GPUs and by labels. Independent of a running cluster."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ray._raylet import node_labels_match_selector  # pyright: ignore[reportAttributeAccessIssue]

ROUNDING = 1e-6
"""Tolerance for sums of fractional GPUs or CPUs."""

AUTOSCALING_HINT = "if the cluster autoscales, set generation.wait_for_nodes_seconds"


@dataclass(frozen=True)
class Demand:
    """A number of identical processes, their resources, and the labels of the nodes they need."""

    what: str
    count: int
    resources: dict[str, float]
    """Per process: `CPU` and `GPU`."""

    remedy: str
    """For error messages: which settings to change."""

    label_selector: dict[str, str] = field(default_factory=dict)
    may_start_late: bool = False
    """Whether some of them may still be pending when the other stages start."""

    wait_seconds: float = 0.0
    """How long to wait for the cluster to add nodes; 0 if it does not autoscale."""


@dataclass
class Node:
    """A node of the cluster with its free resources."""

    resources: dict[str, float]
    labels: dict[str, str] = field(default_factory=dict)
    cpus: float = field(init=False)
    gpus: list[float] = field(init=False)
    """Free share of each GPU, 0..1: a fractional process takes part of one GPU, others take entirely free GPUs."""

    def __post_init__(self) -> None:
        self.cpus = self.resources.get("CPU", 0.0)
        self.gpus = [1.0] * int(self.resources.get("GPU", 0.0))

    def matches(self, demand: Demand) -> bool:
        """Return whether the node's labels match the demand's selector."""
        return node_labels_match_selector(self.labels, demand.label_selector)

    def fits(self, demand: Demand) -> bool:
        """Return whether one more process fits on this node."""
        cpus, gpus = demand.resources.get("CPU", 0.0), demand.resources.get("GPU", 0.0)
        free = [gpu for gpu in self.gpus if gpu >= min(gpus, 1.0) - ROUNDING]
        return self.matches(demand) and self.cpus >= cpus - ROUNDING and len(free) >= math.ceil(gpus)

    def take(self, demand: Demand) -> None:
        """Reserve the resources of one process; like Ray, take a fraction from the GPU with the least that suffices."""
        self.cpus -= demand.resources.get("CPU", 0.0)
        left = demand.resources.get("GPU", 0.0)
        while left > ROUNDING:
            share = min(left, 1.0)
            number = min((i for i, gpu in enumerate(self.gpus) if gpu >= share - ROUNDING), key=lambda i: self.gpus[i])
            self.gpus[number] -= share
            left -= share


def place(demands: Sequence[Demand], nodes: Sequence[Node]) -> None:
    """Place all demands on nodes; ValueError if they do not fit.

    Demands with the fewest matching nodes and the largest resources go first, each to the fullest node that fits.
    """
    for demand in sorted(demands, key=lambda demand: _hardness(demand, nodes), reverse=True):
        for placed in range(demand.count):
            fitting = [node for node in nodes if node.fits(demand)]
            node = min(fitting, key=lambda node: (sum(node.gpus), node.cpus), default=None)
            if node is None:
                raise ValueError(_does_not_fit(demand, placed, nodes))
            node.take(demand)


def _hardness(demand: Demand, nodes: Sequence[Node]) -> tuple[int, float, float]:
    num_matching = sum(node.matches(demand) for node in nodes)
    return -num_matching, demand.resources.get("GPU", 0.0), demand.resources.get("CPU", 0.0)


def check_pending(demands: Sequence[Demand], nodes: Sequence[Node]) -> None:
    """Raise ValueError if processes that start late could take the resources of others that start with them.

    They cannot if all of them fit now, or if their labels keep them on different nodes.
    """
    pair = next(
        (pair for pair in itertools.permutations(demands, 2) if pair[0].may_start_late and _may_meet(*pair)), None
    )
    if pair is None:
        return
    try:
        place(demands, nodes)
    except ValueError:
        late, other = pair
        raise ValueError(
            f"{in_words(late)} and {in_words(other)} may be placed on the same nodes, where actors that start late "
            "could hold the others' resources for good. Separate them with label_selector, or add nodes for all of "
            f"them. {late.remedy}, or set min_actors to max_actors."
        ) from None


def _may_meet(one: Demand, other: Demand) -> bool:
    """Return whether two demands may use the same resource of one node."""
    both_take = any(one.resources.get(name) and other.resources.get(name) for name in ("CPU", "GPU"))
    apart = any(_is_apart(key, one, other) or _is_apart(key, other, one) for key in one.label_selector)
    return both_take and not apart


def _is_apart(key: str, one: Demand, other: Demand) -> bool:
    """Return whether no value that `one` lists for a label matches `other`; False where `one` lists none."""
    if key not in one.label_selector or key not in other.label_selector:
        return False
    wanted = one.label_selector[key]
    if wanted.startswith("!"):
        return False
    values = wanted.removeprefix("in(").removesuffix(")").split(",") if wanted.startswith("in(") else [wanted]
    suits = {key: other.label_selector[key]}
    return not any(node_labels_match_selector({key: value.strip()}, suits) for value in values)


def _does_not_fit(demand: Demand, placed: int, nodes: Sequence[Node]) -> str:
    matching = [node for node in nodes if node.matches(demand)]
    if not matching:
        return f"The job needs {in_words(demand)}, but {_no_such_node(demand, nodes)}; {AUTOSCALING_HINT}."
    cpus, gpus = (math.fsum(node.resources.get(name, 0.0) for node in matching) for name in ("CPU", "GPU"))
    with_labels = f" with {_labels(demand)}" if demand.label_selector else ""
    return (
        f"The job needs {in_words(demand)}, but only {placed} fit beside its other processes: the cluster has "
        f"{cpus:g} CPU and {gpus:g} GPU on {len(matching)} nodes{with_labels}. {demand.remedy}, or add nodes; "
        f"{AUTOSCALING_HINT}."
    )


def timeout_message(demand: Demand, waited_seconds: float, nodes: Sequence[Node]) -> str:
    """Return the error message for processes that were not placed in time."""
    not_placed = f"{in_words(demand)} could not be placed within {waited_seconds:g} s: "
    if not any(node.matches(demand) for node in nodes):
        return f"{not_placed}{_no_such_node(demand, nodes)}."
    return (
        f"{not_placed}other jobs hold the cluster's resources, or too few nodes joined. {demand.remedy}, or wait for "
        "the other jobs to end."
    )


def _no_such_node(demand: Demand, nodes: Sequence[Node]) -> str:
    """Return a message that no node has the labels, with the values that exist."""
    found = {key: sorted({node.labels[key] for node in nodes if key in node.labels}) for key in demand.label_selector}
    labels = "; ".join(f"{key}: {', '.join(values) or 'none'}" for key, values in found.items())
    return (
        f"the cluster has no node with {_labels(demand)} (its {len(nodes)} nodes have {labels}). Add such nodes, or "
        "change label_selector"
    )


def in_words(demand: Demand) -> str:
    """Return the demand in words: count, kind and resources of each."""
    each = " and ".join(f"{amount:g} {name}" for name, amount in demand.resources.items() if amount) or "0 CPU"
    return f"{demand.count} {demand.what} of {each} each"


def _labels(demand: Demand) -> str:
    return ", ".join(f"{key}={value}" for key, value in demand.label_selector.items())
