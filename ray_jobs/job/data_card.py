"""The card of a data set: README.md with classes, prompts, model and counts, and a sheet of samples.

The card's YAML front matter lets the Hugging Face hub and `datasets.load_dataset` read the shards.
"""

import io
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq
import yaml

from evaluation.pages.html import markdown_code, markdown_text
from generation.recipes.model_files import licence_of
from generation.recipes.recipe import Recipe, recipe_file_text
from generation.sample import NO_LABEL
from generation.shards.datasets import first_samples
from generation.shards.shard_set import HELD_OUT_FOLDER, ShardSet, index_name
from ray_jobs.job.contact_sheet import write_contact_sheet

NUM_SAMPLES_ON_SHEET = 20
INDEX_READ_THREADS = 16
CARD, SHEET, RECIPE = "README.md", "samples.png", "recipe.json"
MARK = "<!-- written by ray_jobs.generate; take this line out to keep your changes -->"


def write_card(sets: Sequence[ShardSet]) -> None:
    """Write the card, the sheet of samples and the recipe of a data set; never overwrite a user's own card.

    `sets` are the training set and, optionally, the held-out set.
    """
    shards = sets[0]
    shards.storage.write(RECIPE, recipe_file_text(shards.recipe).encode())
    if shards.storage.exists(CARD) and MARK not in shards.storage.read(CARD).decode(errors="replace"):
        return
    complete = sorted(set(range(len(shards.ranges))).difference(shards.missing()))
    if 0 not in complete:
        return  # no samples to show yet
    sheet = io.BytesIO()
    write_contact_sheet(sheet, shards.recipe, first_samples(shards, NUM_SAMPLES_ON_SHEET))
    shards.storage.write(SHEET, sheet.getvalue())
    shards.storage.write(CARD, card_text(sets, complete).encode())


def card_text(sets: Sequence[ShardSet], complete: Sequence[int]) -> str:
    """Return the card in Markdown with its front matter; `complete` lists the training shards to count."""
    shards, recipe = sets[0], sets[0].recipe
    licence = licence_of(recipe.model, recipe.revision) if recipe.model else "none: there is no model"
    labels, num_refused, num_left_out = counts(shards, complete)
    held_out = f", and {sets[1].num_images:,} more in held_out/ that are not for training" if len(sets) > 1 else ""
    return f"""---
{front_matter(sets)}---
{MARK}

# {labels.sum():,} generated images of {recipe.label_space.num_classes} classes

{recipe.image_size} x {recipe.image_size} pixels, as {shards.image_format}{held_out}.
Every image was made by a model from a prompt; none is a photograph.

![The first samples](samples.png)

| | |
|---|---|
{facts(recipe)}
| model license | {markdown_text(licence)} |
| images refused by the guard | {num_refused:,} |
| samples left out (every image refused) | {num_left_out:,} |

## Files

{len(complete)} of {len(shards.ranges)} shards in WebDataset format, `shard-000000.tar` and so on. A sample is three
files in a shard: `KEY.{shards.image_format}`, `KEY.cls` (its label) and `KEY.json` (its plan: prompt, seed and all
other inputs). `index/` has one Parquet file per shard with the byte offset and SHA-256 of each image. Figment can
regenerate any image from `recipe.json` (`python -m ray_jobs.regenerate recipe.json`).

## Loading

`FOLDER` is a local copy of this folder.

{loading_code(shards.image_format, [split["split"] for split in splits(sets)])}

## Prompts

{chr(10).join(f"- {markdown_code(template)}" for template in recipe.templates)}

## Classes

| label | class | WordNet id | definition | images |
|---|---|---|---|---|
{class_rows(recipe, labels)}
"""


def front_matter(sets: Sequence[ShardSet]) -> str:
    """Return the card's YAML: license, tags, and the splits and columns for `datasets.load_dataset`.

    Without `configs`, `datasets` would load the index files. Without `features`, it would infer int64 for the plan's
    noise seed, a uint64, and fail. Columns that are not listed are dropped.
    """
    shards, names = sets[0], unique_class_names(sets[0].recipe)
    features = [
        {"name": shards.image_format, "dtype": "image"},
        {"name": "cls", "dtype": {"class_label": {"names": {str(label): name for label, name in enumerate(names)}}}},
        {"name": "json", "struct": [{"name": "prompt", "dtype": "string"}]},
        {"name": "__key__", "dtype": "string"},
    ]
    value = {
        "license": "other",
        "task_categories": ["image-classification"],
        "tags": ["synthetic"],
        "configs": [{"config_name": "default", "data_files": splits(sets)}],
        "dataset_info": {"features": features},
    }
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=10**6)


