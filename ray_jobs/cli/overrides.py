"""Settings as text: YAML whose values stay as typed until the setting's own type reads them.

YAML by itself turns `2024_11_28` into 20241128, `010` into 8, `12:30` into 750, `12e4567` into infinity and
`exp #3` into `exp`; a folder's name or a model's revision must not become another one.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any, get_args, get_origin

import yaml
from yaml.constructor import ConstructorError

NULL = "tag:yaml.org,2002:null"
LIST_OR_MAPPING = ("[", "{")


class TextLoader(yaml.SafeLoader):
    """Reads YAML, leaves every value but null as text, and refuses a key that comes twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping; ConstructorError for a key that comes twice."""
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise ConstructorError(None, None, f"found duplicate key {key}", node.value[number][0].start_mark)
        return super().construct_mapping(node, deep)


TextLoader.yaml_implicit_resolvers = {
    first: kept
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    if (kept := [each for each in resolvers if each[0] in (NULL, "tag:yaml.org,2002:merge")])
}


def read_yaml(text: str) -> Any:
    """Return what YAML holds, its values as text, None where there is none; YAMLError if it is no YAML."""
    return yaml.load(text, TextLoader)


def read_overrides(arguments: Sequence[str], schema: type) -> dict[str, Any]:
    """Return `section.key=value` arguments as nested dicts, the last one of a key alone.

    Raises ValueError for what is no override, and YAMLError for a list or mapping that is no YAML.
    """
    settings: dict[str, Any] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or not all(key.split(".")):
            raise ValueError(f"'{argument}' is no override. Write section.key=value.")
        (*above, last), kind = _walk(key, schema)
        section = settings
        for name in above:
            section = section.setdefault(name, {})
            if not isinstance(section, dict):
                raise ValueError(f"'{argument}' is part of {name}, which another override sets as a whole.")
        section[last] = _value(text, kind)
    return settings


def _walk(key: str, schema: Any) -> tuple[list[str], Any]:
    """Return the names that a key leads through, of which a mapping's own may have dots, and the type of its setting.

    That is None where there is none of that name.
    """
    names: list[str] = []
    while get_origin(schema) is not dict:
        name, dot, key = key.partition(".")
        names.append(name)
        entries = dataclasses.fields(schema) if dataclasses.is_dataclass(schema) else ()
        schema = next((entry.type for entry in entries if entry.name == name), None)
        if not dot:
            return names, schema
    return [*names, key], get_args(schema)[1]


def _value(text: str, kind: Any) -> Any:
    """Return an override's value: a list or a mapping by YAML, and anything else as it was typed."""
    is_text = get_origin(kind) not in (tuple, dict) and not dataclasses.is_dataclass(kind)
    if is_text or (get_origin(kind) is tuple and not text.lstrip().startswith(LIST_OR_MAPPING[0]) and text):
        return _unquoted(text)
    return read_yaml(text)


def _unquoted(text: str) -> str:
    """Return a text without the one pair of quotes around it."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def checked_number(text: str, kind: type, name: str) -> str:
    """Return a number's text; ValueError for what is no number, or another one to YAML than to Python."""
    if re.fullmatch(r"[-+]?0[0-9_]+", text):
        raise ValueError(f"{name} is {text}, which YAML reads as octal. Write it without the leading zero.")
    if "${" in text:  # another setting's, which OmegaConf looks up
        return text
    try:
        number = kind(text)
    except ValueError as error:
        raise ValueError(f"{name} is '{text}'; give a {'whole ' if kind is int else ''}number.") from error
    if math.isinf(number) and "inf" not in text.lower():
        raise ValueError(f"{name} is {text}, more than a float holds.")
    return text
