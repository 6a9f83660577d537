"""Decoding of images: orientation, RGB, crops."""

import io
import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from evaluation.images.decoding import Crop, UnreadableImageError, fitted, read_image, square, upright
from generation.shards.storage import StorageError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
EXIF_ORIENTATION = 0x0112


def colours(image: np.ndarray) -> list[list[int]]:
    """Return the colors of the four quarters, in reading order."""
    quarters = [image[rows, columns] for rows in (slice(4), slice(4, 8)) for columns in (slice(4), slice(4, 8))]
    assert all((quarter == quarter[0, 0]).all() for quarter in quarters)
    return [quarter[0, 0].tolist() for quarter in quarters]


def stripes(*stripe_colours: tuple[int, int, int], width: int = 8, height: int = 16) -> Image.Image:
    image = Image.new("RGB", (width * len(stripe_colours), height))
    for i, colour in enumerate(stripe_colours):
        image.paste(colour, (i * width, 0, (i + 1) * width, height))
    return image


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def write_tiff(path: Path, values: np.ndarray) -> None:
    """Write a TIFF; PIL cannot write 32-bit unsigned integers, so the tag of signed integers is changed."""
    is_unsigned = values.dtype == np.uint32
    Image.fromarray(values.view(np.int32) if is_unsigned else values).save(path, format="TIFF")
    if is_unsigned:
        signed, unsigned = (struct.pack("<HHIHH", 339, 3, 1, kind, 0) for kind in (2, 1))
        tagged = path.read_bytes()
        assert tagged.count(signed) == 1
        path.write_bytes(tagged.replace(signed, unsigned))


def test_shorter_side_is_resized_and_the_centre_cropped(tmp_path: Path):
    for image, name in (
        (stripes(RED, GREEN, BLUE, width=8, height=8), "as it is.png"),
        (stripes(RED, GREEN, BLUE, width=16, height=16), "halved.png"),
        (stripes(RED, GREEN, BLUE, width=4, height=4), "doubled.png"),
        (stripes(RED, GREEN, BLUE, width=8, height=8).rotate(90, expand=True), "high.png"),
    ):
        image.save(tmp_path / name)
        seen = square(read_image(str(tmp_path / name)), 8)
        assert (seen.shape, seen.dtype) == ((8, 8, 3), np.uint8)
        assert (seen[1:-1, 1:-1] == GREEN).all()  # interpolation mixes stripes at the border


@pytest.mark.parametrize(
    ("orientation", "quarters"),
    [
        (1, [RED, BLUE, RED, BLUE]),
        (2, [BLUE, RED, BLUE, RED]),
        (3, [BLUE, RED, BLUE, RED]),
        (6, [RED, RED, BLUE, BLUE]),  # rotated by 90 degrees
        (8, [BLUE, BLUE, RED, RED]),
    ],
)
@pytest.mark.parametrize("extension", ["png", "tiff", "webp"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, quarters: list, extension: str):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    path = tmp_path / f"turned.{extension}"
    stripes(RED, BLUE, width=4, height=8).save(path, exif=exif, lossless=True)
    read = read_image(str(path))
    stored = quarters if extension == "tiff" else [RED, BLUE, RED, BLUE]  # PIL, and so torchvision, rotates only TIFF
    assert colours(square(read, 8)) == [list(colour) for colour in stored]
    assert colours(square(upright(read), 8)) == [list(colour) for colour in quarters]


def test_jpeg_with_exif_is_turned_and_one_with_damaged_exif_is_not(tmp_path: Path):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    for content, name, top_right in ((exif, "turned.jpg", RED), (b"Exif\0\0no TIFF header", "damaged.jpg", BLUE)):
        stripes(RED, BLUE).save(tmp_path / name, exif=content, quality=95, subsampling=0)
        image = square(upright(read_image(str(tmp_path / name))), 16)
        np.testing.assert_allclose(image[2, 13], top_right, atol=3)
        np.testing.assert_allclose(image[2, 2], RED, atol=3)


def test_orientation_stored_as_a_fraction_is_applied(tmp_path: Path):
    path, exif = tmp_path / "a.jpg", Image.Exif()
    exif[EXIF_ORIENTATION] = 3
    stripes(RED, BLUE).save(path, exif=exif)
    as_short, as_float = struct.pack(">HHIHH", 0x0112, 3, 1, 3, 0), struct.pack(">HHIf", 0x0112, 11, 1, 3.0)
    little = struct.pack("<HHIHH", 0x0112, 3, 1, 3, 0), struct.pack("<HHIf", 0x0112, 11, 1, 3.0)
    content = path.read_bytes()
    changed = content.replace(as_short, as_float).replace(*little)
    assert changed != content
    path.write_bytes(changed)
    read = read_image(str(path))
    np.testing.assert_array_equal(np.asarray(upright(read)), np.asarray(read)[::-1, ::-1])


@pytest.mark.parametrize("orientation", [0, 9])
def test_invalid_orientation_is_ignored(tmp_path: Path, orientation: int):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    stripes(RED, BLUE).save(tmp_path / "a.png", exif=exif)
    read = read_image(str(tmp_path / "a.png"))
    np.testing.assert_array_equal(np.asarray(upright(read)), np.asarray(read))


@pytest.mark.parametrize(
    ("dtype", "white"),
    [
        *((np.uint16, 2**bits - 1) for bits in (10, 12, 14, 16)),
        *((np.int32, 2**bits - 1) for bits in (24, 31)),
        (np.uint32, 2**32 - 1),
        *((np.float32, white) for white in (1.0, 255.0, 4095.0, 65535.0)),
    ],
)
def test_ramp_of_any_depth_becomes_8_bits(tmp_path: Path, dtype: type, white: float):
    values = (np.linspace(0, white, 256)[None].repeat(8, 0)).astype(dtype)
    write_tiff(tmp_path / "ramp.tif", values)
    ramp = np.asarray(read_image(str(tmp_path / "ramp.tif")))[0, :, 0]
    np.testing.assert_allclose(ramp.astype(int), np.arange(256), atol=1)


def test_floats_slightly_above_1_are_white(tmp_path: Path):
    write_tiff(tmp_path / "beyond.tif", np.array([[0.5, 1.0, 1.01]], np.float32))
    assert np.asarray(read_image(str(tmp_path / "beyond.tif")))[0, :, 0].tolist() == [128, 255, 255]


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
        (Image.new("I;16", (8, 8), 0x0781), "TIFF", (120, 120, 120)),  # 12 bits
        (Image.new("I;16", (8, 8), 120), "TIFF", (120, 120, 120)),  # 8 bits in 16
        (Image.new("I", (8, 8), 0x3C092B3C), "TIFF", (120, 120, 120)),
        (Image.new("I", (8, 8), 0x7812), "TIFF", (120, 120, 120)),
        (Image.new("F", (8, 8), 0.4706), "TIFF", (120, 120, 120)),
        (Image.new("F", (8, 8), 120.2), "TIFF", (120, 120, 120)),
        (Image.new("YCbCr", (8, 8), (120, 128, 128)), "TIFF", (120, 120, 120)),
    ],
)
def test_images_of_any_mode_and_format_become_rgb(tmp_path: Path, image: Image.Image, format: str, colour: tuple):
    image.save(tmp_path / "odd.JPEG", format=format)
    read = read_image(str(tmp_path / "odd.JPEG"))
    assert (read.mode, read.size) == ("RGB", (8, 8))
    np.testing.assert_allclose(np.asarray(read).astype(int), np.broadcast_to(colour, (8, 8, 3)), atol=1)


