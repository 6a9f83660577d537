"""Read prompt texts from files: Places365 scenes, a user's backgrounds, captions."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from generation.recipes.labels import TABLES, LabelSpace

PLACES365 = "places365"
"""Background that stands for all scenes of Places365."""


def with_places365(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the texts with `places365` replaced by its 365 scenes; `/c/church/indoor` becomes `indoor church`."""
    return tuple(word for text in texts for word in (_scenes() if text == PLACES365 else [text]))


@cache
def _scenes() -> tuple[str, ...]:
    places = [line.split("/")[2:] for line in (TABLES / "places365.txt").read_text().split()]
    return tuple(" ".join([*qualifier, scene]).replace("_", " ") for scene, *qualifier in places)


def read_text(path: Path) -> str:
    """Return a file's text without a byte-order mark; raise OSError if it is not a regular file."""
    if path.exists() and not path.is_file():
        raise OSError("it is not a regular file")  # reading a pipe could block forever
    return path.read_text(encoding="utf-8-sig")


def read_backgrounds(path: Path, space: LabelSpace, have_common: bool) -> tuple[tuple[int, tuple[str, ...]], ...]:
    """Return labels with their backgrounds, in label order, from a YAML mapping of classes to lists.

    Raises ValueError for an unknown class, and for a class without backgrounds if `have_common` is false.
    """
    try:
        content = yaml.safe_load(read_text(path))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"recipe.backgrounds_file '{path}' cannot be read: {_one_line(error)}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"recipe.backgrounds_file '{path}' must map classes to lists of backgrounds.")
    by_label: dict[int, tuple[str, ...]] = {}
    for name, words in content.items():
        label = _label(space, name, path)
        if label in by_label:
            raise ValueError(f"{path.name} has the class '{name}' twice, by name and by wnid. Keep one.")
        by_label[label] = with_places365(_words(words, f"{path.name}, class '{name}'"))
    if not have_common:
        _check_each_has_some(
            [by_label.get(label, ()) for label in range(space.num_classes)], space, path, "backgrounds"
        )
    return tuple(sorted(by_label.items()))


def read_captions(path: Path, space: LabelSpace) -> tuple[tuple[str, ...], ...]:
    """Return captions per label from lines of {"class": ..., "caption": ...}; raise ValueError if a class has none."""
    by_label: list[list[str]] = [[] for _ in space.classes]
    try:
        lines = read_text(path).split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"recipe.captions_file '{path}' cannot be read: {_one_line(error)}.") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            name, caption = _caption(line, f"{path.name}, line {number}")
            by_label[_label(space, name, path)].append(caption)
    _check_each_has_some(by_label, space, path, "captions")
    return tuple(tuple(captions) for captions in by_label)


def _caption(line: str, where: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
        name, caption = row["class"], row["caption"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{where} is not {{"class": ..., "caption": ...}}: {_one_line(error)}.') from error
    return name, _words([caption], where)[0]


def _words(words: Any, where: str) -> tuple[str, ...]:
    if not isinstance(words, list) or not words or not all(isinstance(text, str) and text.strip() for text in words):
        raise ValueError(f"{where} has {words!r}; use a list of non-empty texts.")
    return tuple(text.strip() for text in words)


def _label(space: LabelSpace, name: Any, path: Path) -> int:
    try:
        return space.label_of(str(name))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def _check_each_has_some(by_label: Sequence[Sequence[str]], space: LabelSpace, path: Path, what: str) -> None:
    wordless = [entry.class_name for entry, words in zip(space.classes, by_label, strict=True) if not words]
    if wordless:
        raise ValueError(
            f"{path.name} has no {what} for {len(wordless)} classes of {space.name}, such as '{wordless[0]}'. Add them."
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
