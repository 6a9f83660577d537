"""The card of a data set: user text stays text in Markdown, YAML and plots; other libraries load the shards."""

import dataclasses
import io
import re
from collections.abc import Sequence
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from markdown_it import MarkdownIt
from PIL import Image

from generation.recipes.labels import ClassEntry, LabelSpace
from generation.recipes.plan import plan_sample
from generation.recipes.recipe import Recipe
from generation.sample import NO_LABEL
from generation.shards.config import DataConfig
from generation.shards.shard import ShardWriter
from generation.shards.shard_set import HELD_OUT_FOLDER, ShardSet, index_name, new_shard_set, shard_name
from generation.shards.storage import Storage
from ray_jobs.job.contact_sheet import write_contact_sheet
from ray_jobs.job.data_card import CARD, card_text, counts, write_card
from tests.support.samples import PNG, painted_batch, painted_shard

HOSTILE = ["a|b", "$x$", "<script>x</script>", "`tick`", r"back\|slash", "*bold* _it_", "two\nlines", "[a](b)", "&lt;"]


def recipe_of_names(painted: Recipe, *names: str) -> Recipe:
    classes = tuple(ClassEntry(name, wnid=name, lemmas=(name,), definition=f"is {name}") for name in names)
    return dataclasses.replace(painted, label_space=LabelSpace("hostile", classes), templates=("{lemmas} `a`\n| b",))


def one_shard_set(recipe: Recipe, folder: Path, num_images: int) -> ShardSet:
    """Return a complete set with one shard."""
    data = DataConfig(shard_size=num_images)
    shards = new_shard_set(Storage(str(folder)), recipe, range(num_images), num_images, data)
    shard = painted_shard(recipe, range(num_images), batch_size=num_images)
    shards.storage.write(shard_name(0), shard.tar)
    shards.storage.write(index_name(0), shard.index_file())
    return shards


def test_hostile_class_names_stay_table_cells(painted: Recipe, tmp_path: Path):
    recipe = dataclasses.replace(recipe_of_names(painted, *HOSTILE), negative_prompt="a | b")
    card = card_text([one_shard_set(recipe, tmp_path, len(HOSTILE))], [0])
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(card.split("---\n", 2)[2])
    rows = [row.split("</td>") for row in html.split("<tbody>")[-1].split("<tr>")[1:]]
    shown = [[unescape(cell.replace("<td>", "").strip()) for cell in row] for row in rows]
    names = [" ".join(name.split()) for name in HOSTILE]
    assert [row[:4] for row in shown] == [[str(i), name, name, f"is {name}"] for i, name in enumerate(names)]
    assert "<td>a | b</td>" in html
    assert "<li><code>{lemmas} `a` | b</code></li>" in html
    assert r"\$x\$" in card  # GitHub and the Hugging Face hub render formulas


def test_left_out_samples_are_counted_but_are_not_images(painted: Recipe, tmp_path: Path):
    shards = one_shard_set(dataclasses.replace(painted, leave_out_after=3), tmp_path, 10)
    batch = painted_batch(shards.recipe, range(10))
    lost = int(batch["label"][4])
    batch["label"][4], batch["attempt"][4], batch["attempt"][5] = NO_LABEL, 3, 1
    writer = ShardWriter(shards.recipe, shard_name(0), PNG)
    writer.add(batch)
    shards.storage.write(index_name(0), writer.finish().index_file())
    labels, num_refused, num_left_out = counts(shards, [0])
    assert labels.tolist() == [int(label != lost) for label in range(10)]
    assert (num_refused, num_left_out) == (4, 1)
    card = card_text([shards], [0])
    assert "# 9 generated images of 10 classes" in card
    assert "| samples left out (every image refused) | 1 |" in card


def test_names_on_the_sheet_are_not_formulas(painted: Recipe):
    formula = r"$\nosuchcommand$"  # Matplotlib fails to parse it as a formula
    recipe = dataclasses.replace(recipe_of_names(painted, formula, "other"), model=formula)
    sheet = io.BytesIO()
    write_contact_sheet(sheet, recipe, painted_batch(recipe, range(2)))
    assert Image.open(sheet).width > 500