def splits(sets: Sequence[ShardSet]) -> list[dict[str, str]]:
    """Return the splits with at least one shard, and the pattern of their shards; `datasets` requires a match."""
    found = [{"split": "train", "path": "shard-*.tar"}]
    if len(sets) > 1 and len(sets[1].missing()) < len(sets[1].ranges):
        found.append({"split": HELD_OUT_FOLDER, "path": f"{HELD_OUT_FOLDER}/shard-*.tar"})
    return found


def unique_class_names(recipe: Recipe) -> list[str]:
    """Return a unique name for each label, as `datasets.ClassLabel` requires: a shared name is followed by its wnid."""
    names = [" ".join(entry.class_name.split()) for entry in recipe.label_space.classes]
    num_uses = Counter(names)
    return [
        name if num_uses[name] == 1 else f"{name} ({entry.wnid or label})"
        for label, (name, entry) in enumerate(zip(names, recipe.label_space.classes, strict=True))
    ]


def loading_code(image_format: str, split_names: Sequence[str]) -> str:
    """Return Markdown with one Python block per library that reads the shards; each block defines `images`."""
    ray_note = "" if image_format != "webp" else "  # Ray Data does not decode webp: images are bytes"
    return f"""With Hugging Face Datasets (splits: {", ".join(split_names)}); `images.features["cls"].names` are the
class names:

```python
from datasets import load_dataset

images = load_dataset("FOLDER", split="train")  # images[0]["{image_format}"], images[0]["cls"]
```

With webdataset:

```python
from glob import glob

import webdataset

shards = sorted(glob("FOLDER/shard-*.tar"))
images = webdataset.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple("{image_format}", "cls")
```

With Ray Data:

```python
from glob import glob

import ray

shards = sorted(glob("FOLDER/shard-*.tar"))
images = ray.data.read_webdataset(shards, suffixes=["{image_format}", "cls"]){ray_note}
```"""


def class_rows(recipe: Recipe, num_images: np.ndarray) -> str:
    """Return a Markdown table row per class with its number of images; `num_images` is int [num_classes]."""
    return "\n".join(
        f"| {label} | {markdown_text(entry.class_name)} | {markdown_text(entry.wnid)} | "
        f"{markdown_text(entry.definition)} | {num_images[label]:,} |"
        for label, entry in enumerate(recipe.label_space.classes)
    )


def facts(recipe: Recipe) -> str:
    """Return the recipe's settings as Markdown table rows."""
    named = {
        "model": recipe.model or f"none ({recipe.generator})",
        "revision": recipe.revision or "-",
        "decoder": recipe.vae or "the model's own",
        "LoRA": ", ".join(name for name, _, _ in recipe.loras) or "none",
        "steps": recipe.num_inference_steps,
        "scheduler": recipe.scheduler,
        "guidance scale": ", ".join(f"{scale:g}" for scale in recipe.guidance_scale),
        "negative prompt": recipe.negative_prompt or "none",
        "precision": recipe.precision,
        "generated at": f"{recipe.generated_size} px",
        "seed": recipe.seed,
        "safety checker": "on" if recipe.safety_checker else "off",
        "left out": f"samples with {recipe.leave_out_after} refused images" if recipe.leave_out_after else "none",
        "recipe, SHA-256": recipe.sha256,
    }
    return "\n".join(f"| {name} | {markdown_text(str(value))} |" for name, value in named.items())


def counts(shards: ShardSet, numbers: Sequence[int]) -> tuple[np.ndarray, int, int]:
    """Return images per label (int [num_classes]), the number of refused images, and of samples left out."""

    def read(number: int) -> np.ndarray:
        table = pq.read_table(io.BytesIO(shards.storage.read(index_name(number))), columns=["label", "attempt"])
        labels, num_classes = table["label"].to_numpy(), shards.recipe.label_space.num_classes
        by_label = np.bincount(labels[labels != NO_LABEL], minlength=num_classes)
        return np.array([*by_label, table["attempt"].to_numpy().sum(), (labels == NO_LABEL).sum()])

    with ThreadPoolExecutor(INDEX_READ_THREADS) as threads:
        *labels, num_refused, num_left_out = np.sum(list(threads.map(read, numbers)), axis=0)
    return np.array(labels), int(num_refused), int(num_left_out)
