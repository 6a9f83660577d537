import numpy as np
import pytest
from ray.exceptions import ActorDiedError

from generation.config import GenerationConfig
from generation.service import GenerationFailedError
from generation.stream import MAX_LOSSES, MAX_UNITS, Asker, work_units


def test_units_cover_every_index_once_and_never_span_two_ranges():
    units = work_units([range(0, 300), range(1000, 1010)], batch_size=8)
    assert [index for unit in units for index in unit] == [*range(300), *range(1000, 1010)]
    assert [len(unit) for unit in units] == [256, 44, 10]
    assert work_units([range(250, 600)], batch_size=8) == [range(250, 256), range(256, 512), range(512, 600)]


def test_a_billion_images_make_no_more_units_than_ray_data_can_take():
    units = work_units([range(10**9)], batch_size=32)
    assert len(units) <= MAX_UNITS
    assert sum(len(unit) for unit in units) == 10**9


class LosingService:
    """Stands for the pool: loses its first answers, then gives the indices back."""

    def __init__(self, num_losses: int) -> None:
        self.num_losses = num_losses
        self.asked: list[range] = []

    def ask(self, indices: range):
        self.asked.append(indices)
        return self

    def result(self, timeout_s: float) -> dict:
        if len(self.asked) <= self.num_losses:
            raise ActorDiedError
        index = np.array(self.asked[-1])
        return {"index": index, "label": index, "image": index, "attempt": index}

    def raise_if_failed(self) -> None:
        pass


def ask_for_four(service: LosingService) -> list[list[int]]:
    asker = Asker(service, GenerationConfig(), batch_size=4, window=1)  # pyright: ignore[reportArgumentType]
    return [batch["index"].tolist() for batch in asker({"start": np.array([8]), "stop": np.array([12])})]


def test_an_image_comes_in_the_same_batch_whoever_asks_for_it():
    service = LosingService(0)
    asker = Asker(service, GenerationConfig(), batch_size=4, window=1)  # pyright: ignore[reportArgumentType]
    assert [batch["index"].tolist() for batch in asker.ask_range(6, 11)] == [[6, 7], [8, 9, 10]]
    assert service.asked == [range(4, 8), range(8, 12)]


@pytest.fixture
def no_pause(monkeypatch):
    monkeypatch.setattr("generation.stream.RETRY_SECONDS", 0.0)


@pytest.mark.usefixtures("no_pause")
def test_a_batch_whose_answer_was_lost_is_asked_for_again():
    service = LosingService(MAX_LOSSES - 1)
    assert ask_for_four(service) == [[8, 9, 10, 11]]
    assert service.asked == [range(8, 12)] * MAX_LOSSES


@pytest.mark.usefixtures("no_pause")
def test_a_batch_that_kills_one_actor_after_another_ends_the_stream():
    with pytest.raises(GenerationFailedError, match=r"samples 8 to 11 was lost 5 times.*generation\.batch_size"):
        ask_for_four(LosingService(1000))
