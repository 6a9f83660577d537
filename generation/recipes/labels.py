"""Label spaces: the classes, and the words that describe each label.

A label space is plain data without prompts, images or models. The built-in label spaces order classes by wnid, as
torchvision's ImageFolder does.
"""

import dataclasses
import difflib
import hashlib
import json
import unicodedata
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, get_type_hints

from generation.ranges import is_of_type

TABLES = Path(__file__).parents[1] / "data"
"""Tables made from WordNet 3.0 by `generation/data/build_table.py`."""

SHIPPED = ("digits", "imagenet1k", "imagenet100")
"""Names of the built-in label spaces."""


@dataclass(frozen=True)
class ClassEntry:
    """One class in words; fields that a user's class lacks are empty."""

    class_name: str
    """Name of the class; in built-in tables its first lemma."""

    wnid: str = ""
    """WordNet 3.0 offset as ImageNet writes it, such as n13742358."""

    synset: str = ""
    """NLTK's name of the synset, such as zero.n.02."""

    lemmas: tuple[str, ...] = ()
    """All names of the class, `class_name` first, with spaces."""

    definition: str = ""
    hypernyms: tuple[str, ...] = ()
    """First lemma of each direct hypernym."""


@dataclass(frozen=True)
class LabelSpace:
    """Classes in label order: `classes[label]`."""

    name: str
    classes: tuple[ClassEntry, ...]

    @property
    def num_classes(self) -> int:
        """The number of labels; a label is an int in `0 .. num_classes - 1`."""
        return len(self.classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each class, in label order."""
        return tuple(entry.class_name for entry in self.classes)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the words of all classes."""
        return hashlib.sha256(json.dumps([dataclasses.asdict(entry) for entry in self.classes]).encode()).hexdigest()

    def label_of(self, name: str) -> int:
        """Return the label of a class given its wnid or name; raise ValueError if there is no unique match."""
        name = unicodedata.normalize("NFC", name)
        labels = self._labels_by_name.get(name, [])
        if len(labels) == 1:
            return labels[0]
        if labels:
            wnids = ", ".join(f"{self.classes[label].wnid} ({self.classes[label].definition})" for label in labels)
            raise ValueError(f"'{name}' is the name of several classes of {self.name}. Use a wnid: {wnids}.")
        near = difflib.get_close_matches(name, self._labels_by_name, n=3)
        hint = f"Did you mean {' or '.join(near)}?" if near else "Use the wnid or name of a class."
        raise ValueError(f"'{name}' is not a class of {self.name}. {hint}")

    @cached_property
    def _labels_by_name(self) -> dict[str, list[int]]:
        labels: dict[str, list[int]] = {}
        for label, entry in enumerate(self.classes):
            for name in {entry.wnid, unicodedata.normalize("NFC", entry.class_name)} - {""}:
                labels.setdefault(name, []).append(label)
        return labels

    def to_value(self) -> dict[str, Any]:
        """Return the recipe's JSON value: name and hash of a built-in label space, a user's classes in full."""
        if self.name in SHIPPED:
            return {"name": self.name, "sha256": self.sha256}
        return {"name": self.name, "classes": [dataclasses.asdict(entry) for entry in self.classes]}


def label_space_from_value(value: dict[str, Any]) -> LabelSpace:
    """Return the label space of a `to_value` result; raise ValueError if it is invalid or its table has changed."""
    try:
        if "classes" in value:
            return _own_space(value["name"], [_entry(row) for row in value["classes"]])
        space = load_label_space(value["name"])
        is_ours = space.sha256 == value["sha256"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"recipe.label_space is not a list of classes: {type(error).__name__}: {error}.") from error
    if not is_ours:
        raise ValueError(
            f"The recipe's label space {space.name} has hash {value['sha256'][:12]}, this version's "
            f"{space.sha256[:12]}. Use the version of Figment that the recipe was made with."
        )
    return space


def _own_space(name: str, entries: list[ClassEntry]) -> LabelSpace:
    if not isinstance(name, str):
        raise ValueError(f"recipe.label_space has the name {name!r}, which is not text. Plan again.")
    kinds = get_type_hints(ClassEntry)
    for entry in entries:
        for field in dataclasses.fields(ClassEntry):
            if not is_of_type(getattr(entry, field.name), kinds[field.name]):
                raise ValueError(f"recipe.label_space: {field.name} {getattr(entry, field.name)!r} is not valid.")
    if len(entries) < 2 or not all(entry.class_name for entry in entries):
        raise ValueError(f"recipe.label_space has {len(entries)} classes; use 2 or more, each with a class_name.")
    return LabelSpace(name, tuple(entries))


@cache
def load_label_space(name: str) -> LabelSpace:
    """Return a built-in label space, such as `digits`; raise ValueError for other names."""
    if name not in SHIPPED:
        raise ValueError(
            f"recipe.label_space is '{name}', which is unknown. Use {', '.join(SHIPPED)}, or a file of your own "
            "classes, such as classes.yaml or classes.csv."
        )
    if name == "imagenet100":
        wanted = set((TABLES / "imagenet100.txt").read_text().split())
        classes = load_label_space("imagenet1k").classes
        return LabelSpace(name, tuple(entry for entry in classes if entry.wnid in wanted))
    return LabelSpace(name, tuple(_entry(row) for row in json.loads((TABLES / f"{name}.json").read_text())))


def normalized_name(name: str) -> str:
    """Return a name normalized for comparison: Unicode NFKC, case-normalized_name, spaces for `_`.

    macOS stores `ö` in folder names as two characters. Zero-width characters, such as the byte-order mark of a CSV
    file, are removed.
    """
    seen = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    return " ".join(seen.replace("_", " ").casefold().split())


def check_no_duplicate_class(space: LabelSpace) -> None:
    """Raise ValueError if two labels have the same wnid, or the same name without wnids.

    Names are equal if they are after `normalized_name`.
    """
    alike: dict[str, list[str]] = {}
    for entry in space.classes:
        name = entry.wnid or entry.class_name
        alike.setdefault(normalized_name(name), []).append(name)
    for names in alike.values():
        if len(set(names)) > 1:
            raise ValueError(
                f"{space.name} has the classes {' and '.join(map(repr, names))}, which differ only in case, spaces or "
                "Unicode encoding. Keep one of them."
            )
        if len(names) > 1:
            raise ValueError(f"{space.name} has the class '{names[0]}' {len(names)} times. Keep one of them.")


def _entry(row: dict[str, Any]) -> ClassEntry:
    return ClassEntry(**{**row, "lemmas": tuple(row["lemmas"]), "hypernyms": tuple(row["hypernyms"])})
