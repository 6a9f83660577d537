"""WordNet 3.0's nouns: from a wnid, a synset's name or a bare word to the words of a class.

Needed to read a user's own classes and to build the tables in generation/data; the label spaces that ship do without.
WordNet itself is not shipped: NLTK's download is used where there is one, else Debian's package `wordnet-base`. Their
files are as wndb(5WN) says. (NLTK's own reader wants two more files than Debian has, and all parts of speech.)
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nltk

from generation.recipes.labels import ClassEntry

WNID = re.compile(r"n\d{8}")
"""ImageNet's name of a synset: the part of speech and WordNet 3.0's offset."""

SYNSET = re.compile(r"\S+\.n\.0*[1-9]\d*")
"""NLTK's name of a noun's synset: a lemma, n, and the number of its sense from 1 on."""

DEBIAN_WORDNET = Path("/usr/share/wordnet")

REMEDY = (
    "Install it (python -m nltk.downloader wordnet, or apt-get install wordnet-base), or give each class a definition "
    "of its own"
)

NUM_LINES = {"data.noun": 82_115, "index.noun": 117_798}
"""Synsets and words among WordNet 3.0's nouns, as wnstats(7WN) counts them; their files have a line for each."""

VERSION = re.compile(rb"WordNet (\d[\d.]*) Copyright")

EXAMPLE = re.compile(r'".*?"')


class WordNet:
    """All nouns, taken apart when it is opened."""

    def __init__(self, data: Sequence[str], index: Sequence[str]) -> None:
        """Take the lines of both files."""
        self.senses = dict(map(_senses_of_line, index))
        """Offsets of a word's synsets, in the order of its senses."""

        self.synsets = {int(line[:8]): _fields(line) for line in data}
        """Words, offsets of hypernyms and definition of each, by its offset."""

        self.entries = {offset: self._entry(offset) for offset in self.synsets}

    def _entry(self, offset: int) -> ClassEntry:
        words, hypernyms, definition = self.synsets[offset]
        first = words[0].lower()
        lemmas = tuple(word.replace("_", " ") for word in words)
        return ClassEntry(
            class_name=lemmas[0],
            wnid=f"n{offset:08}",
            synset=f"{first}.n.{self.senses[first].index(offset) + 1:02}",
            lemmas=lemmas,
            definition=definition,
            hypernyms=tuple(self.synsets[hypernym][0][0].replace("_", " ") for hypernym in hypernyms),
        )

    def by_wnid(self, wnid: str) -> ClassEntry:
        """Return the synset of a wnid such as n02084071; ValueError if there is none."""
        entry = self.entries.get(int(wnid[1:])) if WNID.fullmatch(wnid) else None
        if entry is None:
            raise ValueError(f"'{wnid}' is no wnid of a noun in WordNet 3.0. Is it from another version, or mistyped?")
        return entry

    def by_synset(self, name: str) -> ClassEntry:
        """Return the synset of a name such as dog.n.01; ValueError if there is none, with what there is."""
        word, _, number = name.rsplit(".", 2) if SYNSET.fullmatch(name) else (name.partition(".")[0], "", "0")
        senses = self._nouns(word)
        if not 1 <= int(number) <= len(senses):
            raise ValueError(
                f"'{name}' is no synset of a noun in WordNet 3.0. {_choice_of(senses) or 'Write word.n.01, say.'}"
            )
        return senses[int(number) - 1]

    def by_word(self, word: str) -> ClassEntry | None:
        """Return the only noun of this name, None if WordNet has none; ValueError with all senses if it has several.

        Never the first sense of several: "crane" is a bird and a machine (the polysemy of arXiv 2212.08420).
        """
        senses = self._nouns(word)
        if len(senses) > 1:
            raise ValueError(f"'{word}' is ambiguous. {_choice_of(senses)}")
        return senses[0] if senses else None

    def _nouns(self, word: str) -> list[ClassEntry]:
        return [self.entries[offset] for offset in self.senses.get(word.replace(" ", "_").lower(), ())]


def _senses_of_line(line: str) -> tuple[str, list[int]]:
    """Return the word of a line of index.noun, and its offsets, which come last."""
    word, _, num_senses, *others = line.split()
    return word, [int(offset) for offset in others[-int(num_senses) :]]


def _fields(line: str) -> tuple[list[str], list[int], str]:
    """Return words, offsets of hypernyms in WordNet's own order, and definition of a line of data.noun."""
    columns, _, gloss = line.partition("|")
    fields = columns.split()
    after_words = 4 + 2 * int(fields[3], 16)
    # After the words and a count come pointers of four fields: symbol, offset, part of speech, source and target.
    pointers = fields[after_words + 1 :]
    hypernyms = [int(pointers[i + 1]) for i in range(0, len(pointers), 4) if pointers[i] == "@"]
    return fields[4:after_words:2], hypernyms, EXAMPLE.sub("", gloss).strip().strip("; ")


def _choice_of(senses: Sequence[ClassEntry]) -> str:
    named = "; ".join(f"{entry.synset} ({entry.definition})" for entry in senses)
    return f"Give one of these as its synset: {named}." if named else ""


def open_wordnet() -> WordNet:
    """Open WordNet 3.0 wherever this machine has it; ValueError with the remedy if it has not, or not all of it."""
    place = "WordNet"
    try:
        root = _find()
        place = f"WordNet in '{root}'"
        data, index = (_read_lines(root, name) for name in NUM_LINES)
        return WordNet(data, index)
    except _UnusableError as error:
        raise ValueError(f"{place} {error}. {REMEDY}.") from error
    except Exception as error:  # of any kind where files are damaged
        raise ValueError(f"{place} cannot be read ({type(error).__name__}: {error}). {REMEDY}.") from error


class _UnusableError(Exception):
    """What is wrong with WordNet, after the place where it is."""


def _find() -> Any:
    """Return where WordNet is, NLTK's own or Debian's: a path, or NLTK's pointer, which has its methods."""
    for name in ("corpora/wordnet", "corpora/wordnet.zip/wordnet/"):
        try:
            return nltk.data.find(name)
        except LookupError:
            continue
    if not DEBIAN_WORDNET.is_dir():
        raise _UnusableError("3.0 is not on this machine")
    return DEBIAN_WORDNET


def _read_lines(root: Any, name: str) -> list[str]:
    """Return the lines of a file but for its licence, if they are those of 3.0, and each is where it says itself."""
    with (root / name).open("rb") if isinstance(root, Path) else root.join(name).open() as file:
        content = file.read()
    version = VERSION.search(content)
    if version and version[1] != b"3.0":
        raise _UnusableError(f"is version {version[1].decode()}, whose numbers mean other synsets than 3.0's")
    lines = [line for line in content.splitlines(keepends=True) if not line.startswith(b"  ")]
    if len(lines) != NUM_LINES[name]:
        raise _UnusableError(f"is damaged: {name} has {len(lines):,} lines, not {NUM_LINES[name]:,}")
    offset = content.find(lines[0])
    for line in lines if name == "data.noun" else ():
        if line[:8] != b"%08d" % offset:
            raise _UnusableError(f"is damaged: what is at {offset:08} of {name} begins {line[:8]!r}")
        offset += len(line)
    return [line.decode() for line in lines]
