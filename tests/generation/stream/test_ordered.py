"""Slow results, and the requests sent meanwhile."""

import threading
from collections.abc import Iterator

import pytest

from generation.stream.ordered import WINDOWS_AHEAD, map_ordered
from tests.support.waits import wait_until


class FakeService:
    """Records the items sent; returns each item as its result once allowed."""

    def __init__(self) -> None:
        self.items: list[int] = []
        self.may_finish = [threading.Event() for _ in range(40)]
        self.has_finished = [threading.Event() for _ in range(40)]
        self.takers: list[threading.Thread] = []

    def send(self, item: int) -> int:
        self.items.append(item)
        return item

    def receive(self, item: int) -> int:
        assert self.may_finish[item].wait(10)
        self.has_finished[item].set()
        return item

    def take(self, results: Iterator[int]) -> list[int]:
        """Return a list that a thread fills with the results."""
        taken: list[int] = []
        self.takers.append(threading.Thread(target=lambda: taken.extend(results)))
        self.takers[-1].start()
        return taken

    def finish(self, *items: int) -> None:
        for item in items:
            self.may_finish[item].set()
            assert self.has_finished[item].wait(10)


@pytest.fixture
def service() -> Iterator[FakeService]:
    service = FakeService()
    yield service
    for event in service.may_finish:
        event.set()
    for taker in service.takers:
        taker.join()


def test_results_are_in_order_of_their_items(service: FakeService):
    taken = service.take(map_ordered(service.send, service.receive, range(4), window=4))
    wait_until(lambda: len(service.items) == 4)
    service.finish(3, 1)
    assert taken == []
    service.finish(0)
    wait_until(lambda: taken == [0, 1])
    service.finish(2)
    wait_until(lambda: taken == [0, 1, 2, 3])


def test_slow_result_does_not_stall_others_within_four_windows(service: FakeService):
    taken = service.take(map_ordered(service.send, service.receive, range(40), window=2))
    wait_until(lambda: service.items == [0, 1])
    for item in range(1, 7):
        service.finish(item)
        wait_until(lambda number=item: service.items == list(range(number + 2)))
    service.finish(7)
    threading.Event().wait(0.2)
    assert len(service.items) == 2 * WINDOWS_AHEAD == 8
    assert taken == []
    service.finish(0)
    wait_until(lambda: taken == list(range(8)))
    wait_until(lambda: service.items == list(range(10)))  # two pending again


def test_untaken_results_are_at_most_a_window(service: FakeService):
    results = map_ordered(service.send, service.receive, range(40), window=1)
    for number in range(10):
        service.may_finish[number].set()
        assert next(results) == number
        assert service.items == list(range(number + 1))


def test_error_is_raised_in_place_of_its_result_and_ends_the_iteration(service: FakeService):
    def receive(item: int) -> int:
        if item == 2:
            raise ValueError("two")
        return item

    results = map_ordered(service.send, receive, range(40), window=3)  # starts all three at once
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)
    num_sent = len(service.items)
    assert list(results) == []
    assert len(service.items) == num_sent < 40


def test_closing_does_not_wait(service: FakeService):
    results = map_ordered(service.send, service.receive, range(40), window=3)
    service.may_finish[0].set()
    assert next(results) == 0
    closing = threading.Thread(target=results.close)  # type: ignore[attr-defined]
    closing.start()
    closing.join(5)
    assert not closing.is_alive()
    assert service.items == [0, 1, 2]
