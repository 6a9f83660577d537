"""Class folders: images found, their order and their classes."""

import os
import pickle
import socket
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from evaluation.images.folders import EXTENSIONS, list_images
from generation.shards.storage import StorageError
from tests.support.birds import write


def test_extensions_are_torchvisions():
    assert EXTENSIONS == IMG_EXTENSIONS


def test_images_of_class_folders_are_listed_in_a_sorted_order(tmp_path: Path):
    write(tmp_path, "puffin/b.JPEG", "puffin/a.Tiff", "n01621127/ü.jpg", "n01621127/z.webp")
    write(tmp_path, "puffin/._b.jpg", ".git/no.png", "no.png")
    (tmp_path / "puffin" / "notes.txt").write_text("no image")
    (tmp_path / "n02012849").mkdir()
    images = list_images(str(tmp_path))
    assert images.classes == ("n01621127", "n02012849", "puffin")
    assert images.titles == ()
    assert images.num_images == 4
    assert images.class_numbers().tolist() == [0, 0, 2, 2]
    assert images.class_numbers().dtype == np.int64
    ends = ("n01621127/z.webp", "n01621127/ü.jpg", "puffin/a.Tiff", "puffin/b.JPEG")
    assert images.names() == [f"{tmp_path}/{end}" for end in ends]
    read = images.opener()
    assert [read(position).getpixel((0, 0)) for position in range(4)] == [(grey,) * 3 for grey in (3, 2, 1, 0)]


def test_images_and_classes_are_those_of_torchvisions_folder(tmp_path: Path):
    write(tmp_path, "b/2.png", "b/10.png", "b/B.png", "B/a.jpg", "a c/x.png")
    write(tmp_path, "b/a/z.png", "b/a-b/y.png", "b/a/c/x.png", "b/a.png/w.png", "b/images/2.png", "c/d/e/v.png")
    theirs = ImageFolder(str(tmp_path))
    images = list_images(str(tmp_path))
    assert list(images.classes) == theirs.classes
    assert list(zip(images.names(), images.class_numbers().tolist(), strict=True)) == theirs.samples
    ends = ["2.png", "10.png", "B.png", "a-b/y.png", "a.png/w.png", "a/z.png", "a/c/x.png", "images/2.png"]
    assert {f"{tmp_path}/b/{end}" for end in ends} == set(images.names()[2:-1])


def test_image_list_is_small_when_pickled(tmp_path: Path):
    (tmp_path / "puffin").mkdir()
    for i in range(2000):
        (tmp_path / "puffin" / f"n01440764_{i}.JPEG").touch()
    images = list_images(str(tmp_path))
    sent = pickle.dumps(images)
    assert len(sent) < 10 * 2000
    assert pickle.loads(sent).names() == images.names()


def test_broken_link_among_linked_class_folders_is_reported(tmp_path: Path):
    elsewhere = write(tmp_path / "elsewhere", "a.png")
    (tmp_path / "birds").mkdir()
    (tmp_path / "birds" / "puffin").symlink_to(elsewhere)
    assert list_images(str(tmp_path / "birds")).num_images == 1
    (tmp_path / "birds" / "Snowy Owl").symlink_to(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"Snowy Owl' cannot be listed: No such file or directory\."):
        list_images(str(tmp_path / "birds"))


def test_image_with_a_broken_link_is_reported_when_read(tmp_path: Path):
    write(tmp_path, "puffin/a.png")
    (tmp_path / "puffin" / "b.png").symlink_to(tmp_path / "gone")
    images = list_images(str(tmp_path))
    assert images.num_images == 2
    with pytest.raises(StorageError, match=r"puffin/b\.png' cannot be read on .*: No such file"):
        images.opener()(1)


def test_place_without_images_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"gone' cannot be listed: No such file or directory\. Use a folder"):
        list_images(str(tmp_path / "gone"))
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file' cannot be listed: Not a directory\. Use a folder"):
        list_images(str(tmp_path / "file"))
    (tmp_path / "puffin").mkdir()
    write(tmp_path, "flat.png")
    with pytest.raises(ValueError, match=r"has no images in class folders\. Use a folder"):
        list_images(str(tmp_path))


