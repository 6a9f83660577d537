"""Settings as text: YAML values stay as typed until the setting's type parses them.

YAML itself turns `2024_11_28` into 20241128, `010` into 8, `12:30` into 750, `12e4567` into infinity and `exp #3` into
`exp`, which would change the name of a folder or the revision of a model.
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
    """YAML loader that leaves every value but null as text and rejects duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping; ConstructorError for a duplicate key."""
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
    """Return the content of YAML with values as text, empty values as None; YAMLError for invalid YAML."""
    return yaml.load(text, TextLoader)


def read_overrides(arguments: Sequence[str], schema: type) -> dict[str, Any]:
    """Return `section.key=value` arguments as nested dicts; the last value of a key wins.

    Raises ValueError for other arguments, and YAMLError for a list or mapping that is not valid YAML.
    """
    settings: dict[str, Any] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or not all(key.split(".")):
            raise ValueError(f"'{argument}' is not an override. Write section.key=value.")
        (*above, last), kind = _walk(key, schema)
        section = settings
        for name in above:
            section = section.setdefault(name, {})
            if not isinstance(section, dict):
                raise ValueError(f"'{argument}' sets a part of {name}, but another override sets all of it. Use one.")
        section[last] = _value(text, kind)
    return settings


def _walk(key: str, schema: Any) -> tuple[list[str], Any]:
    """Return the names in a key and the type of its setting, or None if there is no such setting.

    The key of a mapping may itself have dots.
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
    """Return an override's value: a list or a mapping parsed as YAML, anything else as typed."""
    is_list = get_origin(kind) in (tuple, list)
    is_text = not is_list and get_origin(kind) is not dict and not dataclasses.is_dataclass(kind)
    if is_text or (is_list and not text.lstrip().startswith(LIST_OR_MAPPING[0]) and text):
        return _unquoted(text)
    return read_yaml(text)


def _unquoted(text: str) -> str:
    """Return a text without its surrounding quotes, if any."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def checked_number(text: str, kind: type, name: str) -> str:
    """Return a number's text; ValueError if it is not a number, or a different one in YAML than in Python."""
    if re.fullmatch(r"[-+]?0[0-9_]+", text):
        raise ValueError(f"{name} is {text}, which YAML reads as octal. Write it without the leading zero.")
    if "${" in text:  # another setting's, which OmegaConf looks up
        return text
    try:
        number = kind(text)
    except ValueError as error:
        raise ValueError(f"{name} is '{text}'; use a {'whole ' if kind is int else ''}number.") from error
    if math.isinf(number) and "inf" not in text.lower():
        raise ValueError(f"{name} is {text}, too large for a float. Use a smaller number.")
    return text
