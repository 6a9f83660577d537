"""Transfer sets in their published formats, with a few images: images found, their classes and pixels."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import Flowers102, OxfordIIITPet

from evaluation.images.image_list import ImageList
from evaluation.images.transfer_sets import LAYOUTS, open_transfer_set

Found = list[tuple[str, str, int]]
"""Path below the set's folder, class, and the value of all pixels."""


def paint(folder: Path, greys: dict[str, int]) -> None:
    """Write images of one gray value each; PIL detects the format from the contents."""
    for name, grey in greys.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (3, 2), grey).save(path, format="PNG")


def write(file: Path, *lines: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines))


def found(source: ImageList, folder: Path) -> Found:
    read = source.opener()
    pixels = [np.unique(np.asarray(read(position))).tolist() for position in range(source.num_images)]
    assert read(0).mode == "RGB"
    names = [Path(name).relative_to(folder).as_posix() for name in source.names()]
    classes = [source.classes[number] for number in source.class_numbers()]
    return [(*each[:2], *each[2]) for each in zip(names, classes, pixels, strict=True)]


def aircraft(folder: Path) -> tuple[Found, Found]:
    data = folder / "fgvc-aircraft-2013b/data"
    paint(data / "images", {"0034309.jpg": 1, "0034958.jpg": 2, "0037511.jpg": 3})
    write(data / "variants.txt", "Cessna 172", "A320")
    write(data / "images_variant_trainval.txt", "0034958 Cessna 172", "0037511 A320")
    write(data / "images_variant_test.txt", "0034309 A320")
    images = "fgvc-aircraft-2013b/data/images"
    return (
        [(f"{images}/0034958.jpg", "Cessna 172", 2), (f"{images}/0037511.jpg", "A320", 3)],
        [(f"{images}/0034309.jpg", "A320", 1)],
    )


def cars(folder: Path) -> tuple[Found, Found]:
    base = folder / "stanford_cars"
    paint(
        base, {"cars_train/00001.jpg": 1, "cars_train/00002.jpg": 2, "cars_test/00001.jpg": 3, "cars_test/00002.jpg": 4}
    )
    (base / "devkit").mkdir()
    kind = [("fname", "O"), ("class", "O")]
    train, test = (np.array([("00001.jpg", a), ("00002.jpg", b)], dtype=kind) for a, b in ((2, 1), (1, 2)))
    savemat(base / "devkit/cars_train_annos.mat", {"annotations": train})
    savemat(base / "cars_test_annos_withlabels.mat", {"annotations": test})
    savemat(base / "devkit/cars_meta.mat", {"class_names": np.array(["AM General Hummer", "Acura RL"], dtype="O")})
    below = "stanford_cars"
    return (
        [(f"{below}/cars_train/00001.jpg", "Acura RL", 1), (f"{below}/cars_train/00002.jpg", "AM General Hummer", 2)],
        [(f"{below}/cars_test/00001.jpg", "AM General Hummer", 3), (f"{below}/cars_test/00002.jpg", "Acura RL", 4)],
    )


def dtd(folder: Path) -> tuple[Found, Found]:
    base = folder / "dtd/dtd"
    paint(base / "images", {"banded/b_1.jpg": 1, "woven/w_1.jpg": 2, "woven/w_2.jpg": 3, "banded/b_2.jpg": 4})
    write(base / "labels/train1.txt", "woven/w_1.jpg", "banded/b_1.jpg")
    write(base / "labels/val1.txt", "woven/w_2.jpg")  # one class is missing: this one is number 0 here, and 1 among all
    write(base / "labels/test1.txt", "banded/b_2.jpg")
    below = "dtd/dtd/images"
    return (
        [
            (f"{below}/woven/w_1.jpg", "woven", 2),
            (f"{below}/banded/b_1.jpg", "banded", 1),
            (f"{below}/woven/w_2.jpg", "woven", 3),
        ],
        [(f"{below}/banded/b_2.jpg", "banded", 4)],
    )


def flowers(folder: Path) -> tuple[Found, Found]:
    base = folder / "flowers-102"
    paint(base / "jpg", {f"image_{i:05d}.jpg": i for i in range(1, 7)})
    savemat(base / "imagelabels.mat", {"labels": [[3, 1, 3, 102, 1, 3]]})
    savemat(base / "setid.mat", {"trnid": [[2, 6]], "valid": [[4, 3]], "tstid": [[5, 1]]})
    first, third, last = (Flowers102.classes[number] for number in (0, 2, 101))
    trainval, test = [(2, first), (6, third), (4, last), (3, third)], [(5, first), (1, third)]
    below = "flowers-102/jpg"
    return (
        [(f"{below}/image_{i:05d}.jpg", name, i) for i, name in trainval],
        [(f"{below}/image_{i:05d}.jpg", name, i) for i, name in test],
    )


