"""Requests under way at the same time, whose answers come in the order in which they were asked for.

Plain threads: knows neither who is asked nor for what.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

Question = TypeVar("Question")
Request = TypeVar("Request")
Answer = TypeVar("Answer")

WINDOWS_AHEAD = 4
"""While an answer is awaited, later ones are kept, up to so many windows in all: who takes four times as long as others
does not keep them from work.
"""


def map_ordered(
    ask: Callable[[Question], Request],
    answer: Callable[[Request], Answer],
    questions: Iterable[Question],
    window: int,
) -> Iterator[Answer]:
    """Yield the answers in the order of their questions, `window` requests under way.

    `ask` is called at once, `answer` waits in a thread of its own; an error of one comes in its place. Answers that
    nobody takes are no more than a window, or `WINDOWS_AHEAD` of them after a late one. Once no further one is taken,
    no further request is waited for, until the process ends.
    """
    left, ahead = deque(questions), deque[Future[Answer]]()
    threads = ThreadPoolExecutor(window)
    try:
        while left or ahead:
            while left and _may_ask(ahead, window):
                ahead.append(threads.submit(answer, ask(left.popleft())))
            under_way = _under_way(ahead)
            if under_way and under_way[0] is ahead[0]:
                wait(under_way, return_when=FIRST_COMPLETED)
            else:
                yield ahead.popleft().result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _may_ask(ahead: deque[Future[Answer]], window: int) -> bool:
    if len(ahead) < window:
        return True
    return len(_under_way(ahead)) < window and not ahead[0].done() and len(ahead) < WINDOWS_AHEAD * window


def _under_way(ahead: deque[Future[Answer]]) -> list[Future[Answer]]:
    return [future for future in ahead if not future.done()]
