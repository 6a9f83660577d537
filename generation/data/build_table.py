"""Build the tables of the built-in label spaces from WordNet 3.0 and lists of wnids.

    python -m generation.data.build_table

writes `digits.json` and `imagenet1k.json` beside this file, classes sorted by wnid as torchvision's ImageFolder does.
The wnids of ImageNet-1K come from timm. The other lists are unmodified copies: `imagenet100.txt` has the wnids of
ImageNet-100 from the repository HobbitLong/CMC (commit 7b227be), `places365.txt` the scene categories of
CSAILVision/places365 (commit 0621862) in label order.
"""

import dataclasses
import json

from generation.recipes.labels import TABLES, ClassEntry
from generation.recipes.wordnet import WordNet, open_wordnet

DIGITS = tuple(f"{name}.n.01" for name in "one two three four five six seven eight nine".split())


def digits(wordnet: WordNet) -> list[ClassEntry]:
    """Return the digits zero to nine; `zero` is the digit (`zero.n.02`), not nothing (`zero.n.01`)."""
    return [wordnet.by_synset(name) for name in ("zero.n.02", *DIGITS)]


def imagenet1k(wordnet: WordNet) -> list[ClassEntry]:
    """Return the 1000 classes of ImageNet-1K in label order."""
    from timm.data.imagenet_info import ImageNetInfo

    return [wordnet.by_wnid(wnid) for wnid in ImageNetInfo("imagenet-1k").label_names()]


def main() -> None:
    """Write the tables."""
    wordnet = open_wordnet()
    tables = {"digits": digits(wordnet), "imagenet1k": imagenet1k(wordnet)}
    for name, entries in tables.items():
        rows = [dataclasses.asdict(entry) for entry in sorted(entries, key=lambda entry: entry.wnid)]
        lines = ",\n".join(json.dumps(row) for row in rows)
        (TABLES / f"{name}.json").write_text(f"[\n{lines}\n]\n")
        print(f"{len(rows)} classes in {TABLES / f'{name}.json'}")


if __name__ == "__main__":
    main()
