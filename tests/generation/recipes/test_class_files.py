import os
import shutil
from pathlib import Path

import pytest

from generation.recipes import class_files, wordnet
from generation.recipes.class_files import read_class_file
from generation.recipes.labels import ClassEntry
from generation.recipes.wordnet import DEBIAN_WORDNET, open_wordnet

needs_wordnet = pytest.mark.skipif(
    not DEBIAN_WORDNET.is_dir(), reason="WordNet 3.0 is not installed (Debian: wordnet-base)"
)


@pytest.fixture(scope="module")
def opened_wordnet():
    return open_wordnet()


@pytest.fixture
def wordnet_opened_once(opened_wordnet, monkeypatch):
    """Open WordNet once; it takes two seconds."""
    monkeypatch.setattr(class_files, "open_wordnet", lambda: opened_wordnet)


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@needs_wordnet
def test_classes_follow_the_file_by_wnid_synset_or_unambiguous_name(tmp_path: Path):
    text = "- n02084071\n- goldfinch.n.02\n- aardvark\n- {class_name: hoist, synset: crane.n.04}\n"
    space = read_class_file(written(tmp_path / "mine.yaml", text))
    assert space.name == "mine.yaml"
    assert [entry.synset for entry in space.classes] == ["dog.n.01", "goldfinch.n.02", "aardvark.n.01", "crane.n.04"]
    assert space.class_names == ("dog", "goldfinch", "aardvark", "hoist")
    assert space.classes[0].lemmas == ("dog", "domestic dog", "Canis familiaris")
    assert space.classes[3].lemmas == ("hoist", "crane")
    assert space.classes[0].hypernyms == ("canine", "domestic animal")
    assert space.classes[3].definition == (
        "lifts and moves heavy objects; lifting tackle is suspended from a pivoted boom that "
        "rotates around a vertical axis"
    )


@needs_wordnet
def test_ambiguous_name_is_an_error_that_lists_its_senses(tmp_path: Path):
    path = written(tmp_path / "mine.yaml", "- aardvark\n- crane\n")
    with pytest.raises(ValueError, match=r"^mine\.yaml, class 2: 'crane' is ambiguous\.") as caught:
        read_class_file(path)
    assert "crane.n.04 (lifts and moves heavy objects" in str(caught.value)
    assert "crane.n.05 (large long-necked wading bird" in str(caught.value)


@needs_wordnet
def test_unknown_name_is_a_class_of_that_name(tmp_path: Path):
    space = read_class_file(written(tmp_path / "mine.csv", "class_name,definition\nzorblax 3000,\naardvark,\n"))
    assert space.classes[0] == ClassEntry("zorblax 3000", lemmas=("zorblax 3000",))
    assert space.classes[1].wnid == "n02082791"


