"""The reference of all settings, built from their dataclasses for `--help`, `figment settings` and the docs.

`python -m ray_jobs.cli.reference > docs/settings.md` writes the page.
"""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click
from pydantic import TypeAdapter

from generation.ranges import allowed_values
from ray_jobs.cli.config import CompareConfig, JobConfig, JudgeConfig, MiniatureConfig, nearest
from ray_jobs.cli.experiment_config import ExperimentConfig
from ray_jobs.cli.scale_config import ScaleConfig

SCHEMAS: dict[str, type[JobConfig]] = {
    "": JobConfig,
    "compare": CompareConfig,
    "judge": JudgeConfig,
    "miniature": MiniatureConfig,
    "experiment": ExperimentConfig,
    "scale": ScaleConfig,
}
"""The common settings, and the additional settings of some commands."""

TITLE = """# Settings

Set a setting in a config, or on the command line as `section.key=value`. `figment settings [SECTION|WORD]` prints this
list. The page is generated from the settings' docstrings by `python -m ray_jobs.cli.reference`.
"""


@dataclass(frozen=True)
class Setting:
    """One setting, as users write it."""

    path: str
    """Such as `training.num_images`."""

    default: str
    kind: str
    """Its type and range, in words."""

    meaning: str
    """Its docstring, in one line."""

    @property
    def summary(self) -> str:
        """The first sentence of its meaning."""
        first = self.meaning.partition(": ")[0].partition("; ")[0].partition(". ")[0]
        return f"{first.rstrip('.')}."

    @property
    def name_and_default(self) -> str:
        """Such as `training.reuse=1`."""
        return f"{self.path}={self.default}"


def settings_of(schema: type, prefix: str = "") -> Iterator[Setting]:
    """Yield the settings of a dataclass, and those of its sections after them."""
    meanings = _meanings(schema)
    hints, sections = get_type_hints(schema, include_extras=True), []
    for entry in dataclasses.fields(schema):
        if dataclasses.is_dataclass(entry.type):
            sections.append(entry)
            continue
        default, kind = _as_yaml(_default(entry)), _kind(hints[entry.name])
        yield Setting(prefix + entry.name, default, kind, meanings.get(entry.name, ""))
    for entry in sections:
        yield from settings_of(entry.type, f"{prefix}{entry.name}.")


def find_settings(schema: type, paths: Sequence[str]) -> list[Setting]:
    """Return the settings with these paths, in order; KeyError for an unknown path."""
    found = {each.path: each for each in settings_of(schema)}
    return [found[path] for path in paths]


def non_default_settings(config: JobConfig) -> list[tuple[Setting, str]]:
    """Return the settings that differ from their defaults, each with its value as users write it."""
    values = ((each, _as_yaml(attrgetter(each.path)(config))) for each in settings_of(type(config)))
    return [(each, value) for each, value in values if value != each.default]


def print_settings(word: str) -> None:
    """Print all settings, those of a section, or those that have a word in name or meaning; ValueError for none."""
    every = [each for _, each in _unique_settings()]
    found = [each for each in every if each.path.startswith(f"{word}.")] or [
        each for each in every if word.lower() in f"{each.path} {each.meaning}".lower()
    ]
    if not found:
        sections = dict.fromkeys(each.path.partition(".")[0] for each in every)
        raise ValueError(f"No setting has '{word}' in its name or meaning. {nearest(word, sections)}")
    for each in found:
        click.echo(click.style(each.name_and_default, bold=True) + f"  ({each.kind})")
        click.echo(click.wrap_text(each.meaning, width=100, initial_indent="    ", subsequent_indent="    "))


def reference() -> str:
    """Return the page docs/settings.md."""
    lines, heading = [TITLE], ""
    for command, each in _unique_settings():
        section = each.path.rpartition(".")[0]
        above = f"`{section}`" if section else f"Only `{command}`" if command else "Top level"
        if above != heading:
            heading = above
            lines += [f"## {heading}", ""]
        lines += [f"`{each.name_and_default}` ({each.kind})  ", each.meaning, ""]
    return "\n".join(lines)


def _unique_settings() -> list[tuple[str, Setting]]:
    """Return each setting once, with the first command of `SCHEMAS` that has it."""
    found: dict[tuple[str, str], tuple[str, Setting]] = {}
    for command, schema in SCHEMAS.items():
        for each in settings_of(schema):
            found.setdefault((each.path, each.meaning), (command, each))
    return list(found.values())


def _meanings(schema: type) -> dict[str, str]:
    """Return the docstring of each setting of a dataclass, inherited settings included."""
    found: dict[str, str] = {}
    for base in [base for base in reversed(schema.__mro__) if dataclasses.is_dataclass(base)]:
        properties = TypeAdapter(base).json_schema()["properties"]
        found |= {
            name: " ".join(each["description"].split()) for name, each in properties.items() if "description" in each
        }
    return found


def _default(entry: dataclasses.Field[Any]) -> Any:
    return entry.default if entry.default_factory is dataclasses.MISSING else entry.default_factory()


def _as_yaml(value: Any) -> str:
    """Return a default value as users write it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_as_yaml, value))}]"
    if isinstance(value, str) and not value:
        return "''"
    return str(value) if value != {} else "{}"


def _kind(hint: Any) -> str:
    """Return a type in words, or the range of its values."""
    words = allowed_values(hint)
    if words:
        return words
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " | ".join(str(each) for each in arguments)
    if origin in (tuple, list):
        return f"list of {_kind(arguments[0])}"
    if origin is dict:
        return f"mapping to {_kind(arguments[1])}"
    names = {int: "whole number", float: "number", str: "text", bool: "true | false"}
    return names.get(hint) or " | ".join(_kind(each) for each in arguments)


if __name__ == "__main__":
    sys.stdout.write(reference())
