"""WordNet 3.0's nouns: look up a class by wnid, synset or word.

Needed to read a user's classes and to build the tables in generation/data; built-in label spaces do not need it.
WordNet is not included: NLTK's download is used if present, else Debian's package `wordnet-base`. The file format is
wndb(5WN). (NLTK's own reader needs two files that Debian lacks, and all parts of speech.)
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nltk

from generation.recipes.labels import ClassEntry

WNID = re.compile(r"n\d{8}")
"""A synset as ImageNet names it: part of speech and WordNet 3.0 offset."""

SYNSET = re.compile(r"\S+\.n\.0*[1-9]\d*")
"""A noun synset as NLTK names it: lemma, n, and the sense's number from 1."""

DEBIAN_WORDNET = Path("/usr/share/wordnet")

REMEDY = (
    "Install it (python -m nltk.downloader wordnet, or apt-get install wordnet-base), or write a definition for each "
    "class"
)

NUM_LINES = {"data.noun": 82_115, "index.noun": 117_798}
"""Number of noun synsets and words in WordNet 3.0 by wnstats(7WN), one per line of the files."""

VERSION = re.compile(rb"WordNet (\d[\d.]*) Copyright")

EXAMPLE = re.compile(r'".*?"')


class WordNet:
    """All nouns of WordNet 3.0, parsed when opened."""

    def __init__(self, data: Sequence[str], index: Sequence[str]) -> None:
        """Parse the lines of data.noun and index.noun."""
        self.senses = dict(map(_senses_of_line, index))
        """Synset offsets by word, in the order of its senses."""

        self.synsets = {int(line[:8]): _fields(line) for line in data}
        """Words, hypernym offsets and definition of each synset, by offset."""

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
        """Return the synset of a wnid such as n02084071; raise ValueError if there is none."""
        entry = self.entries.get(int(wnid[1:])) if WNID.fullmatch(wnid) else None
        if entry is None:
            raise ValueError(f"'{wnid}' is not the wnid of a noun in WordNet 3.0. Check the spelling and version.")
        return entry

    def by_synset(self, name: str) -> ClassEntry:
        """Return the synset of a name such as dog.n.01; raise ValueError with the word's synsets if there is none."""
        word, _, number = name.rsplit(".", 2) if SYNSET.fullmatch(name) else (name.partition(".")[0], "", "0")
        senses = self._nouns(word)
        if not 1 <= int(number) <= len(senses):
            raise ValueError(
                f"'{name}' is not a noun synset in WordNet 3.0. {_list_senses(senses) or 'Use the form dog.n.01.'}"
            )
        return senses[int(number) - 1]

    def by_word(self, word: str) -> ClassEntry | None:
        """Return the only noun of this name, or None; raise ValueError with all senses if there are several.

        Never guesses the first sense: "crane" is a bird and a machine (the polysemy of arXiv 2212.08420).
        """
        senses = self._nouns(word)
        if len(senses) > 1:
            raise ValueError(f"'{word}' is ambiguous. {_list_senses(senses)}")
        return senses[0] if senses else None

    def _nouns(self, word: str) -> list[ClassEntry]:
        return [self.entries[offset] for offset in self.senses.get(word.replace(" ", "_").lower(), ())]


def _senses_of_line(line: str) -> tuple[str, list[int]]:
    """Return the word of an index.noun line and its synset offsets, which come last."""
    word, _, num_senses, *others = line.split()
    return word, [int(offset) for offset in others[-int(num_senses) :]]


def _fields(line: str) -> tuple[list[str], list[int], str]:
    """Return words, hypernym offsets (in WordNet's order) and definition of a data.noun line."""
    columns, _, gloss = line.partition("|")
    fields = columns.split()
    after_words = 4 + 2 * int(fields[3], 16)
    # After the words and a count come pointers of four fields: symbol, offset, part of speech, source and target.
    pointers = fields[after_words + 1 :]
    hypernyms = [int(pointers[i + 1]) for i in range(0, len(pointers), 4) if pointers[i] == "@"]
    return fields[4:after_words:2], hypernyms, EXAMPLE.sub("", gloss).strip().strip("; ")


def _list_senses(senses: Sequence[ClassEntry]) -> str:
    named = "; ".join(f"{entry.synset} ({entry.definition})" for entry in senses)
    return f"Use one of these synsets: {named}." if named else ""


def open_wordnet() -> WordNet:
    """Open this machine's WordNet 3.0; raise ValueError with the remedy if it is missing or damaged."""
    source = "WordNet"
    try:
        root = _find()
        source = f"WordNet in '{root}'"
        data, index = (_read_lines(root, name) for name in NUM_LINES)
        return WordNet(data, index)
    except _UnusableError as error:
        raise ValueError(f"{source} {error}. {REMEDY}.") from error
    except Exception as error:  # damaged files raise any kind
        raise ValueError(f"{source} cannot be read ({type(error).__name__}: {error}). {REMEDY}.") from error


class _UnusableError(Exception):
    """A problem with WordNet; its message follows the location."""


def _find() -> Any:
    """Return the location of NLTK's or Debian's WordNet: a path, or an NLTK path pointer."""
    for name in ("corpora/wordnet", "corpora/wordnet.zip/wordnet/"):
        try:
            return nltk.data.find(name)
        except LookupError:
            continue
    if not DEBIAN_WORDNET.is_dir():
        raise _UnusableError("3.0 is not on this machine")
    return DEBIAN_WORDNET


def _read_lines(root: Any, name: str) -> list[str]:
    """Return a file's lines without its licence, after checking version, line count and offsets."""
    with (root / name).open("rb") if isinstance(root, Path) else root.join(name).open() as file:
        content = file.read()
    version = VERSION.search(content)
    if version and version[1] != b"3.0":
        raise _UnusableError(f"is version {version[1].decode()}, whose offsets differ from 3.0's")
    lines = [line for line in content.splitlines(keepends=True) if not line.startswith(b"  ")]
    if len(lines) != NUM_LINES[name]:
        raise _UnusableError(f"is damaged: {name} has {len(lines):,} lines, not {NUM_LINES[name]:,}")
    offset = content.find(lines[0])
    for line in lines if name == "data.noun" else ():
        if line[:8] != b"%08d" % offset:
            raise _UnusableError(f"is damaged: the line at offset {offset:08} of {name} begins with {line[:8]!r}")
        offset += len(line)
    return [line.decode() for line in lines]
