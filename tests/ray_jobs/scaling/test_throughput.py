"""Rates, reactions and lost capacity, worked out by hand."""

import math

import numpy as np
import pytest

from ray_jobs.scaling.throughput import (
    Deliveries,
    Exactness,
    Outage,
    actor_outages,
    held_seconds,
    lost_fraction,
    reaction_seconds,
)


def at_intervals(seconds: float, until: float, num: int = 1, start: float = 0.0) -> Deliveries:
    """Return batches of `num` images at `start`, `start + seconds` and so on."""
    delivered_at = np.arange(start, until + 1e-9, seconds)
    return deliveries_at(delivered_at, num)


def deliveries_at(delivered_at: np.ndarray, num: int) -> Deliveries:
    """Return batches of `num` images, each after half a second of waiting."""
    return Deliveries(delivered_at, np.full(len(delivered_at), num), np.full(len(delivered_at), 0.5))


def joined(*parts: Deliveries) -> Deliveries:
    return Deliveries(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("delivered_at", "nums", "waiting_seconds")
        )
    )


def test_images_between_two_times_exclude_the_first_and_include_the_second():
    deliveries = at_intervals(2.0, 10.0, num=8)  # at 0, 2, 4, 6, 8, 10
    assert deliveries.num_between(2.0, 6.0) == 16
    assert deliveries.rate_between(1.0, 9.0) == 4 * 8 / 8
    assert deliveries.mean_rate() == 40 / 10
    assert deliveries_at(np.array([3.0]), 8).mean_rate() == 0


def test_waiting_fraction_counts_batches_delivered_in_the_interval_and_is_at_most_one():
    assert at_intervals(2.0, 10.0).waiting_fraction(2.0, 6.0) == 0.5 * 2 / 4
    assert at_intervals(0.1, 10.0).waiting_fraction(2.0, 6.0) == 1.0


def test_repeated_or_unrequested_samples_are_duplicates_and_missing_ones_are_lost():
    assert Exactness.of(np.array([3, 0, 1, 1, 9]), 5) == Exactness(num_images=5, num_lost=2, num_doubled=2)
    assert Exactness(5, 2, 2).problems == ["2 of 5 samples were lost", "2 of 5 samples were duplicated"]
    assert Exactness.of(np.arange(5), 5).problems == []


def test_steady_rate_excludes_the_backlog_and_the_end():
    piled, steady, last = (
        at_intervals(0.01, 0.04),
        at_intervals(0.5, 40.5, start=1.0),
        at_intervals(2.0, 50.0, start=42.0),
    )
    assert joined(piled, steady, last).steady_rate() == pytest.approx(2.0)


def test_steady_rate_of_bursts_does_not_depend_on_window_edges():
    bursts = np.repeat(np.arange(0.0, 60.0, 2.0), 32) + np.tile(np.arange(32) * 1e-3, 30)
    rates = [
        deliveries_at(bursts[first : first + 900], 8).steady_rate()  # 28 bursts, cut anywhere
        for first in range(0, 60, 7)
    ]
    assert rates == pytest.approx([32 * 8 / 2.0] * 9, rel=0.01)


def test_two_batches_fall_back_to_the_mean_rate():
    assert at_intervals(2.0, 2.0, num=8).steady_rate() == 4.0


def test_rates_of_adjacent_windows():
    ends, rates = at_intervals(1.0, 10.0, num=3).rates(0.0, 10.5, 5.0)
    assert (ends.tolist(), rates.tolist()) == ([5.0, 10.0], [3.0, 3.0])


def test_reaction_ends_where_the_new_rate_begins_and_holds():
    slow, fast = at_intervals(1.0, 15.0), at_intervals(0.25, 40.0, start=15.25)
    assert reaction_seconds(joined(slow, fast), 10.0, 40.0, rate=3.9, window_seconds=4.0) == pytest.approx(5.0)


def test_backlog_is_not_a_reaction():
    rush, slow, fast = (
        at_intervals(0.25, 14.0),
        at_intervals(1.0, 20.0, start=15.0),
        at_intervals(0.25, 40.0, start=20.25),
    )
    assert reaction_seconds(joined(rush, slow, fast), 10.0, 40.0, rate=3.9, window_seconds=4.0) == pytest.approx(10.0)


def test_reaction_is_zero_if_immediate_and_infinite_if_never():
    deliveries = at_intervals(0.25, 40.0)
    assert reaction_seconds(deliveries, 10.0, 40.0, rate=4.0, window_seconds=4.0) == 0
    assert reaction_seconds(deliveries, 10.0, 40.0, rate=4.5, window_seconds=4.0) == math.inf
    assert reaction_seconds(deliveries, 10.0, 12.0, rate=4.0, window_seconds=4.0) == math.inf  # shorter than the window


def test_lost_capacity_is_capped_at_all_actors():
    outages = [Outage(0.0, 5.0, 1), Outage(4.0, 6.0, 1)]
    assert lost_fraction(outages, 2, 0.0, 10.0) == pytest.approx((4 * 1 + 1 * 2 + 1 * 1) / 20)
    assert lost_fraction([*outages, Outage(0.0, 10.0, 2)], 2, 0.0, 10.0) == 1.0  # a trainer's outage counts all actors
    assert lost_fraction([Outage(-5.0, 1.0, 1), Outage(9.0, 99.0, 1)], 2, 0.0, 10.0) == pytest.approx(2 / 20)
    assert lost_fraction([], 2, 0.0, 10.0) == 0


def test_lost_actor_counts_until_replaced_or_the_end():
    outages = actor_outages([(1.0, 1), (3.0, 2)], [0.5, 4.0, 6.0], stop=10.0)
    assert outages == [Outage(1.0, 4.0, 1), Outage(3.0, 6.0, 1), Outage(3.0, 10.0, 1)]


def test_held_seconds_integrate_the_number_of_devices():
    assert held_seconds([(0.0, 2), (5.0, 4), (6.0, 1)], stop=10.0) == 2 * 5 + 4 * 1 + 1 * 4
