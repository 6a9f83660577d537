"""Classes and small image files for tests of real images."""

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
    """Write small images with these names; image i has grey level i."""
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), i).save(path, format="PNG")
    return folder
