"""Value ranges as types, such as `num_workers: AtLeastOne = 1`."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError


class Documented:
    """A dataclass of settings: the text below each field is its description, which pydantic reads."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True)


@dataclass(frozen=True, slots=True)
class Only(AfterValidator):
    """A range of values."""

    words: str = ""
    """Which values are allowed."""


def _only(words: str, is_allowed: Callable[[Any], bool]) -> Only:
    """Return a validator that raises ValueError with the words for other values."""

    def checked(value: Any) -> Any:
        if not is_allowed(value):
            raise ValueError(words)
        return value

    return Only(checked, words)


AtLeastOne = Annotated[int, _only("1 or more", lambda number: number >= 1)]
Count = Annotated[int, _only("0 or more", lambda number: number >= 0)]
Finite = Annotated[float, _only("a finite number", math.isfinite)]
NotNegative = Annotated[Finite, _only("0 or more", lambda number: number >= 0)]
Positive = Annotated[Finite, _only("more than 0", lambda number: number > 0)]
BelowOne = Annotated[float, _only("0 to below 1", lambda share: 0 <= share < 1)]
Attempts = Annotated[int, _only("0 to 127", lambda attempts: 0 <= attempts <= 127)]
"""Limited by a sample's `attempt`, an int8."""

SomeAttempts = Annotated[int, _only("1 to 127", lambda attempts: 1 <= attempts <= 127)]
Seed = Annotated[int, _only("0 to 2**64 - 1", lambda seed: 0 <= seed < 2**64)]
Gpus = Annotated[NotNegative, _only("a whole number, or a fraction below 1", lambda gpus: gpus <= 1 or not gpus % 1)]
"""GPUs per process: Ray allocates whole GPUs, or a fraction of one."""


def check_ranges(settings: Any, section: str = "") -> None:
    """Raise ValueError for the first field of a config section (a dataclass) that is out of its range."""
    for name, adapter in _adapters(type(settings)).items():
        try:
            adapter.validate_python(getattr(settings, name))
        except ValidationError as error:
            found = error.errors()[0]
            path = ".".join([*([section] if section else []), name, *map(str, found["loc"])])
            allowed = found.get("ctx", {}).get("error", "a value of its type")
            raise ValueError(f"{path} is {found['input']}; use {allowed}.") from None


def allowed_values(kind: Any) -> str:
    """Return in words which values a type with a range allows, the last range of several; empty without one."""
    return get_args(kind)[-1].words if get_origin(kind) is Annotated else ""


def is_of_type(value: Any, kind: Any) -> bool:
    """Return whether a value has a type without conversion; an int counts as a float, a bool as neither."""
    try:
        _adapter(kind).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


@cache
def _adapters(schema: type) -> dict[str, TypeAdapter[Any]]:
    """Return a validator for each field that has a range."""
    hints, plain = get_type_hints(schema, include_extras=True), get_type_hints(schema)
    names = [entry.name for entry in dataclasses.fields(schema)]
    return {name: TypeAdapter(hints[name]) for name in names if hints[name] != plain[name]}