def pets(folder: Path) -> tuple[Found, Found]:
    base = folder / "oxford-iiit-pet"
    paint(
        base / "images", {"Abyssinian_1.jpg": 1, "basset_hound_10.jpg": 2, "Bengal_5.jpg": 3, "basset_hound_9.jpg": 4}
    )
    write(base / "annotations/trainval.txt", "Bengal_5 3 1 2", "Abyssinian_1 1 1 1", "basset_hound_10 2 2 1")
    write(base / "annotations/test.txt", "basset_hound_9 2 2 1")
    below = "oxford-iiit-pet/images"
    return (
        [
            (f"{below}/Bengal_5.jpg", "Bengal", 3),
            (f"{below}/Abyssinian_1.jpg", "Abyssinian", 1),
            (f"{below}/basset_hound_10.jpg", "basset_hound", 2),
        ],
        [(f"{below}/basset_hound_9.jpg", "basset_hound", 4)],
    )


def food101(folder: Path) -> tuple[Found, Found]:
    base = folder / "food-101"
    paint(base / "images", {"sushi/12.jpg": 1, "apple_pie/7.jpg": 2, "apple_pie/8.jpg": 3})
    write(base / "meta/train.json", json.dumps({"sushi": ["sushi/12"], "apple_pie": ["apple_pie/7"]}))
    write(base / "meta/test.json", json.dumps({"sushi": [], "apple_pie": ["apple_pie/8"]}))
    below = "food-101/images"
    return (
        [(f"{below}/sushi/12.jpg", "sushi", 1), (f"{below}/apple_pie/7.jpg", "apple_pie", 2)],
        [(f"{below}/apple_pie/8.jpg", "apple_pie", 3)],
    )


def sun397(folder: Path) -> tuple[Found, Found]:
    base = folder / "SUN397"
    paint(
        base,
        {"a/abbey/sun_x.jpg": 1, "a/apse/indoor/sun_y.jpg": 2, "a/abbey/sun_z.jpg": 3, "a/abbey/sun_unused.jpg": 4},
    )
    write(base / "ClassName.txt", "/a/abbey", "/a/apse/indoor")
    write(folder / "Training_01.txt", "/a/apse/indoor/sun_y.jpg", "/a/abbey/sun_z.jpg")
    write(folder / "Testing_01.txt", "/a/abbey/sun_x.jpg")
    return (
        [("SUN397/a/apse/indoor/sun_y.jpg", "apse/indoor", 2), ("SUN397/a/abbey/sun_z.jpg", "abbey", 3)],
        [("SUN397/a/abbey/sun_x.jpg", "abbey", 1)],
    )


def inat(folder: Path, year: int) -> tuple[Found, Found]:
    a, b, c = (f"train_val{year}/{name}" for name in ("Aves/10/a.jpg", "Aves/9/b.jpg", "Aves/9/c.jpg"))
    paint(folder, {a: 1, b: 2, c: 3})
    images = [{"id": 70, "file_name": a}, {"id": 71, "file_name": b}]
    # Annotations and images are in different orders.
    annotations = [{"id": 0, "image_id": 71, "category_id": 9}, {"id": 1, "image_id": 70, "category_id": 10}]
    write(folder / f"train{year}.json", json.dumps({"images": images, "annotations": annotations}))
    last = {"images": [{"id": 5, "file_name": c}], "annotations": [{"id": 2, "image_id": 5, "category_id": 9}]}
    write(folder / f"val{year}.json", json.dumps(last))
    return [(b, "9", 2), (a, "10", 1)], [(c, "9", 3)]


def cog(folder: Path) -> tuple[Found, Found]:
    paint(folder, {"train/n2/b.JPEG": 1, "train/n1/c.JPEG": 2, "train/n1/a.JPEG": 3, "test/n2/d.JPEG": 4})
    write(folder / "train/README.txt", "not an image")
    return (
        [("train/n1/a.JPEG", "n1", 3), ("train/n1/c.JPEG", "n1", 2), ("train/n2/b.JPEG", "n2", 1)],
        [("test/n2/d.JPEG", "n2", 4)],
    )


PUBLISHED: dict[str, Callable[[Path], tuple[Found, Found]]] = {
    "aircraft": aircraft,
    "cars": cars,
    "dtd": dtd,
    "flowers": flowers,
    "pets": pets,
    "food101": food101,
    "sun397": sun397,
    "inat2018": lambda folder: inat(folder, 2018),
    "inat2019": lambda folder: inat(folder, 2019),
    "cog_l1": cog,
    "cog_l5": cog,
}


