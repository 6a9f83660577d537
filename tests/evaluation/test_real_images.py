"""Real images to train on: which are found, what they look like, in which order they come."""

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from evaluation.real_files import EXTENSIONS, list_images, read_image
from evaluation.real_images import (
    RealReader,
    RealTrainingImages,
    order_of_lap,
    positions_by_index,
    reading_units,
    real_training_images,
)
from generation.digits.real_digits import training_digits
from generation.indices import IndexSet, Wanted
from generation.labels import ClassEntry, LabelSpace, load_label_space
from generation.storage import StorageError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
EXIF_ORIENTATION = 0x0112

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


def labels_by_name(folder: Path, space: LabelSpace = BIRDS) -> dict[str, int]:
    images = list_images(str(folder), space)
    return dict(zip(images.class_folders, images.class_labels.tolist(), strict=True))


def colours(image: np.ndarray) -> list[list[int]]:
    """Return the colours of the four quarters, from the top left in reading order."""
    quarters = [image[rows, columns] for rows in (slice(4), slice(4, 8)) for columns in (slice(4), slice(4, 8))]
    assert all((quarter == quarter[0, 0]).all() for quarter in quarters)
    return [quarter[0, 0].tolist() for quarter in quarters]


def stripes(*stripe_colours: tuple[int, int, int], width: int = 8, height: int = 16) -> Image.Image:
    image = Image.new("RGB", (width * len(stripe_colours), height))
    for i, colour in enumerate(stripe_colours):
        image.paste(colour, (i * width, 0, (i + 1) * width, height))
    return image


@pytest.fixture(scope="module")
def owls_and_puffins(tmp_path_factory) -> RealTrainingImages:
    """50 puffins, then 100 owls; the image at place `p` of the sorted list has the grey `p`."""
    names = [f"puffin/{i:03}.png" for i in range(50)] + [f"snowy_owl/{i:03}.png" for i in range(100)]
    return real_training_images(str(write(tmp_path_factory.mktemp("birds"), *names)), BIRDS, image_size=8, seed=5)


def rows_of(source: RealTrainingImages, wanted: Wanted) -> dict[str, np.ndarray]:
    """Return what a dataset gives, in the order in which it comes."""
    batches = list(source.open(wanted).iter_batches(batch_size=16, prefetch_batches=0))
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def read_without_ray(source: RealTrainingImages, wanted: Wanted) -> dict[str, np.ndarray]:
    """Return the same as one reader gives it."""
    reader = RealReader(source, wanted)
    units = reading_units(wanted.serials, source.num_images, source.images_per_unit)
    columns = [{name: np.array([value]) for name, value in unit.items()} for unit in units]
    batches = [batch for unit in columns for batch in reader(unit)]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def check_rows(rows: dict[str, np.ndarray]) -> None:
    """Check that rows of `owls_and_puffins` are whole and each has its own image and label."""
    places = positions_by_index(150)[rows["index"]]
    np.testing.assert_array_equal(rows["image"], np.broadcast_to(places[:, None, None, None], (len(places), 8, 8, 3)))
    np.testing.assert_array_equal(rows["label"], np.where(places < 50, 3, 2))
    np.testing.assert_array_equal(rows["serial"] % 150, rows["index"])
    assert {name: str(column.dtype) for name, column in rows.items()} == {
        "serial": "int64",
        "index": "int64",
        "label": "int64",
        "image": "uint8",
    }


def test_extensions_are_torchvisions():
    assert EXTENSIONS == IMG_EXTENSIONS


def test_class_folders_are_called_by_wnid_or_by_name_however_written(tmp_path: Path):
    write(tmp_path, "n02012849/a.png", "N03126707/a.png", "SNOWY_owl/a.png", "Puffin/a.png")
    assert labels_by_name(tmp_path) == {"n02012849": 0, "N03126707": 1, "SNOWY_owl": 2, "Puffin": 3}


def test_a_name_as_the_class_has_it_goes_before_one_that_differs_in_case(tmp_path: Path):
    space = LabelSpace("cars", (ClassEntry("Polo"), ClassEntry("polo")))
    write(tmp_path, "polo/a.png")
    assert labels_by_name(tmp_path, space) == {"polo": 1}
    write(tmp_path, "POLO/a.png")
    with pytest.raises(ValueError, match=r"'POLO' in '.*' is called like 2 classes of cars.*: Polo or polo\."):
        list_images(str(tmp_path), space)


