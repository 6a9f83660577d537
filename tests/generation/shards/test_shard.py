import dataclasses
import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from generation.recipes.config import RecipeConfig
from generation.recipes.plan import describe_sample, plan_sample
from generation.recipes.recipe import Recipe, build_recipe, canonical_json
from generation.sample import NO_LABEL, SampleBatch
from generation.shards.shard import (
    DamagedShardError,
    ImageFormat,
    Shard,
    ShardWriter,
    byte_range,
    decode_samples,
    find_problems,
    index_from_tar,
    members_of,
    open_index,
    sha256,
)
from tests.support.samples import PNG, painted_batch, painted_shard

NAME = "shard-000000.tar"
TEN = range(20, 30)


def read(shard: Shard, rows: list[int], image_size: int = 16) -> SampleBatch:
    """Return samples, decoded from only the bytes they need."""
    chosen = shard.index.take(rows)
    start, stop = byte_range(chosen)
    return decode_samples(shard.tar[start:stop], chosen, image_size)


def test_shard_returns_each_image_with_its_label(painted: Recipe):
    shard = painted_shard(painted, TEN)
    batch = painted_batch(painted, TEN)
    shard = dataclasses.replace(shard, index=open_index(shard.index_file(), painted, TEN, NAME))
    samples = read(shard, [3, 0, 9])
    for name, dtype in (("index", np.int64), ("label", np.int64), ("attempt", np.int8), ("image", np.uint8)):
        np.testing.assert_array_equal(samples[name], batch[name][[3, 0, 9]])
        assert samples[name].dtype == dtype


def test_shard_bytes_do_not_depend_on_batches(painted: Recipe):
    first, second = painted_shard(painted, TEN, batch_size=4), painted_shard(painted, TEN, batch_size=10)
    assert first.tar == second.tar
    assert first.index_file() == second.index_file()


def test_json_of_a_sample_has_its_plan_and_recipe(painted: Recipe, tmp_path: Path):
    (tmp_path / NAME).write_bytes(painted_shard(painted, TEN).tar)
    subprocess.run(["tar", "-xf", NAME], cwd=tmp_path, check=True)
    assert len(list(tmp_path.glob("*.png"))) == 10
    plan = plan_sample(painted, 23)
    described = json.loads((tmp_path / "0000000000023.json").read_text())
    assert described == json.loads(json.dumps(describe_sample(painted, plan)))
    assert described["recipe_sha256"] == painted.sha256
    assert (tmp_path / "0000000000023.cls").read_text() == str(plan.label)
    image = np.asarray(Image.open(tmp_path / "0000000000023.png"))
    np.testing.assert_array_equal(image, painted_batch(painted, range(23, 24))["image"][0])


def test_index_has_the_location_of_each_image(painted: Recipe):
    shard = painted_shard(painted, TEN)
    index = pq.read_table(io.BytesIO(shard.index_file()))
    assert index.column_names == ["index", "label", "attempt", "shard", "offset", "num_bytes", "sha256"]
    row = index.to_pylist()[4]
    image = shard.tar[row["offset"] : row["offset"] + row["num_bytes"]]
    assert (row["index"], row["shard"], row["sha256"]) == (24, NAME, sha256(image))
    np.testing.assert_array_equal(Image.open(io.BytesIO(image)), painted_batch(painted, TEN)["image"][4])
    assert index_from_tar(shard.tar, NAME).equals(index)


def test_webdataset_reads_a_shard(painted: Recipe, tmp_path: Path):
    (tmp_path / NAME).write_bytes(painted_shard(painted, TEN).tar)
    dataset: Any = (
        vars(webdataset)["WebDataset"](str(tmp_path / NAME), shardshuffle=False).decode("rgb8").to_tuple("png", "cls")
    )
    images, labels = zip(*dataset, strict=True)
    batch = painted_batch(painted, TEN)
    assert list(labels) == batch["label"].tolist()
    np.testing.assert_array_equal(np.stack(images), batch["image"])


@pytest.mark.parametrize(
    ("image_format", "most_apart"),
    [(PNG, 0), (ImageFormat("webp", 0), 0), (ImageFormat("webp", 95), 40), (ImageFormat("jpg", 95), 40)],
)
def test_images_are_stored_losslessly_unless_quality_is_set(image_format: ImageFormat, most_apart: int):
    recipe = build_recipe(RecipeConfig(generator="painted", image_size=32, num_inference_steps=1))
    shard = painted_shard(recipe, TEN, image_format=image_format)
    made, kept = painted_batch(recipe, TEN)["image"], read(shard, list(range(10)), image_size=32)["image"]
    difference = np.abs(made.astype(int) - kept.astype(int))
    assert difference.mean() <= most_apart
    assert (difference.max() > 0) == (most_apart > 0)
    assert not find_problems(shard.tar, shard.index_file(), recipe, TEN, NAME)


