"""Answers that come late, and what is asked for meanwhile."""

import threading
from collections.abc import Iterator

import pytest

from generation.stream.ordered import WINDOWS_AHEAD, map_ordered
from tests.support.waits import wait_until


class Asked:
    """Notes what is asked; answers with the question, each when it may."""

    def __init__(self) -> None:
        self.questions: list[int] = []
        self.may_answer = [threading.Event() for _ in range(40)]
        self.has_answered = [threading.Event() for _ in range(40)]
        self.takers: list[threading.Thread] = []

    def ask(self, question: int) -> int:
        self.questions.append(question)
        return question

    def answer(self, question: int) -> int:
        assert self.may_answer[question].wait(10)
        self.has_answered[question].set()
        return question

    def take(self, answers: Iterator[int]) -> list[int]:
        """Return what a thread takes of the answers, as they come."""
        taken: list[int] = []
        self.takers.append(threading.Thread(target=lambda: taken.extend(answers)))
        self.takers[-1].start()
        return taken

    def let_answer(self, *questions: int) -> None:
        for question in questions:
            self.may_answer[question].set()
            assert self.has_answered[question].wait(10)


@pytest.fixture
def asked() -> Iterator[Asked]:
    service = Asked()
    yield service
    for event in service.may_answer:
        event.set()
    for taker in service.takers:
        taker.join()


def test_answers_come_in_the_order_of_their_questions_whichever_is_there_first(asked: Asked):
    taken = asked.take(map_ordered(asked.ask, asked.answer, range(4), window=4))
    wait_until(lambda: len(asked.questions) == 4)
    asked.let_answer(3, 1)
    assert taken == []
    asked.let_answer(0)
    wait_until(lambda: taken == [0, 1])
    asked.let_answer(2)
    wait_until(lambda: taken == [0, 1, 2, 3])


def test_one_late_answer_keeps_nobody_from_work_until_four_windows_are_asked_for(asked: Asked):
    taken = asked.take(map_ordered(asked.ask, asked.answer, range(40), window=2))
    wait_until(lambda: asked.questions == [0, 1])
    for question in range(1, 7):
        asked.let_answer(question)
        wait_until(lambda number=question: asked.questions == list(range(number + 2)))
    asked.let_answer(7)
    threading.Event().wait(0.2)
    assert len(asked.questions) == 2 * WINDOWS_AHEAD == 8
    assert taken == []
    asked.let_answer(0)
    wait_until(lambda: taken == list(range(8)))
    wait_until(lambda: asked.questions == list(range(10)))  # two under way again


def test_who_takes_no_answer_is_not_asked_for_more_than_a_window(asked: Asked):
    answers = map_ordered(asked.ask, asked.answer, range(40), window=1)
    for number in range(10):
        asked.may_answer[number].set()
        assert next(answers) == number
        assert asked.questions == list(range(number + 1))


def test_an_error_comes_in_the_place_of_its_answer_and_ends_the_asking(asked: Asked):
    def answer(question: int) -> int:
        if question == 2:
            raise ValueError("two")
        return question

    answers = map_ordered(asked.ask, answer, range(40), window=3)  # which has all three begin at once
    assert [next(answers), next(answers)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(answers)
    num_asked = len(asked.questions)
    assert list(answers) == []
    assert len(asked.questions) == num_asked < 40


def test_who_takes_no_more_waits_for_nothing(asked: Asked):
    answers = map_ordered(asked.ask, asked.answer, range(40), window=3)
    asked.may_answer[0].set()
    assert next(answers) == 0
    closing = threading.Thread(target=answers.close)  # type: ignore[attr-defined]
    closing.start()
    closing.join(5)
    assert not closing.is_alive()
    assert asked.questions == [0, 1, 2]