def test_images_of_class_folders_are_listed_in_a_sorted_order(tmp_path: Path):
    write(tmp_path, "puffin/b.JPEG", "puffin/a.Tiff", "n01621127/ü.jpg", "n01621127/z.webp")
    write(tmp_path, "puffin/deeper/no.png", "puffin/folder.png/no.png", "puffin/._b.jpg", ".git/no.png", "no.png")
    (tmp_path / "puffin" / "notes.txt").write_text("no image")
    (tmp_path / "n02012849").mkdir()
    images = list_images(str(tmp_path), BIRDS)
    assert images.class_folders == ("n01621127", "n02012849", "puffin")
    assert images.class_counts.tolist() == [2, 0, 2]
    assert images.labels().tolist() == [2, 2, 3, 3]
    read = images.opener(8)
    assert [read(place)[0, 0, 0] for place in range(4)] == [3, 2, 1, 0]  # z, ü, a, b


def test_what_is_listed_is_small_to_send(tmp_path: Path):
    (tmp_path / "puffin").mkdir()
    for i in range(2000):
        (tmp_path / "puffin" / f"n01440764_{i}.JPEG").touch()
    source = real_training_images(str(tmp_path), BIRDS, image_size=8, seed=0)
    sent = pickle.dumps(source)
    assert len(sent) < 10 * 2000
    assert pickle.loads(sent).num_images == source.num_images == 2000


def test_class_folders_may_be_links_and_a_link_that_leads_nowhere_is_told_of(tmp_path: Path):
    elsewhere = write(tmp_path / "elsewhere", "a.png")
    (tmp_path / "birds").mkdir()
    (tmp_path / "birds" / "puffin").symlink_to(elsewhere)
    assert list_images(str(tmp_path / "birds"), BIRDS).num_images == 1
    (tmp_path / "birds" / "Snowy Owl").symlink_to(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"Snowy Owl' cannot be listed: No such file or directory\."):
        list_images(str(tmp_path / "birds"), BIRDS)


def test_folders_of_unknown_classes_are_refused_in_one_line(tmp_path: Path):
    write(tmp_path, *(f"{name}/a.png" for name in ("puffin", "auk", "dodo", "kiwi", "moa")))
    with pytest.raises(ValueError, match=r"^4 of 5 folders in .* no class of birds: auk, dodo, kiwi, \.\.\. Name"):
        list_images(str(tmp_path), BIRDS)


def test_a_name_of_two_classes_asks_for_a_wnid(tmp_path: Path):
    write(tmp_path, "crane/a.png")
    with pytest.raises(ValueError, match=r"'crane' .* like 2 classes of birds.* its wnid: n02012849 or n03126707\."):
        list_images(str(tmp_path), BIRDS)


def test_a_place_without_images_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"gone' cannot be listed: No such file or directory\. Give a folder"):
        list_images(str(tmp_path / "gone"), BIRDS)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file' cannot be listed: Not a directory\. Give a folder"):
        list_images(str(tmp_path / "file"), BIRDS)
    (tmp_path / "puffin").mkdir()
    write(tmp_path, "flat.png")
    with pytest.raises(ValueError, match=r"has no images in folders of classes\. Give a folder"):
        list_images(str(tmp_path), BIRDS)


def test_the_shorter_side_is_resized_and_the_centre_cropped(tmp_path: Path):
    for image, name in (
        (stripes(RED, GREEN, BLUE, width=8, height=8), "as it is.png"),
        (stripes(RED, GREEN, BLUE, width=16, height=16), "halved.png"),
        (stripes(RED, GREEN, BLUE, width=4, height=4), "doubled.png"),
        (stripes(RED, GREEN, BLUE, width=8, height=8).rotate(90, expand=True), "high.png"),
    ):
        image.save(tmp_path / name)
        read = read_image(str(tmp_path / name), 8)
        assert (read[1:-1, 1:-1] == GREEN).all()  # at the border other stripes shine through


