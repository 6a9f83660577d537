"""Read a user's classes from a YAML or CSV file into a label space. Labels follow the order of the file.

YAML is a list of class names, wnids, synset names, or mappings with `class_name`, `wnid`, `synset`, `definition` and
`hypernym`; CSV has these as columns. Missing fields are looked up in WordNet. A name with several senses is an error
that lists them; no sense is guessed.
"""

import csv
import dataclasses
import io
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from generation.recipes.labels import ClassEntry, LabelSpace, check_no_duplicate_class
from generation.recipes.word_files import read_text
from generation.recipes.wordnet import SYNSET, WNID, WordNet, open_wordnet

FIELDS = ("class_name", "wnid", "synset", "definition", "hypernym")
MISTYPED = re.compile(r"[a-zA-Z]\d{6,9}|\S+\.[nvasr]\.-?\d+")
"""Names that are almost wnids, or synsets of another part of speech."""

Row = dict[str, str]


def read_class_file(path: Path) -> LabelSpace:
    """Return the label space of a class file; raise ValueError with file, class and remedy if a class is unclear."""
    rows = _rows(path)
    if len(rows) < 2:
        raise ValueError(f"{path.name} has {len(rows)} classes; a classifier needs 2 or more.")
    wordnet = None if all(_has_own_definition(row) for row in rows) else open_wordnet()
    classes = tuple(_resolve(row, wordnet, f"{path.name}, class {i + 1}") for i, row in enumerate(rows))
    space = LabelSpace(path.name, classes)
    check_no_duplicate_class(space)
    return space


def _rows(path: Path) -> Sequence[Row]:
    try:
        text = read_text(path)
        if path.suffix == ".csv":
            content = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        else:
            content = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, csv.Error) as error:
        raise ValueError(f"The class file '{path}' cannot be read: {' '.join(str(error).split())}.") from error
    if not isinstance(content, list):
        raise ValueError(f"{path.name} must be a list of classes, one `- name` per line.")
    return [_named(_checked(item, path, i)) for i, item in enumerate(content)]


def _named(row: Row) -> Row:
    """Return a row; move a lone `class_name` that is a wnid or synset to the field of that name."""
    if row.keys() != {"class_name"}:
        return row
    name = row["class_name"]
    if WNID.fullmatch(name):
        return {"wnid": name}
    return {"synset": name} if SYNSET.fullmatch(name) else row


def _checked(item: object, path: Path, position: int) -> Row:
    where = f"{path.name}, class {position + 1}"
    if isinstance(item, str):
        item = {"class_name": item}
    if not isinstance(item, dict):
        raise ValueError(f"{where} is {item!r}; write a name, in quotes if YAML reads it as another type.")
    for name, value in item.items():
        if name is None:
            raise ValueError(f"{where} has more fields than the header. Quote values that contain commas.")
        if name not in FIELDS:
            raise ValueError(f"{where} has the unknown field '{name}'. Use {', '.join(FIELDS)}.")
        if not isinstance(value, str | None):
            raise ValueError(f"{where} has {name} {value!r}, which is not text. Write it in quotes.")
    row = {name: value.strip() for name, value in item.items() if value and value.strip()}
    if not any(row.get(name) for name in ("class_name", "wnid", "synset")):
        raise ValueError(f"{where} has no class_name, wnid or synset. Add one of them.")
    return row


def _has_own_definition(row: Row) -> bool:
    return "definition" in row and not ("wnid" in row or "synset" in row)


def _resolve(row: Row, wordnet: WordNet | None, where: str) -> ClassEntry:
    """Return a class with WordNet's words, overridden by the file's."""
    try:
        entry = _look_up(row, wordnet)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    name = row.get("class_name", entry.class_name)
    return dataclasses.replace(
        entry,
        class_name=name,
        lemmas=(name, *(lemma for lemma in entry.lemmas if lemma != name)),
        definition=row.get("definition", entry.definition),
        hypernyms=(row["hypernym"],) if "hypernym" in row else entry.hypernyms,
    )


def _look_up(row: Row, wordnet: WordNet | None) -> ClassEntry:
    if wordnet is not None and "wnid" in row:
        entry = wordnet.by_wnid(row["wnid"])
        if row.get("synset", entry.synset) != entry.synset:
            raise ValueError(
                f"wnid {row['wnid']} is the synset {entry.synset}, not {row['synset']}. Remove the wrong one."
            )
        return entry
    if wordnet is not None and "synset" in row:
        return wordnet.by_synset(row["synset"])
    name = row["class_name"]
    if MISTYPED.fullmatch(name) and not (WNID.fullmatch(name) or SYNSET.fullmatch(name)):
        raise ValueError(
            f"'{name}' looks like a wnid or synset but is neither. Use a form such as n02084071 or dog.n.01."
        )
    known = None if wordnet is None or _has_own_definition(row) else wordnet.by_word(name)
    return known or ClassEntry(name, lemmas=(name,))
