"""What goes wrong when, and whom it hits."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ray_jobs.cli.scale_config import FaultsConfig, ScaleConfig
from ray_jobs.cluster.local_nodes import NodeSize
from ray_jobs.cluster.processes import is_running, kill, this_process
from ray_jobs.scaling.fault_injector import Fault, FaultInjector, Struck, chosen, schedule
from tests.support.waits import wait_until


def test_one_kill_a_generator_a_minute_hits_a_pool_of_four_every_fifteen_seconds():
    faults = schedule(FaultsConfig(num_actors=4, seconds=60, actor_kills_per_minute=1))
    assert [fault.at_seconds for fault in faults] == [7.5, 22.5, 37.5, 52.5]
    assert {fault.kind for fault in faults} == {"actor_kill"}
    assert all(0 <= fault.place < 1 for fault in faults)


def test_faults_are_sorted_by_time_and_a_seed_changes_only_their_victims():
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


def test_nothing_goes_wrong_by_default():
    assert schedule(FaultsConfig()) == []
    assert not ScaleConfig().faults.is_on


def test_a_place_is_a_share_of_those_who_are_there():
    assert [chosen("abcd", place) for place in (0.0, 0.25, 0.74, 1.0)] == ["a", "b", "c", "d"]
    assert chosen([], 0.5) is None


def test_faults_are_ordered_by_time_first():
    assert sorted([Fault(2.0, "actor_kill", 0.0), Fault(1.0, "node_drop", 0.9)])[0].kind == "node_drop"


def test_nodes_go_wrong_only_where_the_job_has_started_some():
    with pytest.raises(ValueError, match=r"faults\.node_drops_per_minute needs nodes .* num_local_nodes is 0"):
        ScaleConfig(faults=FaultsConfig(node_drops_per_minute=1))
    assert ScaleConfig(num_local_nodes=2, faults=FaultsConfig(node_drops_per_minute=1)).faults.is_on


class FakeNode:
    """Notes what is done to it."""

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
def injected(config: FaultsConfig, nodes: list[Any]) -> Iterator[list[Struck]]:
    """Let things go wrong where there are no processes, in a run whose first batch has just come."""
    began_at = time.time()
    injector = FaultInjector(config, list, lambda: "nowhere:1", lambda: began_at, nodes, NodeSize(0, 0))
    with injector.at_work():
        yield injector.struck


def test_a_node_stands_still_for_its_time():
    node = FakeNode("a")
    config = FaultsConfig(seconds=0.2, node_delays_per_minute=300, delay_seconds=0.3)
    with injected(config, [node]) as all_struck:
        wait_until(lambda: all_struck)
    assert node.done == ["paused", "resumed"]
    (struck,) = all_struck
    assert (struck.kind, struck.victim) == ("node_delay", "a")
    assert struck.ended_at is not None
    assert struck.ended_at - struck.began_at >= 0.3


def test_a_node_that_stands_still_when_the_run_ends_goes_on():
    node = FakeNode("a")
    with injected(FaultsConfig(seconds=0.2, node_delays_per_minute=300, delay_seconds=100), [node]):
        wait_until(lambda: node.done)
    assert node.done == ["paused", "resumed"]


def test_a_lost_node_is_gone_and_is_not_lost_again():
    node, other = FakeNode("a"), FakeNode("b")
    nodes = [node, other]
    config = FaultsConfig(seconds=0.6, node_drops_per_minute=300, node_return_seconds=100)  # three, of two nodes
    with injected(config, nodes) as all_struck:
        wait_until(lambda: not nodes)
        time.sleep(0.3)
    assert (node.done, other.done, len(all_struck)) == (["killed"], ["killed"], 2)


def test_nobody_there_is_not_hit_and_what_is_not_rays_is_never_killed():
    with injected(FaultsConfig(seconds=0.2, actor_kills_per_minute=60, num_actors=5), []) as all_struck:
        time.sleep(0.4)
    assert all_struck == []
    assert not is_running(this_process())
    assert not kill(this_process())
