"""The schedule of faults and their victims."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ray_jobs.cli.scale_config import FaultsConfig, ScaleConfig
from ray_jobs.cluster.local_nodes import NodeSize
from ray_jobs.cluster.processes import is_running, kill, this_process
from ray_jobs.scaling.fault_injector import Fault, FaultEvent, FaultInjector, pick_victim, schedule
from tests.support.waits import wait_until


def test_one_kill_per_generator_and_minute_is_one_every_15_s_in_a_pool_of_four():
    faults = schedule(FaultsConfig(num_actors=4, seconds=60, actor_kills_per_minute=1))
    assert [fault.at_seconds for fault in faults] == [7.5, 22.5, 37.5, 52.5]
    assert {fault.kind for fault in faults} == {"actor_kill"}
    assert all(0 <= fault.position < 1 for fault in faults)


def test_faults_are_sorted_by_time_and_the_seed_changes_only_the_victims():
    config = FaultsConfig(num_actors=2, seconds=120, node_drops_per_minute=1, trainer_kills_per_minute=0.5)
    faults = schedule(config)
    assert [(fault.at_seconds, fault.kind) for fault in faults] == [
        (30.0, "node_drop"),
        (60.0, "trainer_kill"),
        (90.0, "node_drop"),
    ]
    assert schedule(config) == faults
    others = schedule(FaultsConfig(**{**vars(config), "seed": 1}))
    assert [fault.at_seconds for fault in others] == [30.0, 60.0, 90.0]
    assert others != faults


def test_no_faults_by_default():
    assert schedule(FaultsConfig()) == []
    assert not ScaleConfig().faults.is_on


def test_victim_is_picked_by_relative_position():
    assert [pick_victim("abcd", position) for position in (0.0, 0.25, 0.74, 1.0)] == ["a", "b", "c", "d"]
    assert pick_victim([], 0.5) is None


def test_faults_are_ordered_by_time_first():
    assert sorted([Fault(2.0, "actor_kill", 0.0), Fault(1.0, "node_drop", 0.9)])[0].kind == "node_drop"


def test_node_faults_need_local_nodes():
    with pytest.raises(
        ValueError, match=r"faults\.node_drops_per_minute needs nodes .* num_local_nodes is 0; use 2 or more"
    ):
        ScaleConfig(faults=FaultsConfig(node_drops_per_minute=1))
    assert ScaleConfig(num_local_nodes=2, faults=FaultsConfig(node_drops_per_minute=1)).faults.is_on


class FakeNode:
    """Records the calls of its methods."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.done: list[str] = []

    def processes(self) -> list[Any]:
        return []

    def kill(self) -> None:
        self.done.append("killed")

    def pause(self) -> None:
        self.done.append("paused")

    def resume(self) -> None:
        self.done.append("resumed")


@contextmanager
def injected(config: FaultsConfig, nodes: list[Any]) -> Iterator[list[FaultEvent]]:
    """Inject faults into a run without processes whose first batch has just arrived; yield the events."""
    began_at = time.time()
    injector = FaultInjector(config, list, lambda: "nowhere:1", lambda: began_at, nodes, NodeSize(0, 0))
    with injector.running():
        yield injector.events


def test_node_is_paused_for_the_configured_time():
    node = FakeNode("a")
    config = FaultsConfig(seconds=0.2, node_delays_per_minute=300, delay_seconds=0.3)
    with injected(config, [node]) as events:
        wait_until(lambda: events)
    assert node.done == ["paused", "resumed"]
    (event,) = events
    assert (event.kind, event.victim) == ("node_delay", "a")
    assert event.ended_at is not None
    assert event.ended_at - event.began_at >= 0.3


def test_paused_node_is_resumed_when_the_run_ends():
    node = FakeNode("a")
    with injected(FaultsConfig(seconds=0.2, node_delays_per_minute=300, delay_seconds=100), [node]):
        wait_until(lambda: node.done)
    assert node.done == ["paused", "resumed"]


def test_lost_node_is_not_lost_again():
    node, other = FakeNode("a"), FakeNode("b")
    nodes = [node, other]
    config = FaultsConfig(seconds=0.6, node_drops_per_minute=300, node_return_seconds=100)  # three, of two nodes
    with injected(config, nodes) as events:
        wait_until(lambda: not nodes)
        time.sleep(0.3)
    assert (node.done, other.done, len(events)) == (["killed"], ["killed"], 2)


def test_without_victims_nothing_is_killed_nor_any_process_outside_ray():
    with injected(FaultsConfig(seconds=0.2, actor_kills_per_minute=60, num_actors=5), []) as events:
        time.sleep(0.4)
    assert events == []
    assert not is_running(this_process())
    assert not kill(this_process())
