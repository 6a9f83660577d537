"""What a data set says of itself: README.md with classes, prompts, model and counts, and a sheet of samples."""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq

from evaluation.pages.html import markdown_code, markdown_text
from generation.recipes.model_files import licence_of
from generation.recipes.recipe import Recipe, recipe_file_text
from generation.sample import NO_LABEL
from generation.shards.datasets import first_samples
from generation.shards.shard_set import ShardSet, index_name
from ray_jobs.job.contact_sheet import write_contact_sheet

NUM_SAMPLES_ON_SHEET = 20
INDICES_READ_AT_ONCE = 16
CARD, SHEET, RECIPE = "README.md", "samples.png", "recipe.json"
MARK = "<!-- written by ray_jobs.generate; take this line out to keep your changes -->"


def write_card(sets: Sequence[ShardSet]) -> None:
    """Write the card of a set and its held-out part, the sheet, and the recipe; a user's own card stays."""
    shards = sets[0]
    shards.storage.write(RECIPE, recipe_file_text(shards.recipe).encode())
    if shards.storage.exists(CARD) and MARK not in shards.storage.read(CARD).decode(errors="replace"):
        return
    there = sorted(set(range(len(shards.ranges))).difference(shards.missing()))
    if 0 not in there:
        return  # there is nothing to show yet
    sheet = io.BytesIO()
    write_contact_sheet(sheet, shards.recipe, first_samples(shards, NUM_SAMPLES_ON_SHEET))
    shards.storage.write(SHEET, sheet.getvalue())
    shards.storage.write(CARD, card_text(sets, there).encode())


def card_text(sets: Sequence[ShardSet], there: Sequence[int]) -> str:
    """Return the card in Markdown, with the header that the Hugging Face hub reads; `there` are the shards to count."""
    shards, recipe = sets[0], sets[0].recipe
    licence = licence_of(recipe.model, recipe.revision) if recipe.model else "none: there is no model"
    labels, num_refused, num_left_out = counts(shards, there)
    held_out = f", and {sets[1].num_images:,} more in held_out/ that are not for training" if len(sets) > 1 else ""
    return f"""---
license: other
task_categories:
- image-classification
tags:
- synthetic
---
{MARK}

# {labels.sum():,} generated images of {recipe.label_space.num_classes} classes

{recipe.image_size} x {recipe.image_size} pixels, as {shards.image_format}{held_out}.
Every image was made by a model from a prompt; none is a photograph.

![The first samples](samples.png)

| | |
|---|---|
{facts(recipe)}
| licence of the model, as it states it | {markdown_text(licence)} |
| images refused by the guard | {num_refused:,} |
| samples left out, as all their images were refused | {num_left_out:,} |

## Files

{len(there)} of {len(shards.ranges)} shards in WebDataset's format, `shard-000000.tar` and so on. A sample is three
files in a shard: `KEY.{shards.image_format}`, `KEY.cls` (its label) and `KEY.json` (its plan: prompt, seed, all else).
`index/` is Parquet: where in which shard each image is, and its SHA-256. With `recipe.json` Figment makes any of them
again (`python -m ray_jobs.regenerate recipe.json`).

## Prompts

{chr(10).join(f"- {markdown_code(template)}" for template in recipe.templates)}

## Classes

| label | class | WordNet id | definition | images |
|---|---|---|---|---|
{class_rows(recipe, labels)}
"""


def class_rows(recipe: Recipe, num_images: np.ndarray) -> str:
    """Return a row of a table for each class, with its number of images, int [num_classes]."""
    return "\n".join(
        f"| {label} | {markdown_text(entry.class_name)} | {markdown_text(entry.wnid)} | "
        f"{markdown_text(entry.definition)} | {num_images[label]:,} |"
        for label, entry in enumerate(recipe.label_space.classes)
    )


def facts(recipe: Recipe) -> str:
    """Return what decides the images, a row of a table each."""
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
        "made at": f"{recipe.generated_size} px",
        "seed": recipe.seed,
        "safety checker": "on" if recipe.safety_checker else "off",
        "left out": f"samples of {recipe.leave_out_after} refused images" if recipe.leave_out_after else "none",
        "recipe, SHA-256": recipe.sha256,
    }
    return "\n".join(f"| {name} | {markdown_text(str(value))} |" for name, value in named.items())


def counts(shards: ShardSet, numbers: Sequence[int]) -> tuple[np.ndarray, int, int]:
    """Return how many images each label has, how many were refused, and how many samples were left out."""

    def read(number: int) -> np.ndarray:
        table = pq.read_table(io.BytesIO(shards.storage.read(index_name(number))), columns=["label", "attempt"])
        labels, num_classes = table["label"].to_numpy(), shards.recipe.label_space.num_classes
        by_label = np.bincount(labels[labels != NO_LABEL], minlength=num_classes)
        return np.array([*by_label, table["attempt"].to_numpy().sum(), (labels == NO_LABEL).sum()])

    with ThreadPoolExecutor(INDICES_READ_AT_ONCE) as threads:
        *labels, num_refused, num_left_out = np.sum(list(threads.map(read, numbers)), axis=0)
    return np.array(labels), int(num_refused), int(num_left_out)
