"""Curves of a run's page, from rows by hand."""

import dataclasses

import pytest

from ray_jobs.monitor.spent import SpentRow
from ray_jobs.reports.run_curves import curves_of, held_out_points, intervals, mean_losses, rates


def row(seconds: float, num_trained: float = 0, **others: float | None) -> SpentRow:
    return dataclasses.replace(SpentRow(seconds, num_trained, 0, 0, 0), **others)


def trained(rows: list[SpentRow]) -> list[tuple[float, float]]:
    return rates(rows, lambda each: each.num_trained)


def test_rates_are_means_between_rows_from_the_start():
    assert trained([row(10, 200), row(20, 700)]) == [(0, 20), (10, 20), (10, 50), (20, 50)]


def test_rate_of_a_short_run_is_one_mean():
    assert trained([row(1, 30), row(2, 30), row(4, 80)]) == [(0, 20), (4, 20)]


def test_steps_undone_by_a_restart_count_as_none():
    rows = [row(10, 500), row(20, 300), row(30, 400)]
    assert [rate for _, rate in trained(rows)] == [50, 50, 0, 0, 10, 10]


def test_last_row_has_no_rate_of_its_own():
    rows = [*(row(10 * i, 100 * i) for i in range(1, 101)), row(1000.1, 10_100)]
    points = trained(rows)
    assert max(rate for _, rate in points) == pytest.approx(200 / 10.1)  # 990 s to the end; the last row alone has 1000
    assert points[-1][0] == 1000.1


def test_waiting_is_a_share_of_learning_where_that_is_known():
    rows = [row(10), row(20, learning_seconds=8, waiting_seconds=2), row(30, learning_seconds=12, waiting_seconds=5)]
    points = rates(rows, lambda each: each.waiting_seconds, lambda each: each.learning_seconds)
    assert points == [(10, 0.25), (20, 0.25), (20, 0.75), (30, 0.75)]


def test_losses_of_a_long_run_are_averaged():
    rows = [row(i, loss=float(i % 2)) for i in range(1, 3001)]
    points = mean_losses(rows)
    assert len(points) == 300
    assert points[0] == (9, pytest.approx(5 / 9))  # of seconds 1 to 9, five are odd
    assert points[-1][0] == 3000


def test_losses_that_are_unknown_are_left_out():
    assert mean_losses([row(1), row(2, loss=0.5), row(3, loss=None), row(4, loss=0.25)]) == [(2, 0.5), (4, 0.25)]


def test_held_out_accuracy_is_one_point_per_epoch():
    rows = [
        row(1),
        row(2, epoch=1, held_out_top1=0.5),
        row(3, epoch=1, held_out_top1=0.5),
        row(4, epoch=2, held_out_top1=0.5),
        row(5, epoch=1, held_out_top1=0.5),  # restarted
        row(6, epoch=2, held_out_top1=0.75),
    ]
    assert held_out_points(rows) == [(2, 0.5), (4, 0.5), (6, 0.75)]


def test_intervals_are_equal_and_long_enough():
    rows = [row(i) for i in range(1, 13)]
    parts = intervals(rows, most=100, least_seconds=5)
    assert [[each.seconds for each in part] for part in parts] == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11, 12]]


def test_rows_with_totals_alone_have_rates_alone():
    curves = curves_of([SpentRow(10, 100, 200, 10, 10), SpentRow(20, 200, 300, 20, 20)])
    assert {curve.title: list(curve.lines) for curve in curves} == {"images per second": ["generated", "trained on"]}


def test_run_without_generators_has_no_curves_of_them():
    curves = curves_of([row(10, 100, num_actors=0, loss=1.0), row(20, 200, num_actors=0, loss=0.5)])
    assert {curve.title: list(curve.lines) for curve in curves} == {
        "training loss": ["loss"],
        "images per second": ["trained on"],
    }


def test_run_without_a_step_has_no_curves():
    assert curves_of([SpentRow(0, 0, 0, 0, 0)]) == []