@pytest.mark.parametrize(
    ("orientation", "quarters"),
    [
        (1, [RED, BLUE, RED, BLUE]),
        (2, [BLUE, RED, BLUE, RED]),
        (3, [BLUE, RED, BLUE, RED]),
        (6, [RED, RED, BLUE, BLUE]),  # the camera's left is up
        (8, [BLUE, BLUE, RED, RED]),
    ],
)
@pytest.mark.parametrize("extension", ["png", "tiff", "webp"])
def test_images_are_put_upright(tmp_path: Path, orientation: int, quarters: list, extension: str):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    path = tmp_path / f"turned.{extension}"
    stripes(RED, BLUE, width=4, height=8).save(path, exif=exif, lossless=True)
    assert colours(read_image(str(path), 8)) == [list(colour) for colour in quarters]


def test_an_upright_jpeg_of_a_camera_and_one_with_damaged_exif(tmp_path: Path):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    for content, name, top_right in ((exif, "turned.jpg", RED), (b"Exif\0\0no TIFF header", "damaged.jpg", BLUE)):
        stripes(RED, BLUE).save(tmp_path / name, exif=content, quality=95, subsampling=0)
        image = read_image(str(tmp_path / name), 16)
        np.testing.assert_allclose(image[2, 13], top_right, atol=3)
        np.testing.assert_allclose(image[2, 2], RED, atol=3)