@pytest.fixture(autouse=True)
def flowers_of_any_checksum(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torchvision.datasets.flowers102.check_integrity", lambda path, _md5: Path(path).exists())


@pytest.mark.parametrize("name", PUBLISHED)
def test_set_has_its_published_images(name: str, tmp_path: Path):
    expected = PUBLISHED[name](tmp_path)
    opened = open_transfer_set(name, str(tmp_path))
    assert (found(opened.trainval.source, tmp_path), found(opened.test.source, tmp_path)) == expected
    assert opened.trainval.source.classes == opened.test.source.classes
    assert (opened.name, opened.split) == (name, "published")
    assert opened.solver == ("sgd" if name.startswith(("inat", "cog")) else "lbfgs")


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("aircraft", ("Cessna 172", "A320")),
        ("dtd", ("banded", "woven")),
        ("pets", ("Abyssinian", "basset_hound", "Bengal")),
        ("sun397", ("abbey", "apse/indoor")),
        ("inat2018", ("9", "10")),
    ],
)
def test_classes_are_in_the_order_of_the_set(name: str, classes: tuple[str, ...], tmp_path: Path):
    PUBLISHED[name](tmp_path)
    assert open_transfer_set(name, str(tmp_path)).trainval.source.classes == classes


def test_pets_match_torchvision(tmp_path: Path):
    pets(tmp_path)
    ours, theirs = open_transfer_set("pets", str(tmp_path)).trainval.source, OxfordIIITPet(tmp_path, "trainval")
    read = ours.opener()
    assert [(read(i).tobytes(), number) for i, number in enumerate(ours.class_numbers())] == [
        (theirs[i][0].tobytes(), theirs[i][1]) for i in range(len(theirs))
    ]


def test_eurosat_holds_out_810_fixed_images_of_each_class(tmp_path: Path):
    for name, count in (("Forest", 813), ("Sea", 811)):
        (tmp_path / "eurosat/2750" / name).mkdir(parents=True)
        for i in range(count):
            (tmp_path / "eurosat/2750" / name / f"{name}_{i}.jpg").touch()
    opened, again = (open_transfer_set("eurosat", str(tmp_path)) for _ in range(2))
    names = [source.names() for source in (opened.trainval.source, opened.test.source)]
    assert [sum("Forest" in name for name in part) for part in names] == [3, 810]
    assert [sum("Sea" in name for name in part) for part in names] == [1, 810]
    assert len({*names[0], *names[1]}) == 813 + 811
    assert opened.split == "drawn"
    assert again.trainval.source.names() == names[0]


def test_eurosat_with_too_few_images_for_its_test_is_refused(tmp_path: Path):
    paint(tmp_path / "eurosat/2750", {f"Forest/Forest_{i}.jpg": i for i in range(3)})
    with pytest.raises(ValueError, match="Forest has 3 images, too few for 810 test images"):
        open_transfer_set("eurosat", str(tmp_path))


def test_sun397_without_a_partition_is_drawn(tmp_path: Path):
    sun397(tmp_path)
    paint(tmp_path / "SUN397/a/apse/indoor", {"sun_w.jpg": 5})
    (tmp_path / "Testing_01.txt").unlink()
    opened = open_transfer_set("sun397", str(tmp_path))
    assert opened.split == "drawn"
    assert sorted(name for _, name, _ in found(opened.test.source, tmp_path)) == ["abbey", "apse/indoor"]
    assert sorted(
        grey for _, _, grey in found(opened.trainval.source, tmp_path) + found(opened.test.source, tmp_path)
    ) == [
        1,
        2,
        3,
        4,
        5,
    ]


def test_sun397_partition_may_be_next_to_its_classes(tmp_path: Path):
    expected = sun397(tmp_path)
    for name in ("Training_01.txt", "Testing_01.txt"):
        (tmp_path / name).rename(tmp_path / "SUN397" / name)
    assert found(open_transfer_set("sun397", str(tmp_path)).trainval.source, tmp_path) == expected[0]


def test_images_are_opened_after_unpickling(tmp_path: Path):
    expected, _ = cog(tmp_path)
    greys = {name: grey for name, _, grey in expected}
    for name in greys:
        (tmp_path / name).write_bytes(b"not an image")
    sent = pickle.dumps(open_transfer_set("cog_l1", str(tmp_path)).trainval.source)
    paint(tmp_path, greys)
    assert found(pickle.loads(sent), tmp_path) == expected


def test_hash_depends_on_names_but_not_on_the_folder(tmp_path: Path):
    hashes = []
    for place in ("here", "there", "renamed"):
        cog(tmp_path / place)
        if place == "renamed":
            (tmp_path / place / "train/n1/a.JPEG").rename(tmp_path / place / "train/n1/b.JPEG")
        hashes.append(open_transfer_set("cog_l1", str(tmp_path / place)).trainval.source.names_hash)
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("name", LAYOUTS)
def test_folder_without_the_set_is_refused(name: str, tmp_path: Path):
    with pytest.raises(
        ValueError, match=f"'{tmp_path}' is not a folder of {name}: .* is missing\\. Use the folder that contains"
    ):
        open_transfer_set(name, str(tmp_path))


