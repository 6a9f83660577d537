"""Which classes there are: from a label to the words that describe it.

A label space is plain data. It does not know prompts, images or any model. Labels of those that ship follow
torchvision's ImageFolder: the classes sorted by wnid.
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
"""Label spaces known by name."""


@dataclass(frozen=True)
class ClassEntry:
    """One class, in words; what a user's class does not have is empty."""

    class_name: str
    """What the class is called: in tables that ship the first lemma."""

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
        """Hash of all the words."""
        return hashlib.sha256(json.dumps([dataclasses.asdict(entry) for entry in self.classes]).encode()).hexdigest()

    def label_of(self, name: str) -> int:
        """Return the label of a class by its wnid or its name; ValueError if none or several have it."""
        name = unicodedata.normalize("NFC", name)
        labels = self._labels_by_name.get(name, [])
        if len(labels) == 1:
            return labels[0]
        if labels:
            wnids = ", ".join(f"{self.classes[label].wnid} ({self.classes[label].definition})" for label in labels)
            raise ValueError(f"'{name}' is the name of several classes of {self.name}. Give one's wnid: {wnids}.")
        near = difflib.get_close_matches(name, self._labels_by_name, n=3)
        hint = f"Did you mean {' or '.join(near)}?" if near else "Give a class's wnid or name."
        raise ValueError(f"'{name}' is no class of {self.name}. {hint}")

    @cached_property
    def _labels_by_name(self) -> dict[str, list[int]]:
        labels: dict[str, list[int]] = {}
        for label, entry in enumerate(self.classes):
            for name in {entry.wnid, unicodedata.normalize("NFC", entry.class_name)} - {""}:
                labels.setdefault(name, []).append(label)
        return labels

    def to_value(self) -> dict[str, Any]:
        """Return what a recipe says of it: a user's classes in full, of one that ships its name and hash."""
        if self.name in SHIPPED:
            return {"name": self.name, "sha256": self.sha256}
        return {"name": self.name, "classes": [dataclasses.asdict(entry) for entry in self.classes]}


def label_space_from_value(value: dict[str, Any]) -> LabelSpace:
    """Return the label space that `to_value` described; ValueError if it cannot be, or this version's is another."""
    try:
        if "classes" in value:
            return _own_space(value["name"], [_entry(row) for row in value["classes"]])
        space = load_label_space(value["name"])
        is_ours = space.sha256 == value["sha256"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"recipe.label_space is no list of classes: {type(error).__name__}: {error}.") from error
    if not is_ours:
        raise ValueError(
            f"The recipe's label space {space.name} has hash {value['sha256'][:12]}, this version's "
            f"{space.sha256[:12]}. Use the version of Figment that the recipe was made with."
        )
    return space


def _own_space(name: str, entries: list[ClassEntry]) -> LabelSpace:
    if not isinstance(name, str):
        raise ValueError(f"recipe.label_space has the name {name!r}; give a text.")
    kinds = get_type_hints(ClassEntry)
    for entry in entries:
        for field in dataclasses.fields(ClassEntry):
            if not is_of_type(getattr(entry, field.name), kinds[field.name]):
                raise ValueError(f"recipe.label_space: a class has {field.name} {getattr(entry, field.name)!r}.")
    if len(entries) < 2 or not all(entry.class_name for entry in entries):
        raise ValueError(f"recipe.label_space has {len(entries)} classes; give two or more, each with a class_name.")
    return LabelSpace(name, tuple(entries))


@cache
def load_label_space(name: str) -> LabelSpace:
    """Return a label space that ships, such as `digits`; ValueError for a name that does not."""
    if name not in SHIPPED:
        raise ValueError(
            f"recipe.label_space is '{name}', which is not known. Choose one of {', '.join(SHIPPED)}, or give a file "
            "of your own classes, such as classes.yaml or classes.csv."
        )
    if name == "imagenet100":
        wanted = set((TABLES / "imagenet100.txt").read_text().split())
        classes = load_label_space("imagenet1k").classes
        return LabelSpace(name, tuple(entry for entry in classes if entry.wnid in wanted))
    return LabelSpace(name, tuple(_entry(row) for row in json.loads((TABLES / f"{name}.json").read_text())))


def folded(name: str) -> str:
    """Return what names have in common that differ in case, in spaces or `_` for them, or in how letters are encoded.

    macOS writes `ö` into folders' names as two characters. Characters without a width, such as the mark at the
    beginning of a spreadsheet's CSV, are left out.
    """
    seen = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    return " ".join(seen.replace("_", " ").casefold().split())


def check_no_class_twice(space: LabelSpace) -> None:
    """Raise ValueError if two labels would mean the same: one synset, or one name where no synset tells them apart.

    Names that `folded` makes one are one.
    """
    alike: dict[str, list[str]] = {}
    for entry in space.classes:
        name = entry.wnid or entry.class_name
        alike.setdefault(folded(name), []).append(name)
    for names in alike.values():
        if len(set(names)) > 1:
            raise ValueError(
                f"{space.name} has the classes {' and '.join(map(repr, names))}, which differ in case, spaces or the "
                "way letters are encoded alone. Keep one of them."
            )
        if len(names) > 1:
            raise ValueError(f"{space.name} has the class '{names[0]}' {len(names)} times. Keep one of them.")


def _entry(row: dict[str, Any]) -> ClassEntry:
    return ClassEntry(**{**row, "lemmas": tuple(row["lemmas"]), "hypernyms": tuple(row["hypernyms"])})
