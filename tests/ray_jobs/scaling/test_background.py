"""Threads beside a body: what they hear and what becomes of their errors."""

import time

import pytest

from ray_jobs.scaling.background import Background, growth_bytes, readings
from tests.support.waits import wait_until


def test_readings_are_noted_until_the_bodys_end():
    with readings(lambda: 7, interval_seconds=0.01) as noted:
        wait_until(lambda: len(noted) >= 2)
    num = len(noted)
    time.sleep(0.05)
    assert noted == [7] * num


def test_what_a_thread_ends_with_is_raised_at_the_bodys_end_unless_the_body_fails():
    def fail() -> None:
        raise OSError("no such pool")

    with pytest.raises(OSError, match="no such pool"), readings(fail, 0.0):
        time.sleep(0.05)
    with pytest.raises(ValueError, match="the body"), readings(fail, 0.0):
        raise ValueError("the body failed")


def test_work_that_other_work_starts_is_waited_for():
    done: list[str] = []

    def wait_and_note() -> None:
        beside.is_over.wait()
        time.sleep(0.05)
        done.append("second")

    with Background() as beside:
        beside.start(lambda: beside.start(wait_and_note))
    assert done == ["second"]


def test_memory_grows_from_its_size_at_a_tenth_of_the_time():
    assert growth_bytes([50, 60, *[70] * 17, 90]) == 90 - 70
