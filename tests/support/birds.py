"""Classes and small image files that tests of real images share."""

from pathlib import Path

from PIL import Image

from generation.recipes.labels import ClassEntry, LabelSpace

BIRDS = LabelSpace(
    "birds",
    (
        ClassEntry("crane", wnid="n02012849"),
        ClassEntry("crane", wnid="n03126707"),
        ClassEntry("Snowy Owl", wnid="n01621127"),
        ClassEntry("puffin"),
    ),
)


def write(folder: Path, *names: str) -> Path:
    """Make small images of these names, each of one grey: that of its place among them."""
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), i).save(path, format="PNG")
    return folder