def test_hash_changes_with_names_and_classes(tmp_path: Path):
    listed = ("puffin/a.png", "puffin/b.png", "owl/c.png")
    other_name = ("puffin/a.png", "puffin/d.png", "owl/c.png")
    other_class = ("puffin/a.png", "owl/b.png", "owl/c.png")
    other_folder = ("auk/a.png", "auk/b.png", "owl/c.png")

    def hash_in(place: str, names: tuple[str, ...]) -> int:
        return list_images(str(write(tmp_path / place, *names))).names_hash

    assert hash_in("here", listed) == hash_in("there", listed)
    assert len({hash_in(str(i), names) for i, names in enumerate((listed, other_name, other_class, other_folder))}) == 4


HIDDEN = (".Trashes", ".snapshot", "lost+found", "__MACOSX", "$RECYCLE.BIN", "System Volume Information", "@eaDir")


@pytest.mark.parametrize("hidden", HIDDEN)
def test_hidden_folders_are_skipped(hidden: str, tmp_path: Path):
    write(tmp_path, "puffin/a.png", f"{hidden}/no.png", f"puffin/{hidden}/no.png")
    images = list_images(str(tmp_path))
    assert images.classes == ("puffin",)
    assert images.names() == [f"{tmp_path}/puffin/a.png"]


def test_pipes_sockets_and_devices_are_skipped(tmp_path: Path, monkeypatch):
    write(tmp_path, "puffin/a.png")
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "puffin" / "pipe.png")
    (tmp_path / "puffin" / "device.png").symlink_to("/dev/null")
    monkeypatch.chdir(tmp_path / "puffin")  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("socket.png")
    images = list_images(str(tmp_path))
    assert images.classes == ("puffin",)
    assert images.names() == [f"{tmp_path}/puffin/a.png"]


def test_link_to_itself_is_reported(tmp_path: Path):
    write(tmp_path, "puffin/a.png")
    (tmp_path / "puffin" / "b.png").symlink_to("b.png")
    images = list_images(str(tmp_path))
    with pytest.raises(StorageError, match=r"puffin/b\.png' cannot be read on .*: Too many levels of symbolic links"):
        images.opener()(1)
    (tmp_path / "owl").symlink_to("owl")
    with pytest.raises(ValueError, match=r"owl' cannot be listed: Too many levels of symbolic links\."):
        list_images(str(tmp_path))


def test_link_to_a_parent_folder_is_no_class(tmp_path: Path):
    write(tmp_path / "birds", "puffin/a.png")
    (tmp_path / "birds" / "here").symlink_to(".")
    (tmp_path / "birds" / "above").symlink_to("..")
    assert list_images(str(tmp_path / "birds")).classes == ("puffin",)


def test_link_loops_are_followed_once(tmp_path: Path):
    write(tmp_path, "owl/a.png", "puffin/b.png")
    (tmp_path / "owl" / "other").symlink_to(tmp_path / "puffin")
    (tmp_path / "puffin" / "other").symlink_to(tmp_path / "owl")
    ends = ("owl/a.png", "owl/other/b.png", "puffin/b.png", "puffin/other/a.png")
    assert list_images(str(tmp_path)).names() == [f"{tmp_path}/{end}" for end in ends]


def test_name_that_is_not_utf_8_is_read_and_printed(tmp_path: Path):
    write(tmp_path, "puffin/a.png")
    odd = os.fsencode(tmp_path) + b"/puffin/\xff.png"
    (tmp_path / "puffin" / "a.png").rename(os.fsdecode(odd))
    images = pickle.loads(pickle.dumps(list_images(str(tmp_path))))
    assert images.opener()(0).size == (8, 8)
    Path(os.fsdecode(odd)).write_text("no image")
    with pytest.raises(StorageError, match=r"puffin/\\udcff\.png' cannot be decoded") as error:
        images.opener()(0)
    assert str(error.value).encode()
