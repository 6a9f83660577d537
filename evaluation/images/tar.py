"""Labeled images in WebDataset's tars: each KEY.jpg with its KEY.cls, or KEY.json.

Leaves class names uninterpreted, and uses no Ray. Figment's own shards are read by `generation.shards`.
"""

import json
import os
import re
import reprlib
import tarfile
from collections.abc import Sequence
from functools import partial
from io import BytesIO
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from evaluation.images.decoding import read_image
from evaluation.images.folders import EXTENSIONS, is_hidden
from evaluation.images.image_list import ImageList, Opener, build_list, errors_as
from evaluation.images.splits import files_of
from generation.shards.storage import StorageError

IMAGE_ENDINGS = tuple(extension.removeprefix(".") for extension in EXTENSIONS)

LABEL_ENDINGS = ("cls", "json")
"""Extensions of files with a label, in order of preference."""

LABEL_KEYS = ("label", "cls")
"""Keys of the label in a JSON object, in order of preference."""

Members = dict[str, tarfile.TarInfo]
"""Members of one sample, by extension."""


class _Sample(NamedTuple):
    """Listing of one image."""

    name: str
    label: str
    offset: int
    size: int


def tar_images(path: str, split: str = "") -> ImageList:
    """Return the images of one tar, or of all tars of a split in a folder or its `data` subfolder.

    They are sorted by tar, then by position in it.

    Only headers and labels are read. ValueError if a tar is damaged, an image has no label, or a label no image.
    """
    folder, tars = files_of(path, ".tar", split)
    paths = [os.path.join(folder, tar) for tar in tars]
    samples = [(number, sample) for number, path in enumerate(paths) for sample in _samples_of(path)]
    if not samples:
        raise ValueError(
            f"The tars of '{folder}' have no labeled images. Use WebDataset tars with a KEY.cls for each KEY.jpg."
        )
    locations = np.array([(number, sample.offset, sample.size) for number, sample in samples], np.int64)
    names = [f"{tars[number]}/{sample.name}" for number, sample in samples]
    labels = [sample.label for _, sample in samples]
    return build_list(folder, names, labels, opener_of=partial(open_members, paths, locations))


def open_members(paths: list[str], locations: np.ndarray, names: Sequence[str]) -> Opener:
    """Return a function that decodes the image at a position.

    `locations` int64 [num_images, 3] has the tar's index, and the offset and size in bytes of each image in it.
    """

    def read(position: int) -> Image.Image:
        number, offset, size = locations[position].tolist()
        path = paths[number]
        with errors_as(StorageError, path, "the tar that was listed", tarfile.TarError), open(path, "rb") as tar:
            content = _read(tar, offset, size)
        return read_image(BytesIO(content), names[position])

    return read


def key_and_ending(name: str) -> tuple[str, str]:
    """Return a member's sample key and extension, split at the first dot after the folders; empty without a dot."""
    match = re.fullmatch(r"((?:.*/|)[^.]+)[.]([^/]*)", name)
    return (match[1], match[2].lower()) if match else ("", "")


def _samples_of(path: str) -> list[_Sample]:
    """Return a tar's samples in the order of their first members; members with other extensions are skipped."""
    kind = "an uncompressed tar"
    with errors_as(ValueError, path, kind, tarfile.TarError), open(path, "rb") as file:
        samples = [_sample(path, file, key, members) for key, members in _members_by_key(path, file).items()]
    return [sample for sample in samples if sample]


def _members_by_key(path: str, file: BinaryIO) -> dict[str, Members]:
    by_key: dict[str, Members] = {}
    others: list[str] = []
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            if any(is_hidden(part) for part in member.name.split("/") if part not in (".", "..")):
                continue
            key, ending = key_and_ending(member.name)
            if not member.isfile() or ending not in IMAGE_ENDINGS + LABEL_ENDINGS:
                if member.isfile() and ending.rpartition(".")[2] in (*IMAGE_ENDINGS, "cls"):
                    others.append(member.name)
                continue
            if ending in by_key.setdefault(key, {}):
                raise ValueError(f"'{path}' has two of '{key}.{ending}'. Write each sample once.")
            by_key[key][ending] = member
    if _read(file, tar.offset, tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile treats damage as the end
        raise tarfile.ReadError("the data after the last complete member is neither a member nor the end")
    _check_dots(path, others, by_key)
    return by_key


def _check_dots(path: str, others: list[str], by_key: dict[str, Members]) -> None:
    """Raise ValueError if images or labels with extra dots, such as `photo.1.jpg`, seem to be samples.

    `a.seg.png` is not a sample if there is an image of a sample `a` and no label for it.
    """
    labels = {_stem(name) for name in others if name.lower().endswith(".cls")}
    images = {_stem(name) for name in others if not name.lower().endswith(".cls")}

    def is_meant(name: str) -> bool:
        members = by_key.get(key_and_ending(name)[0], {})
        return _stem(name) in labels & images or members.keys().isdisjoint(IMAGE_ENDINGS)

    if meant := [name for name in others if is_meant(name)]:
        key, ending = key_and_ending(meant[0])
        raise ValueError(
            f"'{path}' has {len(meant)} images and labels with a dot inside their names, such as '{meant[0]}': "
            "WebDataset ends a key at the first dot after the folders, so it reads this file as "
            f"'{ending}' of '{key}'. Rename them."
        )


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _sample(path: str, file: BinaryIO, key: str, members: Members) -> _Sample | None:
    """Return one sample; None for JSON without an image and without a label."""
    labelling = next((members[ending] for ending in LABEL_ENDINGS if ending in members), None)
    label = _label(path, file, labelling) if labelling else ""
    images = [member for ending, member in members.items() if ending in IMAGE_ENDINGS]
    if len(images) == 1 and label:
        return _Sample(images[0].name, label, images[0].offset_data, images[0].size)
    if not images and not label:
        return None
    names = ", ".join(member.name for member in members.values())
    raise ValueError(
        f"'{path}' has {names} for key '{key}', but needs one image and one label. Write a KEY.cls for each KEY.jpg."
    )


def _label(path: str, file: BinaryIO, member: tarfile.TarInfo) -> str:
    """Return the label in a member, numbers without leading zeros; empty for JSON without a label."""
    content = _read(file, member.offset_data, member.size)
    try:
        if member.name.lower().endswith("json"):
            sample = json.loads(content)
            keys = [key for key in LABEL_KEYS if key in sample] if isinstance(sample, dict) else []
            value = sample[keys[0]] if keys else None
        else:
            value = content.decode().strip()
        value = int(value) if isinstance(value, str) and value.isdecimal() else value
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{member.name}' in '{path}' cannot be read: {error}. Write a label into it.") from error
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | str) or re.fullmatch(r"-\d+|", str(value)):
        raise ValueError(
            f"'{member.name}' in '{path}' has the label {reprlib.repr(value)}. Use names, or numbers from 0."
        )
    return str(value)


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    """Return `size` bytes of a tar; ReadError if it ends before."""
    file.seek(offset)
    content = file.read(size)
    if len(content) < size:
        raise tarfile.ReadError("it is truncated")
    return content
