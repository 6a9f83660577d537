"""Whether plain values, as JSON has them, are of a dataclass field's type."""

from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin


def is_of_type(value: Any, kind: Any) -> bool:
    """Return whether a value is of a type; an int is a float too, a bool is neither."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in inner
    if origin in (Union, UnionType):
        return any(is_of_type(value, choice) for choice in inner)
    if origin is not tuple:
        types = (int, float) if kind is float else (kind,)
        return isinstance(value, types) and (kind is bool or not isinstance(value, bool))
    if not isinstance(value, tuple):
        return False
    kinds = inner[:1] * len(value) if inner[1:] == (...,) else inner
    return len(value) == len(kinds) and all(map(is_of_type, value, kinds))
