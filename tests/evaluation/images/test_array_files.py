import gzip
from pathlib import Path

import numpy as np
import pytest

from evaluation.images.array_files import array_images
from evaluation.images.image_list import ImageList
from evaluation.images.layouts import open_layout


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def write_mnist(folder: Path, split: str, labels: list[int], ending: str = ".gz") -> None:
    """Write images of 4 x 5 pixels, each of one gray value: ten times its label plus its position."""
    folder.mkdir(parents=True, exist_ok=True)
    images = np.stack([np.full((4, 5), 10 * label + i, np.uint8) for i, label in enumerate(labels)])
    for name, array in (("images-idx3", images), ("labels-idx1", np.array(labels, np.uint8))):
        content = gzip.compress(idx(array)) if ending else idx(array)
        (folder / f"{split}-{name}-ubyte{ending}").write_bytes(content)


def seen(source: ImageList) -> list[tuple[str, int]]:
    """Return the class and the first value of each image."""
    read = source.opener()
    classes = [source.classes[number] for number in source.class_numbers().tolist()]
    return [(name, np.asarray(read(i))[0, 0, 0]) for i, name in enumerate(classes)]


@pytest.mark.parametrize("place", [".", "raw", "FashionMNIST/raw"])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_files_are_read_from_any_subfolder(tmp_path: Path, place: str, ending: str):
    write_mnist(tmp_path / place, "train", [3, 0, 9], ending)
    write_mnist(tmp_path / place, "t10k", [7, 3], ending)
    test = open_layout(str(tmp_path))
    assert seen(test) == [("7", 70), ("3", 31)]
    assert test.opener()(0).size == (5, 4)
    assert seen(open_layout(str(tmp_path), split="train")) == [("3", 30), ("0", 1), ("9", 92)]


def cifar_row(labels: list[int], red: int) -> bytes:
    pixels = np.zeros((3, 32, 32), np.uint8)
    pixels[0], pixels[1, 0, 1] = red, 200  # green at row 0, column 1
    return bytes(labels) + pixels.tobytes()


def test_cifar_10s_binary_version_is_read_with_its_names(tmp_path: Path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for i in range(1, 6):
        (folder / f"data_batch_{i}.bin").write_bytes(cifar_row([i], 10 * i))
    (folder / "test_batch.bin").write_bytes(cifar_row([1], 7) + cifar_row([0], 8))
    (folder / "batches.meta.txt").write_text("airplane\nautomobile\nbird\ncat\ndeer\ndog\n\n")
    test, train = open_layout(str(tmp_path)), open_layout(str(folder), split="train")
    assert seen(test) == [("1", 7), ("0", 8)]
    assert seen(train) == [(str(i), 10 * i) for i in range(1, 6)]
    assert test.titles == ("airplane", "automobile", "bird", "cat", "deer", "dog")
    assert np.asarray(test.opener()(0))[0, 1].tolist() == [7, 200, 0]


def test_cifar_100s_binary_version_is_read_by_its_fine_labels(tmp_path: Path):
    (tmp_path / "train.bin").write_bytes(cifar_row([4, 99], 1) + cifar_row([5, 0], 2))
    assert seen(open_layout(str(tmp_path), split="train")) == [("99", 1), ("0", 2)]


def test_damaged_files_are_named(tmp_path: Path):
    write_mnist(tmp_path, "t10k", [7, 3], "")
    images = tmp_path / "t10k-images-idx3-ubyte"
    whole = images.read_bytes()
    images.write_bytes(whole[:-1])
    with pytest.raises(
        ValueError, match=r"images-idx3-ubyte' has 55 bytes, which does not match its shape \[2, 4, 5\]"
    ):
        seen(array_images(str(tmp_path)))
    images.write_bytes(b"text")
    with pytest.raises(ValueError, match="is not an idx file of bytes in 3 dimensions"):
        array_images(str(tmp_path))
    images.write_bytes(whole)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(3, np.uint8)))
    with pytest.raises(ValueError, match=r"has 2 images, but '.*labels-idx1-ubyte' has 3 labels"):
        array_images(str(tmp_path))
    (tmp_path / "cifar").mkdir()
    (tmp_path / "cifar" / "test_batch.bin").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"test_batch\.bin' has 3 bytes, not a multiple of 3073"):
        array_images(str(tmp_path / "cifar"))


def test_missing_split_is_refused(tmp_path: Path):
    write_mnist(tmp_path, "t10k", [1])
    with pytest.raises(ValueError, match=r"^'[^\n]*' has test, but not train\. Add the files of train, or [^\n]*$"):
        array_images(str(tmp_path), "train")


def test_training_images_are_not_evaluated_without_a_test_split(tmp_path: Path):
    write_mnist(tmp_path / "MNIST" / "raw", "train", [3])
    (tmp_path / "cifar").mkdir()
    (tmp_path / "cifar" / "train.bin").write_bytes(cifar_row([4, 99], 1))
    for place in (tmp_path / "MNIST", tmp_path / "cifar"):
        assert open_layout(str(place), split="train").num_images == 1
        with pytest.raises(ValueError, match="has train, but not test"):
            open_layout(str(place))


@pytest.mark.parametrize("split", ["", "train"])
def test_folder_with_several_sets_is_refused(tmp_path: Path, split: str):
    for name, labels in (("MNIST", [1]), ("FashionMNIST", [2]), ("KMNIST", [3])):
        for files in ("train", "t10k"):
            write_mnist(tmp_path / name / "raw", files, labels)
    message = "has several sets: MNIST/raw and FashionMNIST/raw and KMNIST/raw. Use one of these folders, such as"
    with pytest.raises(ValueError, match=rf"^'{tmp_path}' {message} '{tmp_path}/MNIST/raw'\.$"):
        open_layout(str(tmp_path), split)
    assert open_layout(str(tmp_path / "KMNIST"), split).classes == ("3",)


def test_debians_fashion_mnist_has_sixty_thousand_images_to_train_on():
    place = Path("/usr/share/datasets/fashion-mnist")
    if not place.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    train, test = open_layout(str(place), split="train"), open_layout(str(place))
    assert np.bincount(train.class_numbers()).tolist() == [6000] * 10
    assert np.bincount(test.class_numbers()).tolist() == [1000] * 10
    assert train.opener()(0).size == (28, 28)
