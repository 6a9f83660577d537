"""Which classes there are: from a label to the words that describe it.

A label space is plain data. It does not know prompts, images or any model. Labels follow torchvision's ImageFolder: the
classes sorted by wnid.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLES = Path(__file__).parent / "data"
"""One JSON file a label space, made from WordNet 3.0 by `generation/data/build_table.py`."""


@dataclass(frozen=True)
class ClassEntry:
    """One class: a WordNet synset, in words."""

    wnid: str
    """WordNet 3.0 offset as ImageNet writes it, such as n13742358."""

    synset: str
    """NLTK's name of the synset, such as zero.n.02."""

    lemmas: tuple[str, ...]
    """All names of the synset, the most usual first, with spaces."""

    definition: str
    hypernyms: tuple[str, ...]
    """First lemma of each direct hypernym."""

    @property
    def class_name(self) -> str:
        """The first lemma."""
        return self.lemmas[0]


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
        """First lemma of each class, in label order."""
        return tuple(entry.class_name for entry in self.classes)


@cache
def load_label_space(name: str) -> LabelSpace:
    """Return a label space that the package ships, such as `digits`; ValueError for a name it does not."""
    known = sorted(path.stem for path in TABLES.glob("*.json"))
    if name not in known:
        raise ValueError(f"recipe.label_space is '{name}', which is not known. Choose one of: {', '.join(known)}.")
    rows = json.loads((TABLES / f"{name}.json").read_text())
    return LabelSpace(
        name=name,
        classes=tuple(
            ClassEntry(**{**row, "lemmas": tuple(row["lemmas"]), "hypernyms": tuple(row["hypernyms"])}) for row in rows
        ),
    )
