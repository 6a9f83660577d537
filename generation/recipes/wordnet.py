"""WordNet 3.0, read through NLTK: from a wnid, a synset's name or a bare word to the words of a class.

Needed to read a user's own classes and to build the tables in generation/data; the label spaces that ship do without.
WordNet itself is not shipped: NLTK's download is used where there is one, else Debian's package `wordnet-base`, which
lacks the two small files `lexnames` and `index.sense` that NLTK asks for.
"""

import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nltk
from nltk.corpus.reader.wordnet import WordNetCorpusReader, WordNetError

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

LEXICOGRAPHER_FILES = (
    "adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body noun.cognition "
    "noun.communication noun.event noun.feeling noun.food noun.group noun.location noun.motive noun.object noun.person "
    "noun.phenomenon noun.plant noun.possession noun.process noun.quantity noun.relation noun.shape noun.state "
    "noun.substance noun.time verb.body verb.change verb.cognition verb.communication verb.competition "
    "verb.consumption verb.contact verb.creation verb.emotion verb.motion verb.perception verb.possession verb.social "
    "verb.stative verb.weather adj.ppl"
).split()
"""In the order of lexnames(5WN)."""

NUM_LINES = {"data.noun": 82_115, "index.noun": 117_798}
"""Synsets and words among WordNet 3.0's nouns, as wnstats(7WN) counts them; their files have a line for each."""

VERSION = re.compile(rb"WordNet (\d[\d.]*) Copyright")

PARTS_OF_SPEECH = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}


class WordNet:
    """WordNet's nouns."""

    def __init__(self, reader: Any) -> None:
        self.reader = reader
        self.data_file = reader.open("data.noun")

    def by_wnid(self, wnid: str) -> ClassEntry:
        """Return the synset of a wnid such as n02084071; ValueError if there is none."""
        synset = self._at_offset(int(wnid[1:])) if WNID.fullmatch(wnid) else None
        if synset is None:
            raise ValueError(f"'{wnid}' is no wnid of a noun in WordNet 3.0. Is it from another version, or mistyped?")
        return self._entry(synset)

    def _at_offset(self, offset: int) -> Any:
        with warnings.catch_warnings(action="ignore"):  # NLTK warns where there is none
            return self.reader.synset_from_pos_and_offset("n", offset)

    def by_synset(self, name: str) -> ClassEntry:
        """Return the synset of a name such as dog.n.01; ValueError if there is none, with what there is."""
        try:
            if not SYNSET.fullmatch(name):
                raise ValueError("no noun's name")
            return self._entry(self.reader.synset(name))
        except (WordNetError, ValueError) as error:
            word, *_ = name.split(".")
            raise ValueError(
                f"'{name}' is no synset of a noun in WordNet 3.0. {self._senses_of(word) or 'Write word.n.01, say.'}"
            ) from error

    def by_word(self, word: str) -> ClassEntry | None:
        """Return the only noun of this name, None if WordNet has none; ValueError with all senses if it has several.

        Never the first sense of several: "crane" is a bird and a machine (the polysemy of arXiv 2212.08420).
        """
        synsets = self._nouns(word)
        if len(synsets) > 1:
            raise ValueError(f"'{word}' is ambiguous. {self._senses_of(word)}")
        return self._entry(synsets[0]) if synsets else None

    def _entry(self, synset: Any) -> ClassEntry:
        lemmas = tuple(_words(name) for name in synset.lemma_names())
        order = self._hypernym_offsets(synset.offset())
        hypernyms = sorted(synset.hypernyms(), key=lambda hypernym: order.index(hypernym.offset()))
        return ClassEntry(
            class_name=lemmas[0],
            wnid=f"{synset.pos()}{synset.offset():08}",
            synset=synset.name(),
            lemmas=lemmas,
            definition=synset.definition(),
            hypernyms=tuple(_words(hypernym.lemma_names()[0]) for hypernym in hypernyms),
        )

    def _hypernym_offsets(self, offset: int) -> list[int]:
        """Return a noun's hypernyms in WordNet's own order, see wndb(5WN): NLTK's varies."""
        self.data_file.seek(offset)
        fields = self.data_file.readline().split("|")[0].split()
        num_words = int(fields[3], 16)
        # After the words and a count come pointers of four fields: symbol, offset, part of speech, source and target.
        pointers = fields[4 + 2 * num_words + 1 :]
        return [int(pointers[i + 1]) for i in range(0, len(pointers), 4) if pointers[i] == "@"]

    def _senses_of(self, word: str) -> str:
        senses = "; ".join(f"{synset.name()} ({synset.definition()})" for synset in self._nouns(word))
        return f"Give one of these as its synset: {senses}." if senses else ""

    def _nouns(self, word: str) -> list[Any]:
        """Return the noun synsets that have this very name; NLTK alone would also take 'glasses' for 'glass'."""
        lemma = word.replace(" ", "_").lower()
        synsets = self.reader.synsets(lemma, pos="n")
        return [synset for synset in synsets if lemma in (name.lower() for name in synset.lemma_names())]


