import os
from pathlib import Path

import pytest

from generation.recipes.labels import load_label_space
from generation.recipes.word_files import read_backgrounds, read_captions, with_places365

DIGITS = load_label_space("digits")


def test_places365_scenes_are_words():
    scenes = with_places365(["places365"])
    assert len(scenes) == len(set(scenes)) == 365
    assert scenes[:3] == ("airfield", "airplane cabin", "airport terminal")
    assert {"indoor church", "outdoor church", "outdoor apartment building"} <= set(scenes)
    assert not any("/" in scene or "_" in scene for scene in scenes)
    assert with_places365(["my garage", "places365"]) == ("my garage", *scenes)


def test_backgrounds_per_class_are_read(tmp_path: Path):
    (tmp_path / "b.yaml").write_text("n13742573: [sand, grass]\nzero: [snow]\n")
    own = ((0, ("snow",)), (1, ("sand", "grass")))
    assert read_backgrounds(tmp_path / "b.yaml", DIGITS, have_common=True) == own


def test_captions_are_grouped_by_class_in_file_order(tmp_path: Path):
    names = [*DIGITS.class_names, "zero"]
    lines = [f'{{"class": "{name}", "caption": "{number}\u2028{name}"}}' for number, name in enumerate(names)]
    (tmp_path / "c.jsonl").write_text("\ufeff" + "\n".join(lines) + "\n\n", encoding="utf-8")
    captions = read_captions(tmp_path / "c.jsonl", DIGITS)
    assert captions[0] == ("0\u2028zero", "10\u2028zero")
    assert captions[9] == ("9\u2028nine",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zero: [snow]", r"has no backgrounds for 9 classes of digits, such as 'one'"),
        ("zeero: [snow]", r"b\.yaml: 'zeero' is not a class of digits"),
        ("zero: snow", r"class 'zero' has 'snow'; use a list"),
        ("zero: []", r"class 'zero' has \[\]"),
        ("- snow", "must map classes"),
        ("zero: [", "cannot be read"),
        ("zero: [snow]\nn13742358: [sand]", r"has the class 'n13742358' twice, by name and by wnid"),
    ],
)
def test_invalid_backgrounds_are_rejected(text: str, message: str, tmp_path: Path):
    (tmp_path / "b.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_backgrounds(tmp_path / "b.yaml", DIGITS, have_common=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"class": "zero", "caption": "a"}', "has no captions for 9 classes"),
        ('\n{"class": "zero"}', r"line 2 is not .*'caption'"),
        ("a zero", "line 1 is not"),
        ('{"class": "zero", "caption": ""}', "line 1 has"),
        ('{"class": "letter", "caption": "a"}', "'letter' is not a class of digits"),
    ],
)
def test_invalid_captions_are_rejected(text: str, message: str, tmp_path: Path):
    (tmp_path / "c.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_captions(tmp_path / "c.jsonl", DIGITS)


@pytest.mark.parametrize("read", [read_captions, lambda path, space: read_backgrounds(path, space, have_common=True)])
def test_pipe_is_not_read(read, tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"pipe' cannot be read: it is not a regular file"):
        read(tmp_path / "pipe", DIGITS)