def test_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"no transfer set 'inat2017'. Did you mean inat2019 or inat2018"):
        open_transfer_set("inat2017", "anywhere")


def test_split_without_images_is_refused(tmp_path: Path):
    cog(tmp_path)
    (tmp_path / "test/n2/d.JPEG").unlink()
    with pytest.raises(ValueError, match=r"cog_l2 in .* has no training images, or no test images"):
        open_transfer_set("cog_l2", str(tmp_path))


def test_test_classes_without_training_images_are_refused(tmp_path: Path):
    cog(tmp_path)
    paint(tmp_path, {"test/n3/e.JPEG": 5})
    with pytest.raises(ValueError, match="test images of 1 classes without training images, first 'n3'"):
        open_transfer_set("cog_l2", str(tmp_path))


DAMAGES = [
    ("inat2019", "val2019.json", "{", r"val2019\.json: JSONDecodeError\('Expecting property name"),
    ("inat2019", "val2019.json", '{"images": []}', r"val2019\.json: KeyError\('annotations'\)"),
    ("inat2018", "train2018.json", "[1]", r"train2018\.json: TypeError\('list indices must be"),
    (
        "inat2018",
        "val2018.json",
        '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "category_id": "Aves"}]}',
        r"val2018\.json: ValueError\(.*'Aves'",
    ),
    (
        "inat2019",
        "val2019.json",
        '{"images": [{"id": 1, "file_name": 7}], "annotations": [{"image_id": 1, "category_id": 9}]}',
        r"val2019\.json: TypeError\(.*not int",
    ),
    ("cars", "stanford_cars/devkit/cars_meta.mat", "", "Mat file"),
    ("food101", "food-101/meta/train.json", "[]", "'list' object has no attribute"),
    ("food101", "food-101/meta/test.json", "{", "Expecting property name"),
    ("aircraft", "fgvc-aircraft-2013b/data/images_variant_test.txt", "0034309\n", "not enough values to unpack"),
    ("aircraft", "fgvc-aircraft-2013b/data/variants.txt", "A320\n", "'Cessna 172'"),
    ("dtd", "dtd/dtd/labels/val1.txt", "woven\n", "not enough values to unpack"),
    ("flowers", "flowers-102/setid.mat", "no matrices", "Mat file"),
    ("pets", "oxford-iiit-pet/annotations/test.txt", "\udcff", "'utf-8' codec can't decode"),
]
"""A set, one of its files, the file's damaged contents, and the reader's error."""


@pytest.mark.parametrize(("name", "file", "content", "message"), DAMAGES)
def test_damaged_file_is_one_line_with_the_set_and_folder(
    name: str, file: str, content: str, message: str, tmp_path: Path
):
    PUBLISHED[name](tmp_path)
    (tmp_path / file).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(
        ValueError, match=f"^'{tmp_path}' cannot be read as {name}: .*{message}.* Replace it, or"
    ) as error:
        open_transfer_set(name, str(tmp_path))
    assert "\n" not in str(error.value)


def test_blank_lines_in_pets_are_ignored(tmp_path: Path):
    expected = pets(tmp_path)
    annotations = tmp_path / "oxford-iiit-pet/annotations/trainval.txt"
    annotations.write_text("\n" + annotations.read_text().replace("\n", "\n \n"))
    assert found(open_transfer_set("pets", str(tmp_path)).trainval.source, tmp_path) == expected[0]


def test_torchvisions_error_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    flowers(tmp_path)
    monkeypatch.setattr("torchvision.datasets.flowers102.check_integrity", lambda _path, _md5: False)
    with pytest.raises(ValueError, match=r"cannot be read as flowers: Dataset not found or corrupted"):
        open_transfer_set("flowers", str(tmp_path))


def test_hidden_entries_and_pipes_are_no_classes(tmp_path: Path):
    cog(tmp_path)
    paint(tmp_path, {"train/lost+found/e.JPEG": 5, "test/__MACOSX/n2.JPEG": 6})
    os.mkfifo(tmp_path / "train" / "pipe")
    os.mkfifo(tmp_path / "train" / "n1" / "pipe.JPEG")
    found = open_transfer_set("cog_l1", str(tmp_path))
    assert (found.trainval.source.classes, found.trainval.source.num_images, found.test.source.num_images) == (
        ("n1", "n2"),
        3,
        1,
    )


def test_pipe_instead_of_a_list_does_not_block(tmp_path: Path):
    (tmp_path / "train2019.json").write_text("{}")
    os.mkfifo(tmp_path / "val2019.json")
    with pytest.raises(ValueError, match=r"is not a folder of inat2019: val2019\.json is missing\."):
        open_transfer_set("inat2019", str(tmp_path))
