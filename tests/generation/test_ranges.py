from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from generation.ranges import (
    AtLeastOne,
    Attempts,
    BelowOne,
    Count,
    Gpus,
    NotNegative,
    Positive,
    Seed,
    check_ranges,
    is_of_type,
)


@dataclass
class Settings:
    workers: AtLeastOne = 1
    sizes: dict[str, AtLeastOne] = field(default_factory=dict)
    multiples: tuple[AtLeastOne, ...] = ()
    restarts: Count = 0
    seconds: NotNegative = 0.0
    rate: Positive = 0.1
    fraction: BelowOne = 0.0
    attempts: Attempts = 0
    gpus: Gpus = 0.5
    seed: Seed = 0
    name: str = ""
    unbounded: float = -1.0


def test_settings_within_range_pass():
    check_ranges(Settings())
    check_ranges(Settings(gpus=8.0, attempts=127, fraction=0.999, sizes={"L4": 1}, multiples=(1, 3)))


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ({"workers": 0}, "training.workers is 0; use 1 or more."),
        ({"sizes": {"L4": 8, "A100": 0}}, "training.sizes.A100 is 0; use 1 or more."),
        ({"multiples": (1, 0)}, "training.multiples.1 is 0; use 1 or more."),
        ({"restarts": -1}, "training.restarts is -1; use 0 or more."),
        ({"seconds": float("inf")}, "training.seconds is inf; use a finite number."),
        ({"seconds": float("nan")}, "training.seconds is nan; use a finite number."),
        ({"rate": 0.0}, "training.rate is 0.0; use more than 0."),
        ({"fraction": 1.0}, "training.fraction is 1.0; use 0 to below 1."),
        ({"fraction": float("nan")}, "training.fraction is nan; use 0 to below 1."),
        ({"attempts": 128}, "training.attempts is 128; use 0 to 127."),
        ({"seed": 2**64}, f"training.seed is {2**64}; use 0 to 2**64 - 1."),
        ({"gpus": 1.5}, "training.gpus is 1.5; use a whole number, or a fraction below 1."),
        ({"gpus": -0.5}, "training.gpus is -0.5; use 0 or more."),
        ({"workers": 1.5}, "training.workers is 1.5; use a value of its type."),
    ],
)
def test_error_names_setting_value_and_range(setting: dict[str, Any], line: str):
    with pytest.raises(ValueError, match="; use ") as caught:
        check_ranges(Settings(**setting), "training")
    assert str(caught.value) == line


def test_setting_without_section_is_named_alone():
    with pytest.raises(ValueError, match=r"^workers is 0; use 1 or more\.$"):
        check_ranges(Settings(workers=0))


@pytest.mark.parametrize(
    ("value", "kind", "is_one"),
    [
        (1, float, True),
        (True, float, False),
        (True, int, False),
        (1, bool, False),
        ("1", int, False),
        ((1, 2), tuple[int, ...], True),
        ([1, 2], tuple[int, ...], False),
        ((0.0, 1.0, 1.0), tuple[float, float], False),
        (("a", ("b", "c")), tuple[str, tuple[str, ...]], True),
        ("c", Literal["a", "b"], False),
    ],
)
def test_types_are_checked_without_conversion(value: Any, kind: Any, is_one: bool):
    assert is_of_type(value, kind) == is_one