def test_undecodable_file_is_named_with_the_remedy(tmp_path: Path):
    noise(32, 32).save(tmp_path / "cut.png")
    content = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.jpg").write_text("no image")
    for name in ("cut.png", "text.jpg"):
        named = re.escape(str(tmp_path / name))
        with pytest.raises(UnreadableImageError, match=f"^The image '{named}' cannot be decoded: .* Replace it, or"):
            read_image(str(tmp_path / name))


def test_missing_file_is_not_a_damaged_image(tmp_path: Path):
    with pytest.raises(
        StorageError, match=r"gone\.jpg' cannot be read on .*: No such file or directory\. Check that every"
    ) as error:
        read_image(str(tmp_path / "gone.jpg"))
    assert not isinstance(error.value, UnreadableImageError)


def test_bytes_are_read_with_a_given_name():
    file = io.BytesIO()
    stripes(RED, BLUE, width=4, height=8).save(file, "PNG")
    assert colours(np.asarray(read_image(io.BytesIO(file.getvalue()), "a.tar/a.png"))) == [[*RED], [*BLUE]] * 2
    with pytest.raises(UnreadableImageError, match=r"^The image 'a\.tar/a\.png' cannot be decoded: "):
        read_image(io.BytesIO(file.getvalue()[:40]), "a.tar/a.png")


@pytest.mark.parametrize("mode", [InterpolationMode.BILINEAR, InterpolationMode.BICUBIC])
@pytest.mark.parametrize(("resize_size", "crop_size"), [(256, 224), (255, 224), (232, 224), (224, 224), (36, 33)])
@pytest.mark.parametrize(
    "size",
    [
        (500, 375),
        (375, 500),
        (501, 333),
        (333, 499),
        (256, 256),
        (256, 301),
        (297, 256),
        (100, 75),
        (61, 97),
        (31, 600),
    ],
)
def test_crop_is_pixel_identical_to_torchvisions(
    size: tuple[int, int], resize_size: int, crop_size: int, mode: InterpolationMode
):
    image = noise(*size)
    theirs = transforms.Compose([transforms.Resize(resize_size, mode), transforms.CenterCrop(crop_size)])(image)
    ours = Crop(resize_size, crop_size, mode.value)(image)
    assert (ours.shape, ours.dtype) == ((crop_size, crop_size, 3), np.uint8)
    np.testing.assert_array_equal(ours, np.asarray(theirs))


def test_crop_of_the_same_size_keeps_the_pixels():
    image = noise(8, 12)
    cropped = Crop(8, 4, "bicubic")(image)
    np.testing.assert_array_equal(cropped, np.asarray(image)[4:8, 2:6])


def test_small_photograph_is_not_enlarged():
    image = noise(500, 375)
    canvas, extent = fitted(image, 512)
    assert (canvas.shape, canvas.dtype, extent) == ((512, 512, 3), np.uint8, (375, 500))
    np.testing.assert_array_equal(canvas[:375, :500], np.asarray(image))
    assert not canvas[375:].any()
    assert not canvas[:, 500:].any()


def test_large_photograph_is_shrunk():
    canvas, extent = fitted(Image.new("RGB", (1000, 600), (9, 8, 7)), 250)
    assert extent == (150, 250)
    assert (canvas[:150] == (9, 8, 7)).all()
    assert not canvas[150:].any()
    assert fitted(noise(600, 1), 100)[1] == (1, 100)


def test_pipe_does_not_block(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(StorageError, match=r"pipe\.png' cannot be read on .*: it is not a regular file\."):
        read_image(str(tmp_path / "pipe.png"))


def test_name_of_a_damaged_image_is_printable():
    with pytest.raises(UnreadableImageError) as error:
        read_image(io.BytesIO(b"no image"), "a\udcff\n.tar/b.png")
    assert error.value.name == "a\\udcff\\n.tar/b.png"
