"""What goes wrong when, and whom it hits."""

import pytest

from ray_jobs.faults import Fault, chosen, schedule
from ray_jobs.scale_config import FaultsConfig, ScaleConfig


def test_one_kill_a_generator_a_minute_hits_a_pool_of_four_every_fifteen_seconds():
    faults = schedule(FaultsConfig(num_actors=4, seconds=60, actor_kills_per_minute=1))
    assert [fault.at_seconds for fault in faults] == [7.5, 22.5, 37.5, 52.5]
    assert {fault.kind for fault in faults} == {"actor_kill"}
    assert all(0 <= fault.place < 1 for fault in faults)


def test_faults_of_several_kinds_come_in_the_order_of_time_and_another_seed_hits_others_at_the_same_moments():
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