def changed(tar: bytes, member: str, content: bytes) -> bytes:
    """Return the tar with a member's bytes replaced by as many others."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as members:
        offset = members.getmember(member).offset_data
        assert members.getmember(member).size == len(content)
    return tar[:offset] + content + tar[offset + len(content) :]


def test_problems_name_the_sample(painted: Recipe):
    shard = painted_shard(painted, TEN)
    index_file = shard.index_file()

    def problems(tar: bytes, recipe: Recipe = painted, indices: range = TEN) -> list[str]:
        return find_problems(tar, index_file, recipe, indices, NAME)

    assert problems(shard.tar) == []
    row = shard.index.to_pylist()[4]
    damaged = bytearray(shard.tar[row["offset"] : row["offset"] + row["num_bytes"]])
    damaged[50] ^= 1
    assert problems(changed(shard.tar, "0000000000024.png", bytes(damaged))) == [
        "sample 24: the image does not match its SHA-256"
    ]
    other_label = b"1" if plan_sample(painted, 25).label == 0 else b"0"
    assert problems(changed(shard.tar, "0000000000025.cls", other_label)) == [
        "sample 25: .cls does not match the recipe"
    ]
    another = dataclasses.replace(painted, seed=1)
    assert len([text for text in problems(shard.tar, another) if ".json does not match the recipe" in text]) == 10
    assert "truncated" in problems(shard.tar[:9000])[0]
    assert problems(shard.tar, indices=range(30, 40)) == [f"{NAME} does not contain samples 30 to 39"]
    assert "cannot be read" in problems(b"no tar at all" * 100)[0]
    assert "cannot be read" in find_problems(shard.tar, b"no parquet", painted, TEN, NAME)[0]


def test_undecodable_image_is_a_problem(painted: Recipe):
    shard = painted_shard(painted, TEN)
    row = shard.index.to_pylist()[0]
    broken = changed(shard.tar, "0000000000020.png", b"x" * row["num_bytes"])
    index = index_from_tar(broken, NAME)  # as if written this way: hashes match
    file = dataclasses.replace(shard, tar=broken, index=index).index_file()
    assert any(
        "sample 20: the image cannot be decoded" in text for text in find_problems(broken, file, painted, TEN, NAME)
    )


def test_image_that_does_not_match_the_index_is_not_returned(painted: Recipe):
    shard = painted_shard(painted, TEN)
    damaged = dataclasses.replace(shard, tar=changed(shard.tar, "0000000000024.cls", b"x"))
    np.testing.assert_array_equal(read(damaged, [4])["image"], read(shard, [4])["image"])  # labels come from the index
    row = shard.index.to_pylist()[4]
    broken = dataclasses.replace(shard, tar=changed(shard.tar, "0000000000024.png", b"x" * row["num_bytes"]))
    with pytest.raises(DamagedShardError, match="sample 24: the image does not match its SHA-256"):
        read(broken, [3, 4])
    with pytest.raises(DamagedShardError, match="sample 24: the image does not match its SHA-256"):
        decode_samples(shard.tar[row["offset"] : row["offset"] + 20], shard.index.take([4]), 16)  # truncated
    np.testing.assert_array_equal(read(broken, [3, 5])["image"], read(shard, [3, 5])["image"])


def test_index_with_a_flipped_bit_is_not_opened(painted: Recipe):
    index_file = painted_shard(painted, TEN).index_file()
    opened = open_index(index_file, painted, TEN, NAME)
    for place in range(len(index_file)):
        damaged = bytearray(index_file)
        damaged[place] ^= 1 << place % 8
        try:
            again = open_index(bytes(damaged), painted, TEN, NAME)
        except DamagedShardError:
            continue
        assert again.equals(opened)  # a bit without meaning, such as the name of the writing library


def test_wrong_label_in_the_index_is_a_problem(painted: Recipe):
    shard = painted_shard(painted, TEN)
    labels = [(label + 1) % 10 for label in shard.index["label"].to_pylist()]
    index = shard.index.set_column(1, shard.index.schema.field("label"), [labels])
    index_file = dataclasses.replace(shard, index=index).index_file()  # as if written this way: hashes match
    assert find_problems(shard.tar, index_file, painted, TEN, NAME) == [
        f"the index of {NAME} does not match its samples"
    ]


def test_index_of_another_recipe_or_other_samples_is_not_opened(painted: Recipe):
    index_file = painted_shard(painted, TEN).index_file()
    another = dataclasses.replace(painted, seed=1)
    with pytest.raises(DamagedShardError, match=r"shard-000000\.tar was generated from a different recipe"):
        open_index(index_file, another, TEN, NAME)
    with pytest.raises(DamagedShardError, match=r"shard-000000\.tar does not contain samples 21 to 29"):
        open_index(index_file, painted, range(21, 30), NAME)
    with pytest.raises(DamagedShardError, match=r"The index of shard-000000\.tar cannot be read"):
        open_index(b"", painted, TEN, NAME)
    assert open_index(index_file, painted, range(20, 27), NAME).num_rows == 10


def test_tar_with_samples_of_two_recipes_is_not_a_shard(painted: Recipe):
    shard = painted_shard(painted, TEN)
    other_hash = b"f" * 64
    described = json.loads(members_of(shard.tar)["0000000000023"]["json"].content)
    text = canonical_json(described).encode().replace(painted.sha256.encode(), other_hash)
    with pytest.raises(DamagedShardError, match="its samples come from 2 recipes"):
        index_from_tar(changed(shard.tar, "0000000000023.json", text), NAME)


def shard_without(recipe: Recipe, *left_out: int) -> Shard:
    """Return a shard of ten samples, some of them left out after three refused images."""
    batch = painted_batch(recipe, TEN)
    for index in left_out:
        row = index - TEN.start
        batch["label"][row], batch["attempt"][row], batch["image"][row] = NO_LABEL, 3, 0
    writer = ShardWriter(recipe, NAME, PNG)
    writer.add(batch)
    return writer.finish()


@pytest.mark.parametrize("left_out", [(20, 25), (29,), tuple(TEN)])
def test_left_out_samples_are_only_in_the_index_and_have_no_label(left_out: tuple[int, ...], painted: Recipe):
    shard = shard_without(painted, *left_out)
    assert [int(key) for key in members_of(shard.tar)] == [index for index in TEN if index not in left_out]
    assert find_problems(shard.tar, shard.index_file(), painted, TEN, NAME) == []
    shard = dataclasses.replace(shard, index=open_index(shard.index_file(), painted, TEN, NAME))
    samples, whole = read(shard, list(range(10))), painted_batch(painted, TEN)
    assert samples["index"].tolist() == list(TEN)
    is_lost = np.isin(TEN, left_out)
    assert samples["label"][is_lost].tolist() == [NO_LABEL] * len(left_out)
    assert samples["attempt"][is_lost].tolist() == [3] * len(left_out)
    assert not samples["image"][is_lost].any()
    np.testing.assert_array_equal(samples["label"][~is_lost], whole["label"][~is_lost])
    np.testing.assert_array_equal(samples["image"][~is_lost], whole["image"][~is_lost])
    lost = read(shard, [left_out[0] - TEN.start])
    assert lost["label"].tolist() == [NO_LABEL]


def test_sample_missing_from_the_tar_is_not_a_left_out_sample(painted: Recipe):
    whole, incomplete = shard_without(painted), shard_without(painted, 25)
    assert find_problems(incomplete.tar, whole.index_file(), painted, TEN, NAME) == [
        f"{NAME} does not contain samples 20 to 29"
    ]
    assert find_problems(whole.tar, incomplete.index_file(), painted, TEN, NAME) == [
        f"{NAME} does not contain samples 20 to 29"
    ]


def scored_shard(painted: Recipe) -> tuple[Recipe, SampleBatch, Shard]:
    """Return a recipe with a check, ten of its samples, the third left out, and their shard."""
    recipe = dataclasses.replace(painted, check="timm:resnet18")
    batch = painted_batch(painted, TEN)
    batch["label"][2], batch["attempt"][2], batch["image"][2] = NO_LABEL, 3, 0
    batch["score"] = np.array([0.1, 1, 0, 0.333, 0.5, 0.6, 0.7, 0.8, 0.9, 0], np.float32)
    writer = ShardWriter(recipe, NAME, PNG)
    writer.add(batch)
    return recipe, batch, writer.finish()


def test_scores_are_in_the_index_and_the_json(painted: Recipe):
    recipe, batch, shard = scored_shard(painted)
    assert find_problems(shard.tar, shard.index_file(), recipe, TEN, NAME) == []
    shard = dataclasses.replace(shard, index=open_index(shard.index_file(), recipe, TEN, NAME))
    samples = read(shard, [3, 2, 9])
    assert samples.keys() == batch.keys()
    np.testing.assert_array_equal(samples["score"], batch["score"][[3, 2, 9]])  # pyright: ignore
    assert samples["score"].dtype == np.float32  # pyright: ignore[reportTypedDictNotRequiredAccess]
    assert json.loads(members_of(shard.tar)["0000000000023"]["json"].content)["score"] == 0.333


def test_score_that_differs_from_the_json_is_a_problem(painted: Recipe):
    recipe, _, shard = scored_shard(painted)
    scores = shard.index["score"].to_pylist()
    index = shard.index.set_column(7, "score", pa.array([0.2, *scores[1:]], pa.float32()))
    changed = dataclasses.replace(shard, index=index).index_file()
    assert find_problems(shard.tar, changed, recipe, TEN, NAME) == ["sample 20: .json does not match the recipe"]
