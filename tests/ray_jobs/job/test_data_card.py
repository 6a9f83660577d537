"""What a data set says of itself: a user's words stay words in its Markdown and its sheet."""

import dataclasses
import io
from html import unescape
from pathlib import Path

from markdown_it import MarkdownIt
from PIL import Image

from generation.recipes.labels import ClassEntry, LabelSpace
from generation.recipes.recipe import Recipe
from generation.sample import NO_LABEL
from generation.shards.config import DataConfig
from generation.shards.shard import ShardWriter
from generation.shards.shard_set import ShardSet, index_name, new_shard_set, shard_name
from generation.shards.storage import Storage
from ray_jobs.job.contact_sheet import write_contact_sheet
from ray_jobs.job.data_card import card_text, counts
from tests.support.samples import PNG, painted_batch, painted_shard

HOSTILE = ["a|b", "$x$", "<script>x</script>", "`tick`", r"back\|slash", "*bold* _it_", "two\nlines", "[a](b)", "&lt;"]


def recipe_of_names(painted: Recipe, *names: str) -> Recipe:
    classes = tuple(ClassEntry(name, wnid=name, lemmas=(name,), definition=f"is {name}") for name in names)
    return dataclasses.replace(painted, label_space=LabelSpace("hostile", classes), templates=("{lemmas} `a`\n| b",))


def kept(recipe: Recipe, folder: Path, num_images: int) -> ShardSet:
    """Return a whole set of one shard."""
    data = DataConfig(shard_size=num_images)
    shards = new_shard_set(Storage(str(folder)), recipe, range(num_images), num_images, data)
    shard = painted_shard(recipe, range(num_images), batch_size=num_images)
    shards.storage.write(shard_name(0), shard.tar)
    shards.storage.write(index_name(0), shard.index_file())
    return shards


def test_hostile_names_stay_cells_of_the_cards_table(painted: Recipe, tmp_path: Path):
    recipe = dataclasses.replace(recipe_of_names(painted, *HOSTILE), negative_prompt="a | b")
    card = card_text([kept(recipe, tmp_path, len(HOSTILE))], [0])
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(card.split("---\n", 2)[2])
    rows = [row.split("</td>") for row in html.split("<tbody>")[-1].split("<tr>")[1:]]
    shown = [[unescape(cell.replace("<td>", "").strip()) for cell in row] for row in rows]
    names = [" ".join(name.split()) for name in HOSTILE]
    assert [row[:4] for row in shown] == [[str(i), name, name, f"is {name}"] for i, name in enumerate(names)]
    assert "<td>a | b</td>" in html
    assert "<li><code>{lemmas} `a` | b</code></li>" in html
    assert r"\$x\$" in card  # GitHub and the Hugging Face hub set formulas


def test_samples_that_are_left_out_are_counted_and_are_no_images(painted: Recipe, tmp_path: Path):
    shards = kept(dataclasses.replace(painted, leave_out_after=3), tmp_path, 10)
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
    assert "| samples left out, as all their images were refused | 1 |" in card


def test_names_on_the_sheet_are_no_formulas(painted: Recipe):
    formula = r"$\nosuchcommand$"  # as a formula it is an error of Matplotlib's
    recipe = dataclasses.replace(recipe_of_names(painted, formula, "other"), model=formula)
    sheet = io.BytesIO()
    write_contact_sheet(sheet, recipe, painted_batch(recipe, range(2)))
    assert Image.open(sheet).width > 500
