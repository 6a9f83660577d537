"""Make a label space's table from WordNet 3.0, read through NLTK.

    python -m generation.data.build_table digits zero.n.02 one.n.01 ...

writes `generation/data/digits.json`, classes sorted by wnid. WordNet itself is not shipped: Debian's `wordnet-base` has
it under /usr/share/wordnet, without the two small files `lexnames` and `index.sense` that NLTK asks for.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nltk

from generation.labels import TABLES

DEBIAN_WORDNET = Path("/usr/share/wordnet")

LEXICOGRAPHER_FILES = (
    "adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body noun.cognition "
    "noun.communication noun.event noun.feeling noun.food noun.group noun.location noun.motive noun.object noun.person "
    "noun.phenomenon noun.plant noun.possession noun.process noun.quantity noun.relation noun.shape noun.state "
    "noun.substance noun.time verb.body verb.change verb.cognition verb.communication verb.competition "
    "verb.consumption verb.contact verb.creation verb.emotion verb.motion verb.perception verb.possession verb.social "
    "verb.stative verb.weather adj.ppl"
).split()
"""In the order of lexnames(5WN)."""

PARTS_OF_SPEECH = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}


def open_wordnet(source: Path, scratch: Path) -> Any:
    """Return NLTK's reader over `source`, laid out under `scratch` with the two files that Debian leaves out."""
    corpus = scratch / "corpora" / "wordnet"
    corpus.mkdir(parents=True)
    for path in source.iterdir():
        if path.is_file():
            (corpus / path.name).write_bytes(path.read_bytes())
    lines = (f"{i:02}\t{name}\t{PARTS_OF_SPEECH[name.split('.')[0]]}\n" for i, name in enumerate(LEXICOGRAPHER_FILES))
    (corpus / "lexnames").write_text("".join(lines))
    (corpus / "index.sense").touch()
    return nltk.corpus.reader.WordNetCorpusReader(nltk.data.FileSystemPathPointer(str(corpus)), omw_reader=None)


def table(synset_names: Sequence[str], source: Path = DEBIAN_WORDNET) -> list[dict[str, Any]]:
    """Return one row a synset, sorted by wnid."""
    with tempfile.TemporaryDirectory() as scratch:
        nltk.data.path.insert(0, scratch)
        wordnet = open_wordnet(source, Path(scratch))
        rows = [row(wordnet.synset(name)) for name in synset_names]
        nltk.data.path.remove(scratch)
    return sorted(rows, key=lambda entry: entry["wnid"])


def row(synset: Any) -> dict[str, Any]:
    """Return the fields of `generation.labels.ClassEntry`."""
    return {
        "wnid": f"{synset.pos()}{synset.offset():08}",
        "synset": synset.name(),
        "lemmas": [words(name) for name in synset.lemma_names()],
        "definition": synset.definition(),
        "hypernyms": [words(hypernym.lemma_names()[0]) for hypernym in synset.hypernyms()],
    }


def words(lemma_name: str) -> str:
    """Return `Captain Hicks` for `Captain_Hicks`."""
    return lemma_name.replace("_", " ")


def main() -> None:
    """Write the table named first from the synsets named after it."""
    name, *synset_names = sys.argv[1:]
    rows = table(synset_names)
    (TABLES / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(f"{len(rows)} classes in {TABLES / f'{name}.json'}")


if __name__ == "__main__":
    main()
