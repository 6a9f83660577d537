"""Background threads: stopping, errors, sampling."""

import time

import pytest

from ray_jobs.scaling.background import Background, growth_bytes, sampling
from tests.support.waits import wait_until


def test_values_are_sampled_until_the_body_ends():
    with sampling(lambda: 7, interval_seconds=0.01) as values:
        wait_until(lambda: len(values) >= 2)
    num = len(values)
    time.sleep(0.05)
    assert values == [7] * num


def test_thread_error_is_raised_unless_the_body_fails():
    def fail() -> None:
        raise OSError("no such pool")

    with pytest.raises(OSError, match="no such pool"), sampling(fail, 0.0):
        time.sleep(0.05)
    with pytest.raises(ValueError, match="the body"), sampling(fail, 0.0):
        raise ValueError("the body failed")


def test_thread_started_by_a_thread_is_joined():
    done: list[str] = []

    def wait_and_append() -> None:
        background.stopped.wait()
        time.sleep(0.05)
        done.append("second")

    with Background() as background:
        background.start(lambda: background.start(wait_and_append))
    assert done == ["second"]


def test_memory_growth_starts_after_a_tenth_of_the_time():
    assert growth_bytes([50, 60, *[70] * 17, 90]) == 90 - 70