@needs_wordnet
@pytest.mark.usefixtures("wordnet_opened_once")
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("- n00000001\n- aardvark", r"class 1: 'n00000001' is not the wnid"),
        (
            "- dog.n.99\n- aardvark",
            r"class 1: 'dog\.n\.99' is not a noun synset .*dog\.n\.01 \(a member of the genus Canis",
        ),
        ("- dog.n.00\n- aardvark", r"class 1: 'dog\.n\.00' looks like a wnid or synset"),
        ("- {synset: dog.n.-1}\n- aardvark", r"class 1: 'dog\.n\.-1' is not a noun synset"),
        ("- {synset: quickly.r.01}\n- aardvark", r"class 1: 'quickly\.r\.01' is not a noun synset"),
        ("- n0208407\n- aardvark", r"class 1: 'n0208407' looks like a wnid or synset but is neither"),
        ("- N02084071\n- aardvark", r"class 1: 'N02084071' looks like a wnid"),
        ("- dog.v.01\n- aardvark", r"class 1: 'dog\.v\.01' looks like a wnid or synset"),
        ("- {wnid: n02084071, synset: cat.n.01}\n- aardvark", r"n02084071 is dog\.n\.01, not cat\.n\.01"),
        ("- n02084071\n- {class_name: hound, synset: dog.n.01}", r"has the class 'n02084071' 2 times"),
    ],
)
def test_unknown_and_duplicate_synsets_are_rejected(rows: str, message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        read_class_file(written(tmp_path / "mine.yaml", rows))


def test_classes_with_definitions_need_no_wordnet(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(wordnet, "DEBIAN_WORDNET", tmp_path / "nowhere")
    monkeypatch.setattr("nltk.data.path", [])
    rows = "class_name,definition,hypernym\ncrane,a machine that lifts,machine\nheron,a bird that wades,bird\n"
    space = read_class_file(written(tmp_path / "mine.csv", rows))
    assert space.classes[0] == ClassEntry(
        "crane", lemmas=("crane",), definition="a machine that lifts", hypernyms=("machine",)
    )
    with pytest.raises(ValueError, match=r"WordNet 3\.0 is not on this machine\. Install it .*or write a definition"):
        read_class_file(written(tmp_path / "bare.yaml", "- crane\n- heron\n"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("mine.yaml", "crane: 1", "must be a list of classes"),
        ("mine.yaml", "- 7\n- eight", r"class 1 is 7; write a name, in quotes"),
        ("mine.yaml", "- {name: crane}\n- heron", r"class 1 has the unknown field 'name'\. Use class_name, wnid"),
        ("mine.yaml", "- {class_name: 7}\n- heron", r"class 1 has class_name 7, which is not text\. Write it in"),
        ("mine.yaml", "- {definition: a bird}\n- heron", "class 1 has no class_name, wnid or synset"),
        ("mine.yaml", "- heron", "has 1 classes"),
        ("mine.yaml", "- [", "cannot be read"),
        ("mine.csv", "class_name,definition\nheron,a bird\nheron,another\n", "has the class 'heron' 2 times"),
        ("mine.csv", "heron\ncrane\n", "class 1 has the unknown field 'heron'"),
        ("mine.csv", "class_name\nheron, grey\ncrane\n", "class 1 has more fields than the header"),
        ("mine.csv", 'class_name\n"heron\ncrane\n', "cannot be read: unexpected end of data"),
    ],
)
def test_invalid_file_is_rejected_with_the_location(name: str, text: str, message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        read_class_file(written(tmp_path / name, text))


@needs_wordnet
def test_spreadsheet_csv_is_read_with_bom_line_breaks_and_synsets(tmp_path: Path):
    text = '\ufeffclass_name,definition\r\nn02084071,\r\nheron,"a bird\r\nthat wades"\r\ngoldfinch.n.02,\r\n'
    (tmp_path / "mine.csv").write_bytes(text.encode())
    space = read_class_file(tmp_path / "mine.csv")
    assert space.class_names == ("dog", "heron", "goldfinch")
    assert space.classes[1].definition.split() == ["a", "bird", "that", "wades"]


@needs_wordnet
@pytest.mark.slow
def test_wordnet_is_read_from_nltks_zipped_download(tmp_path: Path, monkeypatch):
    shutil.copytree(DEBIAN_WORDNET, tmp_path / "unzipped" / "wordnet")
    shutil.make_archive(str(tmp_path / "corpora" / "wordnet"), "zip", tmp_path / "unzipped", "wordnet")
    monkeypatch.setattr(wordnet, "DEBIAN_WORDNET", tmp_path / "nowhere")
    monkeypatch.setattr("nltk.data.path", [str(tmp_path)])
    assert open_wordnet().by_wnid("n02776631").hypernyms == ("workplace", "shop")


def test_missing_file_is_named():
    with pytest.raises(ValueError, match=r"'nowhere\.yaml' cannot be read"):
        read_class_file(Path("nowhere.yaml"))


def test_pipe_is_not_read(tmp_path: Path):
    os.mkfifo(tmp_path / "mine.yaml")
    with pytest.raises(ValueError, match=r"mine\.yaml' cannot be read: it is not a regular file"):
        read_class_file(tmp_path / "mine.yaml")


ENTITY = "%08d 03 n 01 entity 0 000 | that which is  \n"
LICENCE = "  14 WordNet %s Copyright 2006 by Princeton University.  \n"


def nouns(folder: Path, monkeypatch, licence: str, *, data: str, num_lines: int) -> None:
    """Replace this machine's WordNet by two small files."""
    folder.mkdir()
    (folder / "data.noun").write_text(licence + data)
    (folder / "index.noun").write_text(licence + "entity n 1 0 1 0 00000059\n")
    monkeypatch.setattr(wordnet, "DEBIAN_WORDNET", folder)
    monkeypatch.setattr(wordnet, "NUM_LINES", {"data.noun": num_lines, "index.noun": 1})
    monkeypatch.setattr("nltk.data.path", [])


@pytest.mark.parametrize(
    ("version", "data", "num_lines", "message"),
    [
        ("3.1", ENTITY % 59, 1, r"is version 3\.1, whose offsets differ from 3\.0's\. Install it"),
        ("3.0", ENTITY % 59, 2, r"is damaged: data\.noun has 1 lines, not 2\. Install it"),
        ("3.0", ENTITY % 60, 1, r"is damaged: the line at offset 00000059 of data\.noun begins with b'00000060'\. Ins"),
        ("3.0", "00000059 03 n 01\n", 1, r"cannot be read \(\w+: .*Install it"),
        ("3.0", "00000059 03 n xx entity 0 000 | that\n", 1, r"cannot be read \(\w+: .*Install it"),
    ],
)
def test_damaged_or_other_wordnet_is_a_one_line_error(
    version: str, data: str, num_lines: int, message: str, tmp_path: Path, monkeypatch
):
    nouns(tmp_path / "wordnet", monkeypatch, LICENCE % version, data=data, num_lines=num_lines)
    with pytest.raises(ValueError, match=rf"^WordNet in '{tmp_path}/wordnet' {message}"):
        read_class_file(written(tmp_path / "mine.yaml", "- crane\n- heron\n"))


def test_unparsable_wordnet_is_a_one_line_error_with_its_path(tmp_path: Path, monkeypatch):
    folder = tmp_path / "corpora" / "wordnet"
    folder.parent.mkdir()
    nouns(folder, monkeypatch, LICENCE % "3.0", data=ENTITY % 59, num_lines=1)
    monkeypatch.setattr("nltk.data.path", [str(tmp_path)])
    assert open_wordnet().by_synset("entity.n.01").definition == "that which is"
    (folder / "index.noun").write_bytes(b"entity n 1 0 1 0 \xc3\x28\n")
    with pytest.raises(ValueError, match=rf"^WordNet in '{folder}' cannot be read \(.*Install it"):
        read_class_file(written(tmp_path / "mine.yaml", "- crane\n- heron\n"))


def test_damaged_wordnet_download_is_a_one_line_error(tmp_path: Path, monkeypatch):
    (tmp_path / "corpora").mkdir()
    (tmp_path / "corpora" / "wordnet.zip").write_bytes(b"cut short")
    monkeypatch.setattr("nltk.data.path", [str(tmp_path)])
    with pytest.raises(ValueError, match=r"^WordNet cannot be read \(BadZipFile: .*Install it"):
        read_class_file(written(tmp_path / "mine.yaml", "- crane\n- heron\n"))