def _words(lemma_name: str) -> str:
    """Return `Captain Hicks` for `Captain_Hicks`."""
    return lemma_name.replace("_", " ")


@contextmanager
def open_wordnet() -> Iterator[WordNet]:
    """Open WordNet 3.0 wherever this machine has it; ValueError with the remedy if it has not, or not all of it."""
    with tempfile.TemporaryDirectory() as scratch:
        nltk.data.path.append(scratch)  # NLTK reads nothing that is not below its data path
        place = "WordNet"
        try:
            root, place = _find(Path(scratch))
            _check_whole(root, place)
            yield WordNet(_reader(root))
        except Exception as error:  # NLTK ends with errors of any kind where files are damaged
            if isinstance(error, ValueError) and not isinstance(error, UnicodeDecodeError):
                raise
            raise ValueError(f"{place} cannot be read ({type(error).__name__}: {error}). {REMEDY}.") from error
        finally:
            nltk.data.path.remove(scratch)


def _find(scratch: Path) -> tuple[Any, str]:
    """Return NLTK's pointer to its own WordNet, or to a copy of Debian's under `scratch`, and what a user calls it."""
    for name in ("corpora/wordnet", "corpora/wordnet.zip/wordnet/"):
        try:
            root = nltk.data.find(name)
        except LookupError:
            continue
        return root, f"WordNet in '{root}'"
    if not DEBIAN_WORDNET.is_dir():
        raise ValueError(f"WordNet 3.0 is not on this machine. {REMEDY}.")
    return _completed(DEBIAN_WORDNET, scratch), f"WordNet in '{DEBIAN_WORDNET}'"


def _check_whole(root: Any, place: str) -> None:
    """Raise ValueError if WordNet's nouns are those of another version, whose numbers mean others, or not all there."""
    for name, num_lines in NUM_LINES.items():
        with root.join(name).open() as file:
            content = file.read()
        version = VERSION.search(content)
        if version and version[1] != b"3.0":
            raise ValueError(
                f"{place} is version {version[1].decode()}, whose numbers mean other synsets than 3.0's. {REMEDY}."
            )
        lines = [line for line in content.splitlines(keepends=True) if not line.startswith(b"  ")]  # not the licence
        if len(lines) != num_lines:
            raise ValueError(f"{place} is damaged: {name} has {len(lines):,} lines, not {num_lines:,}. {REMEDY}.")
        if name == "data.noun":
            _check_offsets(content, place)


def _check_offsets(content: bytes, place: str) -> None:
    """Raise ValueError unless each synset is where its own line says."""
    offset = 0
    for line in content.splitlines(keepends=True):
        if not line.startswith(b"  ") and line[:8] != b"%08d" % offset:
            raise ValueError(f"{place} is damaged: what is at {offset:08} of data.noun begins {line[:8]!r}. {REMEDY}.")
        offset += len(line)


def _completed(source: Path, scratch: Path) -> Any:
    """Return NLTK's pointer to a copy of WordNet with the two files that Debian leaves out."""
    corpus = scratch / "corpora" / "wordnet"
    corpus.mkdir(parents=True)
    for path in source.iterdir():
        if path.is_file():
            (corpus / path.name).write_bytes(path.read_bytes())
    lines = (f"{i:02}\t{name}\t{PARTS_OF_SPEECH[name.split('.')[0]]}\n" for i, name in enumerate(LEXICOGRAPHER_FILES))
    (corpus / "lexnames").write_text("".join(lines))
    (corpus / "index.sense").touch()
    return nltk.data.FileSystemPathPointer(str(corpus))


def _reader(root: Any) -> WordNetCorpusReader:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The multilingual functions")
        try:
            return WordNetCorpusReader(root, omw_reader=None)
        except ValueError as error:  # NLTK's own, of a line that it cannot take apart
            raise RuntimeError(str(error)) from error
