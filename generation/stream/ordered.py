"""Concurrent requests whose results are yielded in the order of their items.

Uses plain threads; independent of what is requested and from whom.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

Item = TypeVar("Item")
Request = TypeVar("Request")
Result = TypeVar("Result")

WINDOWS_AHEAD = 4
"""Maximum buffer behind a slow result, in windows: an actor at a quarter of the speed does not stall the others."""


def map_ordered(
    send: Callable[[Item], Request],
    receive: Callable[[Request], Result],
    items: Iterable[Item],
    window: int,
) -> Iterator[Result]:
    """Yield the result of each item in order, with up to `window` requests pending.

    `send` returns at once; `receive` blocks in its own thread. An error is raised in the place of its result. At
    most `window` untaken results are buffered, `WINDOWS_AHEAD` windows behind a slow one. When the consumer stops,
    pending requests are dropped; their threads are joined at process exit.
    """
    left, ahead = deque(items), deque[Future[Result]]()
    threads = ThreadPoolExecutor(window)
    try:
        while left or ahead:
            while left and _may_send(ahead, window):
                ahead.append(threads.submit(receive, send(left.popleft())))
            pending = _pending(ahead)
            if pending and pending[0] is ahead[0]:
                wait(pending, return_when=FIRST_COMPLETED)
            else:
                yield ahead.popleft().result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _may_send(ahead: deque[Future[Result]], window: int) -> bool:
    if len(ahead) < window:
        return True
    return len(_pending(ahead)) < window and not ahead[0].done() and len(ahead) < WINDOWS_AHEAD * window


def _pending(ahead: deque[Future[Result]]) -> list[Future[Result]]:
    return [future for future in ahead if not future.done()]