@pytest.mark.parametrize(
    ("image", "format", "colour"),
    [
        (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", RED),
        (Image.new("L", (8, 8), 120), "JPEG", (120, 120, 120)),
        (Image.new("RGB", (8, 8), BLUE), "PNG", BLUE),
        (Image.new("RGBA", (8, 8), (*GREEN, 100)), "PNG", GREEN),
        (Image.new("LA", (8, 8), (120, 0)), "PNG", (120, 120, 120)),
        (Image.new("RGB", (8, 8), RED).convert("P"), "PNG", RED),
        (Image.new("RGB", (8, 8), RED).convert("P"), "GIF", RED),
        (Image.new("1", (8, 8), 1), "PNG", (255, 255, 255)),
        (Image.new("I;16", (8, 8), 0x7812), "PNG", (120, 120, 120)),
        (Image.new("I;16", (8, 8), 0x7812), "PPM", (120, 120, 120)),
        (Image.new("YCbCr", (8, 8), (120, 128, 128)), "TIFF", (120, 120, 120)),
    ],
)
def test_images_of_any_mode_and_format_become_rgb(tmp_path: Path, image: Image.Image, format: str, colour: tuple):
    image.save(tmp_path / "odd.JPEG", format=format)
    square = read_image(str(tmp_path / "odd.JPEG"), 8)
    assert (square.shape, square.dtype) == ((8, 8, 3), np.uint8)
    np.testing.assert_allclose(square.astype(int), np.broadcast_to(colour, (8, 8, 3)), atol=1)


def test_a_file_that_cannot_be_decoded_is_named_with_the_remedy(tmp_path: Path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(tmp_path / "cut.png")
    content = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.jpg").write_text("no image")
    for name in ("cut.png", "text.jpg", "gone.jpg"):
        named = re.escape(str(tmp_path / name))
        with pytest.raises(StorageError, match=f"^The image '{named}' cannot be decoded: .* Put a whole one in"):
            read_image(str(tmp_path / name), 8)


def test_every_range_of_indices_has_all_classes():
    places = positions_by_index(150)
    assert sorted(places) == list(range(150))
    num_puffins = [(places[start : start + 30] < 50).sum() for start in range(0, 150, 30)]
    assert min(num_puffins) > 4  # 10 of 30 on average
    np.testing.assert_array_equal(positions_by_index(150), places)


def test_each_lap_has_an_order_of_its_own_that_the_seed_decides():
    two_laps = Wanted.all_of(range(200))
    first, second = (order_of_lap(two_laps, 100, seed=5, lap=lap) for lap in (0, 1))
    assert sorted(first) == sorted(second) == list(range(100))
    assert first.tolist() != second.tolist()
    np.testing.assert_array_equal(order_of_lap(two_laps, 100, seed=5, lap=0), first)
    assert order_of_lap(two_laps, 100, seed=6, lap=0).tolist() != first.tolist()
    in_order = Wanted(two_laps.serials, in_order=True)
    assert order_of_lap(in_order, 100, seed=5, lap=1).tolist() == list(range(100))


def test_who_goes_on_amid_a_lap_goes_on_as_before():
    first = order_of_lap(Wanted.all_of(range(100)), 100, seed=5, lap=0)
    rest = Wanted(IndexSet.of(first[37:]))
    np.testing.assert_array_equal(order_of_lap(rest, 100, seed=5, lap=0), first[37:])


def test_units_of_work_are_small_and_of_one_lap():
    serials = IndexSet.of_ranges([range(70, 120), range(205, 210)])  # of laps of 100: 30, 20 and 5 images
    assert reading_units(serials, 100, size=16) == [
        {"lap": 0, "start": 0},
        {"lap": 0, "start": 16},
        {"lap": 1, "start": 0},
        {"lap": 1, "start": 16},
        {"lap": 2, "start": 0},
    ]


def test_a_unit_has_64_images_or_16_megabytes(owls_and_puffins: RealTrainingImages):
    def images_per_unit(image_size: int) -> int:
        return RealTrainingImages(owls_and_puffins.images, image_size, seed=0).images_per_unit

    assert [images_per_unit(size) for size in (8, 256, 512, 4096)] == [64, 64, 20, 1]


def test_a_share_over_two_laps_gives_each_serial_once_with_its_image_and_label(owls_and_puffins: RealTrainingImages):
    shares = [Wanted(IndexSet.of_ranges([range(20, 280)]).every(10, offset, 2), 2) for offset in (0, 1)]
    rows = [read_without_ray(owls_and_puffins, share) for share in shares]
    for share, its_rows in zip(shares, rows, strict=True):
        check_rows(its_rows)
        assert IndexSet.of(its_rows["serial"]) == share.serials
        assert (np.diff(its_rows["serial"] // 150) >= 0).all()
    assert sorted(np.concatenate([its_rows["serial"] for its_rows in rows])) == list(range(20, 280))


def test_the_digits_are_those_that_no_evaluation_uses():
    source = real_training_images("digits", load_label_space("digits"), image_size=32, seed=0)
    assert source.num_images == 1257
    rows = read_without_ray(source, Wanted.all_of(range(1250, 1260)))
    assert sorted(rows["serial"]) == list(range(1250, 1260))
    images, labels = training_digits()
    places = positions_by_index(1257)[rows["index"]]
    np.testing.assert_array_equal(rows["image"], images[places])
    np.testing.assert_array_equal(rows["label"], labels[places])


def test_digits_are_refused_for_other_classes():
    with pytest.raises(ValueError, match=r"'digits', but the classes are those of birds\. Give a folder"):
        real_training_images("digits", BIRDS, image_size=32, seed=0)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_dataset_has_exactly_what_is_wanted(owls_and_puffins: RealTrainingImages):
    wanted = Wanted(IndexSet.of_ranges([range(20, 280)]).every(10, 1, 2), num_consumers=2)
    rows = rows_of(owls_and_puffins, wanted)
    check_rows(rows)
    assert sorted(rows["serial"]) == [serial for serial in range(20, 280) if serial // 10 % 2]
    assert rows["serial"].tolist() != sorted(rows["serial"])


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_rows_come_in_ascending_order_where_one_is_wanted(owls_and_puffins: RealTrainingImages):
    rows = rows_of(owls_and_puffins, Wanted(IndexSet.of_ranges([range(20, 280)]), in_order=True))
    check_rows(rows)
    assert rows["serial"].tolist() == list(range(20, 280))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_nothing_wanted_is_a_dataset_without_rows(owls_and_puffins: RealTrainingImages):
    assert owls_and_puffins.open(Wanted.all_of()).count() == 0


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_damaged_file_ends_the_dataset_with_its_name(tmp_path: Path):
    write(tmp_path, "puffin/a.png", "puffin/b.png", "puffin/c.png")
    source = real_training_images(str(tmp_path), BIRDS, image_size=8, seed=0)
    (tmp_path / "puffin" / "b.png").write_text("no image")
    with pytest.raises(StorageError, match=r"puffin/b\.png' cannot be decoded: .* Put a whole one in its place"):
        rows_of(source, Wanted.all_of(range(3)))