def front_matter_of(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n", 2)[1])


def class_names_in(card: str) -> list[str]:
    (column,) = [column for column in front_matter_of(card)["dataset_info"]["features"] if column["name"] == "cls"]
    names = column["dtype"]["class_label"]["names"]
    return [names[str(label)] for label in range(len(names))]


def test_front_matter_has_each_class_name_once(painted: Recipe, tmp_path: Path):
    card = card_text([one_shard_set(recipe_of_names(painted, *HOSTILE), tmp_path / "hostile", len(HOSTILE))], [0])
    assert class_names_in(card) == [" ".join(name.split()) for name in HOSTILE]
    classes = (ClassEntry("crane", wnid="n02012849"), ClassEntry("crane", wnid="n03126707"), ClassEntry("yes"))
    cranes = dataclasses.replace(painted, label_space=LabelSpace("cranes", classes), templates=("a photo",))
    card = card_text([one_shard_set(cranes, tmp_path / "cranes", 3)], [0])
    assert class_names_in(card) == ["crane (n02012849)", "crane (n03126707)", "yes"]


def test_front_matter_lists_a_split_only_if_it_has_shards(painted: Recipe, tmp_path: Path):
    train = one_shard_set(painted, tmp_path, 4)
    empty = new_shard_set(Storage(str(tmp_path / HELD_OUT_FOLDER)), painted, range(100, 104), 4, DataConfig())
    for sets in ([train], [train, empty]):
        (config,) = front_matter_of(card_text(sets, [0]))["configs"]
        assert config["data_files"] == [{"split": "train", "path": "shard-*.tar"}]
    held_out = one_shard_set(painted, tmp_path / HELD_OUT_FOLDER, 4)
    (config,) = front_matter_of(card_text([train, held_out], [0]))["configs"]
    assert config["data_files"][1] == {"split": "held_out", "path": "held_out/shard-*.tar"}


@pytest.fixture
def data_set(painted: Recipe, tmp_path: Path) -> Path:
    """A folder with a card, ten training images in shards of four, and six held-out images."""
    sets = []
    for folder, indices in ((tmp_path, range(10)), (tmp_path / HELD_OUT_FOLDER, range(2**40, 2**40 + 6))):
        shards = new_shard_set(Storage(str(folder)), painted, indices, 2, DataConfig(shard_size=4))
        for number, held in enumerate(shards.ranges):
            shards.store(number, painted_shard(painted, held))
        sets.append(shards)
    write_card(sets)
    return tmp_path


def run_code_of_card(folder: Path, library: str) -> Any:
    """Run the card's code block that imports this library, and return its `images`."""
    blocks = re.findall(r"```python\n(.*?)```", (folder / CARD).read_text(), re.DOTALL)
    (code,) = [block for block in blocks if re.search(rf"^(import|from) {library}\b", block, re.MULTILINE)]
    names: dict[str, Any] = {}
    exec(code.replace("FOLDER", str(folder)), names)
    return names["images"]


def assert_are_samples(recipe: Recipe, indices: range, images: Sequence[Any], labels: Sequence[int]) -> None:
    expected = painted_batch(recipe, indices)
    assert list(labels) == expected["label"].tolist()
    np.testing.assert_array_equal(np.stack([np.asarray(image) for image in images]), expected["image"])


def test_webdataset_loads_shards_with_the_code_of_the_card(painted: Recipe, data_set: Path):
    images, labels = zip(*run_code_of_card(data_set, "webdataset"), strict=True)
    assert_are_samples(painted, range(10), images, labels)


@pytest.mark.ray
@pytest.mark.nightly
@pytest.mark.usefixtures("ray_cluster")
def test_ray_data_loads_shards_with_the_code_of_the_card(painted: Recipe, data_set: Path):
    rows = sorted(run_code_of_card(data_set, "ray").take_all(), key=lambda row: row["__key__"])
    assert "json" not in rows[0]
    assert_are_samples(painted, range(10), [row["png"] for row in rows], [int(row["cls"]) for row in rows])


def test_hugging_face_datasets_loads_both_splits_with_class_names(painted: Recipe, data_set: Path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="Hugging Face Datasets is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", data_set / "cache")
    train = run_code_of_card(data_set, "datasets")
    assert train.features["cls"].names == list(painted.label_space.class_names)
    assert_are_samples(painted, range(10), train["png"], train["cls"])
    assert train[3]["json"] == {"prompt": plan_sample(painted, 3).prompt}
    splits = datasets.load_dataset(str(data_set))
    assert set(splits) == {"train", "held_out"}
    held_out = splits["held_out"]
    assert_are_samples(painted, range(2**40, 2**40 + 6), held_out["png"], held_out["cls"])
